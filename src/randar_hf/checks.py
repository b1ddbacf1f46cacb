"""Checks of what callers of generation give: each answers with one error that names the argument."""

import math
import os
from collections.abc import Sequence
from inspect import get_annotations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import PreTrainedConfig


MAX_CLASSES = 2**24  # of which transformers makes a list


def plain(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own number, also within a tuple or list; anything else as it is."""
    if isinstance(value, tuple | list):
        return (tuple if isinstance(value, tuple) else list)(plain(entry) for entry in value)
    is_scalar = isinstance(value, np.generic | np.ndarray | torch.Tensor) and value.ndim == 0
    return value.item() if is_scalar else value


def with_plain_numbers(config_class: Any) -> Any:
    """Let a strict configuration take scalars of numpy, as Python's own numbers, and refuse types by `ValueError`."""
    set_checked = config_class.__setattr__

    def set_plain(self, name: str, value: Any):
        try:
            set_checked(self, name, plain(value))
        except StrictDataclassFieldValidationError as error:
            kind = get_annotations(config_class).get(name)
            kind = kind.__name__ if isinstance(kind, type) else kind
            raise ValueError(f"`{name}` must be of the type {kind}, got {value!r}.") from error

    config_class.__setattr__ = set_plain
    return config_class


def check_stored_fields(config: PreTrainedConfig, others: dict[str, Any]):
    """
    Check what transformers takes as it is: names of classes, a type of numbers, and fields that are computed.

    Args:
        config (`PreTrainedConfig`): before transformers completes it.
        others (`dict`): what was given beside its fields.

    Raises:
        ValueError: that names the field.
    """
    for name, key, entry in (("id2label", is_whole, is_text), ("label2id", is_text, is_int)):
        names = getattr(config, name, None)
        if names is not None and not (
            isinstance(names, dict) and all(map(key, names)) and all(map(entry, names.values()))
        ):
            kinds = "class ids to names" if name == "id2label" else "names to class ids"
            raise ValueError(f"`{name}` must map {kinds}, got {names!r:.80}.")
    for name, dtype in (("dtype", config.dtype), ("torch_dtype", others.get("torch_dtype"))):
        found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if dtype is not None and not isinstance(found, torch.dtype):
            raise ValueError(f"`{name}` must be the name of a type of torch, such as 'bfloat16', got {dtype!r}.")
    if others.get("num_labels") is not None:
        check_int("num_labels", others["num_labels"], 1, MAX_CLASSES)
    computed = [name for name in others if getattr(getattr(type(config), name, None), "fset", config) is None]
    if computed:
        raise ValueError(f"`{computed[0]}` must not be given, since it is computed, got {others[computed[0]]!r}.")


def is_text(value: Any) -> bool:
    """Whether a value is a text."""
    return isinstance(value, str)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, or one as the text that JSON makes of a key."""
    return is_int(value) or is_text(value) and value.isdecimal()


def is_int(value: Any) -> bool:
    """Whether a value is a whole number, of Python or numpy; True and False are not."""
    value = plain(value)
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a number, of Python or numpy, and neither infinite nor NaN."""
    value = plain(value)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_int(name: str, value: Any, least: int, most: int | None = None, note: str = "") -> int:
    """A whole number as Python's own; raises a `ValueError` that names the argument for one out of its range."""
    if is_int(value) and least <= value and (most is None or value <= most):
        return plain(value)
    allowed = f"be an int of at least {least}" if most is None else f"lie between {least} and {most}"
    raise ValueError(f"`{name}` must {allowed}{note}, got {plain(value)!r}.")


def check_number(name: str, value: Any, interval: str = "[0, inf)", note: str = "") -> int | float:
    """
    A finite number as Python's own.

    Args:
        name (`str`): the argument that gives it, for the message.
        value: what the caller gave.
        interval (`str`): what is allowed, such as `"(0, 1]"`: a square bracket includes the bound, a round one not.
        note (`str`): end of the message.

    Raises:
        ValueError: that names the argument, for anything else.
    """
    low, high = map(float, interval[1:-1].split(","))
    if is_finite(value):
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if above and below:
            return plain(value)
    least = f"{'of at least' if interval[0] == '[' else 'above'} {low:g}"
    allowed = f"be a finite number {least}" if high == math.inf else f"lie in {interval}"
    raise ValueError(f"`{name}` must {allowed}, got {plain(value)!r}{note}.")


def check_flag(name: str, value: Any) -> bool:
    """True or False as Python's own; raises a `ValueError` that names the argument for anything else."""
    if not isinstance(plain(value), bool):
        raise ValueError(f"`{name}` must be True or False, got {value!r}.")
    return plain(value)


def check_path(name: str, path: Any) -> Path:
    """A path of a file or folder; raises an error that names the argument for anything else, or an empty text."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`{name}` must be a path, got {path!r}.")
    if not os.fspath(path):
        raise ValueError(f"`{name}` must be a path, got an empty text; '.' is the working folder.")
    return Path(path)


def is_path(name: str) -> bool:
    """Whether a name that may be one on the Hub is that of a folder or file here, be it there or not.

    On the Hub it is `name` or `owner/name`; what is written as no such name, or begins with a folder here, is a path.
    """
    first, *rest = name.split("/")
    written_as_path = name.startswith((".", "~", "/")) or len(rest) > 1 or rest == [""] or "\\" in name
    return written_as_path or os.path.lexists(name) or bool(rest) and os.path.isdir(first)


def is_pair(value: Any) -> bool:
    """Whether a value is a tuple or list of two."""
    return isinstance(value, tuple | list) and len(value) == 2


def check_grid_size(grid_size: int | Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a grid given as one number or two; raises a `ValueError` unless both are at least 1."""
    grid_size = plain(grid_size)
    sides: Any = (grid_size, grid_size) if is_int(grid_size) else grid_size if is_pair(grid_size) else ()
    if len(sides) != 2 or not all(is_int(side) and side >= 1 for side in sides):
        raise ValueError(f"`grid_size` must be an int of at least 1 or two of them, got {grid_size!r}.")
    height, width = sides
    return height, width


def check_positions(grid_size: int | Sequence[int] | None, rotary: Any, config: Any) -> tuple[int, int]:
    """
    Rows and columns to generate: the trained ones by default, and always where each position has an embedding.

    Positions of one's own, in a table `rotary` of the shape (N + 1, d / 2, 2), count as one row.
    """
    if rotary is not None:
        return 1, _check_table(grid_size, rotary, config)
    grid = config.grid if grid_size is None else check_grid_size(grid_size)
    if config.has_position_embeddings and grid != config.grid:
        raise ValueError(
            f"`grid_size` must be the trained {config.grid} for a model with an embedding for each of its positions, "
            f"got {grid}."
        )
    return grid


def _check_table(grid_size: int | Sequence[int] | None, rotary: Any, config: Any) -> int:
    """Positions in a rotary table of one's own."""
    if config.has_position_embeddings:
        raise ValueError(
            "`rotary` needs a model with rotary position instructions, got one with an embedding for each position."
        )
    if grid_size is not None:
        raise ValueError("`grid_size` and `rotary` exclude each other, got both.")
    width = config.head_dim // 2
    is_table = isinstance(rotary, torch.Tensor) and rotary.ndim == 3 and rotary.shape[1:] == (width, 2)
    if not is_table or len(rotary) < 2 or not rotary.is_floating_point():
        raise ValueError(
            f"`rotary` must be a table of the shape (positions + 1, {width}, 2), "
            f"got {tuple(rotary.shape) if isinstance(rotary, torch.Tensor) else rotary!r}."
        )
    return len(rotary) - 1


def check_class_labels(class_labels: torch.Tensor | Sequence[int] | int, num_classes: int) -> torch.Tensor:
    """
    Class ids as a tensor of shape (B,) on the CPU.

    Raises:
        ValueError: if there is none, the shape is another, or an id lies outside 0 to `num_classes` (the null class).
    """
    try:
        labels = torch.as_tensor(class_labels, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"`class_labels` must be class ids, one for each image, got {class_labels!r}.") from error
    if labels.ndim == 0:
        labels = labels[None]
    if labels.ndim != 1 or len(labels) == 0 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"`class_labels` must be class ids, one for each image, got {class_labels!r}.")
    if labels.min() < 0 or labels.max() > num_classes:
        raise ValueError(
            f"`class_labels` must lie between 0 and {num_classes} (the null class), got {labels.tolist()}."
        )
    return labels.long()


