"""Images and masks of any type, read as tensors and given back. Shapes: B images of (H, W) pixels."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from randar_hf.images import MAX_PIXELS, to_mask, to_rgb


ImageInput = Image.Image | np.ndarray | torch.Tensor


def read_images(image: ImageInput | list[ImageInput], count: int) -> list[torch.Tensor]:
    """[`read_stack`] in colour: tensors (3, H, W) in [0, 1], one or `count`."""
    return read_stack("image", image, 3, count)


def read_stack(name: str, images: Any, channels: int, count: int) -> list[torch.Tensor]:
    """
    Images or masks of any type as tensors on the CPU.

    Args:
        name (`str`): the argument that gives them, for messages.
        images (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them): see [`RandARInpaintPipeline`].
        channels (`int`): 3 for colours, 1 for grey.
        count (`int`): labels that they are for.

    Returns:
        `list[torch.Tensor]`: float32 tensors (channels, H, W) in [0, 1], one or `count`.

    Raises:
        TypeError: for another type.
        ValueError: for another shape, kind of number or range, or another number of images.
    """
    images = images if isinstance(images, list | tuple) else [images]
    found = [image for part in images for image in _read_part(name, part, channels)]
    if len(found) not in (1, count):
        raise ValueError(f"`{name}` must be one for all or one for each of {count} labels, got {len(found)}.")
    return found


def _read_part(name: str, part: Any, channels: int) -> torch.Tensor:
    """(B, channels, H, W) of an image or a stack of them."""
    if isinstance(part, Image.Image):
        _check_size(name, *part.size)
    pixels = _channels_first(name, part, channels)
    _check_size(name, *pixels.shape[:-3:-1])
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4 or pixels.shape[1] != channels or 0 in pixels.shape:
        sides = "(height, width)" if channels == 1 else f"(height, width, {channels}) or ({channels}, height, width)"
        raise ValueError(
            f"`{name}` must be an array or a tensor of the shape {sides}, or a stack of such, got {tuple(part.shape)}."
        )
    if pixels.dtype == torch.uint8:
        if channels == 1 and pixels.max() == 1:
            raise ValueError(f"`{name}` of type uint8 must have 255 for white, got 1: give it as booleans or floats.")
        return pixels.float() / 255
    if not pixels.is_floating_point() and not (channels == 1 and pixels.dtype == torch.bool):
        raise ValueError(f"`{name}` must hold floating point numbers in [0, 1] or uint8, got {pixels.dtype}.")
    pixels = pixels.float()
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"`{name}` must lie in [0, 1], got values from {pixels.min():.4g} to {pixels.max():.4g}.")
    return pixels


def _check_size(name: str, width: int = 0, height: int = 0):
    """Raise a `ValueError` for an image that is too large to be made floating point numbers."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"`{name}` must have at most {MAX_PIXELS} pixels, got {width} x {height}: scale it down.")


def _channels_first(name: str, part: Any, channels: int) -> torch.Tensor:
    """A tensor whose last dimensions are (channels, H, W), if the shape fits."""
    if isinstance(part, Image.Image):
        try:
            part = np.asarray(to_rgb(part) if channels == 3 else to_mask(part))
        except ValueError as error:
            raise ValueError(f"`{name}` must have 8 or 16 bits, got one of the mode {part.mode}: {error}.") from error
    if isinstance(part, np.ndarray):
        if part.dtype.kind not in "buif":
            raise ValueError(f"`{name}` must hold floating point numbers in [0, 1] or uint8, got {part.dtype}.")
        lacks_channel = channels == 1 and (part.ndim == 2 or part.ndim == 3 and part.shape[2] not in (1, 3, 4))
        pixels = torch.from_numpy(np.array(part[..., None] if lacks_channel else part, order="C"))
        return pixels.movedim(-1, -3) if pixels.ndim > 2 else pixels
    if isinstance(part, torch.Tensor):
        lacks_channel = channels == 1 and (part.ndim == 2 or part.ndim == 3 and part.shape[0] != 1)
        return (part.unsqueeze(-3) if lacks_channel else part).cpu()
    if isinstance(part, str | PathLike):
        raise TypeError(
            f"`{name}` must be an image, got the path {str(part)!r}: give `PIL.Image.open({str(part)!r})`."
        )
    raise TypeError(f"`{name}` must be a PIL image, an array, a tensor or a list of them, got {part!r}.")


def repeat_each(things: Sequence[Any], times: int) -> list[Any]:
    """Every thing so many times, next to itself."""
    return [thing for thing in things for _ in range(times)]


def to_output(images: list[torch.Tensor], output_type: str) -> list[Image.Image] | np.ndarray | torch.Tensor:
    """Images (3, H, W) in [0, 1] as `"pil"`, `"np"` or `"pt"`."""
    if output_type == "pt":
        return torch.stack(images)
    arrays = [VaeImageProcessor.pt_to_numpy(image[None])[0] for image in images]  # (H, W, 3) each
    return np.stack(arrays) if output_type == "np" else [VaeImageProcessor.numpy_to_pil(a)[0] for a in arrays]
