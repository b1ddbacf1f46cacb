"""Orders in which the tokens of an image are decoded (section 4.2, Table 3 and Figure A of arXiv 2412.01827).

An order is a permutation of raster positions: `order[i]` is the position decoded i-th. Every order here is the argsort
of one number per position, its key. Shapes: B batch, N = height * width positions of one image.
"""

import difflib
from collections.abc import Sequence
from typing import Any

import torch

from .checks import check_int
from .randomness import uniform


def make_order(
    name: str,
    height: int,
    width: int,
    batch_size: int = 1,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> torch.Tensor:
    """Make one decoding order per image.

    Args:
        name: one of `ORDER_NAMES`. `random`, `hierarchical` (positions with an even row and an even column first),
            `center_first` (the middle half x half first) and `border_first` (that middle last) sample a new order
            for each image; the others are fixed.
        height: rows of the token grid, at least 1.
        width: columns of the token grid, at least 1.
        batch_size: number of images B, at least 1.
        generator: None (torch's default CPU generator), one generator from which the images sample one after another,
            or a list with one per image; fixed orders do not use it.

    Returns:
        (B, N) LongTensor on the CPU whose rows are permutations of 0..N-1.

    Raises:
        TypeError: if `generator` is or holds anything but generators.
        ValueError: if the name is unknown, a size is no positive integer or a list of generators has another length.
    """
    height, width = check_int("height", height, 1), check_int("width", width, 1)
    batch_size = check_int("batch_size", batch_size, 1)
    if name in _RANDOM_CLASSES:
        keys = _RANDOM_CLASSES[name](height, width) + uniform((height * width,), batch_size, generator)  # (B, N)
    elif name in _FIXED_KEYS:
        keys = _FIXED_KEYS[name](height, width).expand(batch_size, -1)  # (B, N)
    else:
        near = difflib.get_close_matches(str(name), ORDER_NAMES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`order` must be one of {', '.join(ORDER_NAMES)}, got {name!r}.{hint}")
    return keys.argsort(dim=1, stable=True)


def check_order(order: Any, num_tokens: int, batch_size: int) -> torch.Tensor:
    """Check an order given by the user and give every image its row.

    Args:
        order: (N,) for all images or (B, N), one row per image: an integer tensor, an array or a nested list.
        num_tokens: positions of one image, N.
        batch_size: number of images, B.

    Returns:
        (B, N) LongTensor on the device of `order`.

    Raises:
        TypeError: if `order` holds no integers.
        ValueError: if it has another shape or a row is no permutation of 0..N-1.
    """
    try:
        # A tensor stays where it is, whatever the default device.
        order = order if isinstance(order, torch.Tensor) else torch.as_tensor(order, device="cpu")
    except ValueError as error:
        raise ValueError(f"`order` must hold integers in rows of the same length: {error}.") from error
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"`order` must be an integer tensor, array or nested list, got {order!r}.") from error
    if tuple(order.shape) not in {(num_tokens,), (batch_size, num_tokens)}:
        raise ValueError(
            f"`order` must have the shape ({num_tokens},), shared by all images, or ({batch_size}, {num_tokens}), "
            f"one row per image, got {tuple(order.shape)}."
        )
    if order.is_floating_point() or order.is_complex() or order.dtype == torch.bool:
        raise TypeError(f"`order` must hold integers, got {order.dtype}.")
    order = order.long().expand(batch_size, num_tokens)  # (B, N)
    positions = torch.arange(num_tokens, device=order.device)  # (N,)
    wrong_rows = (order.sort(dim=1).values != positions).any(dim=1).nonzero().flatten().tolist()
    if wrong_rows:
        missing = positions[torch.isin(positions, order[wrong_rows[0]], invert=True)].tolist()
        raise ValueError(
            f"`order` must hold every position from 0 to {num_tokens - 1} once in each row, "
            f"but row {wrong_rows[0]} lacks {len(missing)} of them, the first being {missing[0]}."
        )
    return order


def check_fixed_order(order: torch.Tensor | str, name: str | None, height: int, width: int, rule: str | None = None):
    """Check that a model with one order gets the positions in it.

    Args:
        order: (B, N), the positions in the order asked for, or the name of an order.
        name: of the model's order; None for a model of any order, which passes every one.
        height: rows of the token grid.
        width: columns of the token grid.
        rule: how the message begins, by default what `order` must be.

    Raises:
        ValueError: if the order is another.
    """
    if name is None:
        return
    if isinstance(order, str) and order in FIXED_ORDER_NAMES:
        order = make_order(order, height, width)
    if not isinstance(order, str) and (order.cpu() == make_order(name, height, width)).all():
        return
    raise ValueError(
        f"{rule or f'`order` must be {name!r}'} for this model, which goes in the order {name!r} alone; "
        "a RandAR model (RandARPipeline, RandARInpaintPipeline) goes in any."
    )


def known_first(order: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Move the known positions to the front of an order; within each part it stays as it was.

    Args:
        order: (B, N), raster positions in order.
        known: (B, N), true where a position is known, in raster order.

    Returns:
        The order (B, N).
    """
    unknown = ~known.gather(1, order)
    return order.gather(1, unknown.long().argsort(dim=1, stable=True))


def _rows_and_columns(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every position, each (N,)."""
    position = torch.arange(height * width, device="cpu")
    return position // width, position % width


def _random_classes(height: int, width: int) -> torch.Tensor:
    """One class: all positions are sampled from together."""
    return torch.zeros(height * width, dtype=torch.long, device="cpu")


def _hierarchical_classes(height: int, width: int) -> torch.Tensor:
    """0 where row and column are even, 1 elsewhere (section 3.4.3)."""
    row, column = _rows_and_columns(height, width)
    return (row % 2) | (column % 2)


def _center_first_classes(height: int, width: int) -> torch.Tensor:
    """0 in the middle half (rounded up) of the rows and of the columns, 1 around it."""
    row, column = _rows_and_columns(height, width)
    outside = torch.zeros(height * width, dtype=torch.bool, device="cpu")
    for position, size in ((row, height), (column, width)):
        half = (size + 1) // 2
        start = (size - half) // 2
        outside |= (position < start) | (position >= start + half)
    return outside.long()


def _border_first_classes(height: int, width: int) -> torch.Tensor:
    """0 around the middle, 1 inside it."""
    return 1 - _center_first_classes(height, width)


def _raster_keys(height: int, width: int) -> torch.Tensor:
    """Row after row."""
    return torch.arange(height * width, device="cpu")


def _alternate_keys(height: int, width: int) -> torch.Tensor:
    """Row after row, the odd rows from right to left."""
    row, column = _rows_and_columns(height, width)
    return row * width + torch.where(row % 2 == 0, column, width - 1 - column)


def _spiral_in_keys(height: int, width: int) -> torch.Tensor:
    """Ring after ring inwards; a ring runs from its lower right corner up, left, down and right again."""
    row, column = _rows_and_columns(height, width)
    ring = torch.stack((row, column, height - 1 - row, width - 1 - column)).amin(dim=0)
    up, left = height - 1 - 2 * ring, width - 1 - 2 * ring  # steps along the sides of the ring
    row, column = row - ring, column - ring
    along_bottom = 2 * up + left + column
    along_left = torch.where(column == 0, up + left + row, along_bottom)
    along_top = torch.where(row == 0, up + left - column, along_left)
    step = torch.where(column == left, up - row, along_top)
    return ring * (2 * (height + width)) + step


def _spiral_out_keys(height: int, width: int) -> torch.Tensor:
    """The inward spiral walked backwards."""
    return -_spiral_in_keys(height, width)


def _coordinate_bits(height: int, width: int) -> torch.Tensor:
    """Binary digits of row and column, taken in turns and row first, from the lowest up: (N, digits, 2)."""
    digits = torch.arange((max(height, width) - 1).bit_length(), device="cpu")
    return torch.stack(_rows_and_columns(height, width), dim=1)[:, None, :] >> digits[:, None] & 1


def _binary_number(bits: torch.Tensor) -> torch.Tensor:
    """The numbers (N,) that rows of binary digits (N, K) spell, the highest first."""
    return (bits << torch.arange(bits.shape[1], device="cpu").flip(0)).sum(dim=1)


def _z_curve_keys(height: int, width: int) -> torch.Tensor:
    """Quarter after quarter of the grid, each again by quarters: the highest digits count most."""
    return _binary_number(_coordinate_bits(height, width).flip(1).flatten(1))


def _subsample_keys(height: int, width: int) -> torch.Tensor:
    """Every other row and column first, each such coarse grid again so: the lowest digits count most."""
    return _binary_number(_coordinate_bits(height, width).flatten(1))


_RANDOM_CLASSES = {
    "random": _random_classes,
    "hierarchical": _hierarchical_classes,
    "center_first": _center_first_classes,
    "border_first": _border_first_classes,
}
_FIXED_KEYS = {
    "raster": _raster_keys,
    "spiral_in": _spiral_in_keys,
    "spiral_out": _spiral_out_keys,
    "z_curve": _z_curve_keys,
    "subsample": _subsample_keys,
    "alternate": _alternate_keys,
}

#: Orders that are the same for every image: the six scans of RAR's ablation.
FIXED_ORDER_NAMES = tuple(_FIXED_KEYS)
#: Names that `make_order` knows, the random ones first.
ORDER_NAMES = (*_RANDOM_CLASSES, *FIXED_ORDER_NAMES)