def check_known_tokens(
    known_tokens: torch.Tensor | None,
    known_mask: torch.Tensor | None,
    shape: tuple[int, int],
    vocab_size: int,
) -> torch.Tensor:
    """
    Tokens (B, N) that generation starts from, -1 where unknown, given a mask that is checked already.

    Raises:
        ValueError: if only one of the two is given, or the tokens are no integers of the shape (B, N), known ones
            within the codebook. Values on another device than the CPU are not waited for: see
            [`~RandARGenerationMixin.decode`].
    """
    if (known_tokens is None) != (known_mask is None):
        raise ValueError("`known_tokens` and `known_mask` go together, got only one of them.")
    if known_tokens is None or known_mask is None:
        return torch.full(shape, -1, device="cpu")
    if not isinstance(known_tokens, torch.Tensor) or known_tokens.shape != shape:
        found = tuple(known_tokens.shape) if isinstance(known_tokens, torch.Tensor) else repr(known_tokens)
        raise ValueError(f"`known_tokens` must be a tensor of the shape {shape}, images by tokens, got {found}.")
    if known_tokens.is_floating_point() or known_tokens.dtype == torch.bool:
        raise ValueError(f"`known_tokens` must hold integers, got {known_tokens.dtype}.")
    known_tokens = known_tokens.long().masked_fill(~known_mask.to(known_tokens.device), -1)
    if known_tokens.device.type == "cpu" and is_outside(known_tokens, known_mask, vocab_size):
        raise ValueError(f"`known_tokens` must lie between 0 and {vocab_size - 1} where `known_mask` is true.")
    return known_tokens


