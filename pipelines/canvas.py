"""The canvas of outpainting: where its image lies, and the windows that fill it. B images, h x w tokens."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from randar_hf.checks import is_int
from randar_hf.generation import GenerationState
from randar_hf.generation_plan import GenerationPlan
from randar_hf.images import MAX_PIXELS

from .sizes import check_size


class Canvas(NamedTuple):
    """An image of rows and columns and what is added at each side, counted in tokens or in pixels."""

    rows: int
    columns: int
    left: int
    right: int
    top: int
    bottom: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the whole."""
        return self.top + self.rows + self.bottom, self.left + self.columns + self.right

    def in_pixels(self, multiple: int) -> "Canvas":
        """The same canvas in pixels, for so many of them a token."""
        return Canvas(*(multiple * count for count in self))

    def extend(self, image: torch.Tensor, value: float) -> torch.Tensor:
        """An image (..., rows, columns) with a value around it, (..., h, w)."""
        return torch.nn.functional.pad(image, (self.left, self.right, self.top, self.bottom), value=value)

    def known(self) -> torch.Tensor:
        """Where the image lies, of the shape of the grid."""
        return self.extend(torch.ones(self.rows, self.columns, dtype=torch.bool, device="cpu"), False)


class Window(NamedTuple):
    """A part of the canvas, and what it knows when its turn comes."""

    rows: slice
    columns: slice
    known: torch.Tensor  # (window's rows, window's columns)


def make_canvas(images: list[torch.Tensor], multiple: int, **extensions: int) -> Canvas:
    """
    The canvas around images, in tokens.

    Args:
        images (`list[torch.Tensor]`): images (3, H, W) of one size.
        multiple (`int`): pixels of a token.
        **extensions (`int`): pixels to add `left`, `right`, `top` and `bottom`.

    Raises:
        ValueError: for images of several sizes, sides that are no multiples of a token's, no extension, or a canvas of
            more than 2**26 pixels.
    """
    sizes = {tuple(image.shape[1:]) for image in images}
    if len(sizes) > 1:
        found = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise ValueError(f"`image` must hold images of one size, got {found} pixels (height x width).")
    ((height, width),) = sizes
    if height % multiple or width % multiple:
        near = [max(round(side / multiple), 1) * multiple for side in (height, width)]
        raise ValueError(
            f"`image` must have sides that are multiples of the {multiple} pixels of a token, got {height} x "
            f"{width} pixels (height x width): resize it, for instance to {near[0]} x {near[1]}."
        )
    for name, pixels in extensions.items():
        if not is_int(pixels) or pixels < 0:
            raise ValueError(f"`{name}` must be a number of pixels of at least 0, got {pixels!r}.")
    if not any(extensions.values()):
        raise ValueError("`left`, `right`, `top` and `bottom` must not all be 0, got no extension.")
    sides = {name: check_size(name, pixels, multiple) if pixels else 0 for name, pixels in extensions.items()}
    canvas = Canvas(rows=height // multiple, columns=width // multiple, **sides)
    rows, columns = canvas.in_pixels(multiple).grid
    if rows * columns > MAX_PIXELS:
        raise ValueError(
            f"`left`, `right`, `top` and `bottom` must give a canvas of at most {MAX_PIXELS} pixels, got {rows} x "
            f"{columns} (height x width)."
        )
    return canvas


def plan_windows(known: torch.Tensor, size: tuple[int, int]) -> list[Window]:
    """
    The windows that fill a canvas in turn: always the one that knows most, and of equals the first in the raster.

    Args:
        known (`torch.BoolTensor` of shape (h, w)): known cells of the canvas.
        size (`(int, int)`): rows and columns of a window; of a smaller canvas, its own.

    Returns:
        `list[Window]`: those that have something to fill.
    """
    known, starts = known.clone(), []
    size = (min(size[0], known.shape[0]), min(size[1], known.shape[1]))
    for side, length in zip(known.shape, size, strict=True):
        starts.append([*range(0, side - length, max(length // 2, 1)), side - length])
    waiting = [(slice(i, i + size[0]), slice(j, j + size[1])) for i in starts[0] for j in starts[1]]
    windows = []
    while not known.all():
        waiting = [cells for cells in waiting if not known[cells].all()]
        cells = max(waiting, key=lambda cells: int(known[cells].sum()))
        windows.append(Window(*cells, known[cells].clone()))
        known[cells] = True
    return windows


def slide(
    windows: list[Window],
    plans: list[GenerationPlan],
    tokens: torch.Tensor,
    decode: Callable[[GenerationPlan, torch.Tensor], Iterator[GenerationState]],
) -> Iterator[GenerationState]:
    """
    The states of all windows, one after another, as those of the canvas.

    Args:
        windows (`list[Window]`): parts of the canvas.
        plans (`list[GenerationPlan]`): of each window.
        tokens (`torch.LongTensor` of shape (B, h, w)): what is known of the canvas, -1 elsewhere.
        decode (callable): gives the states of a plan with known tokens, [`~RandARGenerationMixin.decode`].

    Returns:
        iterator over [`~randar_hf.generation.GenerationState`] with the tokens (B, h * w) of the canvas.
    """
    num_steps = sum(plan.num_steps for plan in plans)
    outer = GenerationState(-1, num_steps, tokens.flatten(1), plans[0].guidance.scale)
    yield outer
    for window, plan in zip(windows, plans, strict=True):
        cells = (slice(None), window.rows, window.columns)
        for state in decode(plan, outer.tokens.view_as(tokens)[cells].flatten(1)):
            if state.step >= 0:
                canvas = outer.tokens.view_as(tokens).clone()  # (B, h, w)
                canvas[cells] = state.tokens.view_as(canvas[cells])
                outer = GenerationState(outer.step + 1, num_steps, canvas.flatten(1), outer.guidance_scale)
                yield outer
                state.tokens = outer.tokens.view_as(tokens)[cells].flatten(1)
            state.guidance_scale = outer.guidance_scale