def is_outside(tokens: torch.Tensor, mask: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Whether a token (B, N) under a mask (B, N) lies outside the codebook; a scalar where the tokens lie."""
    return (mask.to(tokens.device) & ((tokens < 0) | (tokens >= vocab_size))).any()


def check_input_ids(input_ids: torch.Tensor, num_tokens: int, vocab_size: int, wait: bool = True) -> torch.Tensor:
    """
    Tokens (B, N) of whole images; without `wait` the values are looked at on the CPU alone.

    Raises:
        ValueError: if they are no integer tensor of the shape (images, `num_tokens`), or lie outside the codebook.
    """
    if not isinstance(input_ids, torch.Tensor) or input_ids.ndim != 2 or input_ids.shape[1] != num_tokens:
        shape = tuple(input_ids.shape) if isinstance(input_ids, torch.Tensor) else input_ids
        raise ValueError(f"`input_ids` must have the shape (images, {num_tokens} tokens), got {shape!r}.")
    if len(input_ids) == 0 or input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise ValueError(
            f"`input_ids` must hold the tokens of at least one image, got {len(input_ids)} of {input_ids.dtype}."
        )
    if not wait and input_ids.device.type != "cpu":
        return input_ids.long()
    if input_ids.min() < 0 or input_ids.max() >= vocab_size:
        raise ValueError(
            f"`input_ids` must lie between 0 and {vocab_size - 1}, "
            f"got values from {input_ids.min()} to {input_ids.max()}."
        )
    return input_ids.long()


def check_labels_of(class_labels: torch.Tensor | None, batch_size: int, num_classes: int) -> torch.Tensor:
    """Class ids (B,) of a batch of images, the null class for `None`; raises a `ValueError` unless one for each."""
    if class_labels is None:
        return torch.full((batch_size,), num_classes, device="cpu")
    class_labels = check_class_labels(class_labels, num_classes)
    if len(class_labels) != batch_size:
        raise ValueError(f"`class_labels` must be one for each of {batch_size} images, got {len(class_labels)}.")
    return class_labels


def check_mask(name: str, mask: torch.Tensor | None, shape: Sequence[int]) -> torch.Tensor:
    """A boolean mask of images by tokens, false everywhere for `None`; raises a `ValueError` for anything else."""
    if mask is None:
        return torch.zeros(shape, dtype=torch.bool, device="cpu")
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.shape != shape:
        found = f"{mask.dtype} of {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else repr(mask)
        raise ValueError(f"`{name}` must be a boolean tensor of the shape {tuple(shape)}, got {found}.")
    return mask
