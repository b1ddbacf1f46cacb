"""The one way of images into the product, as the 8-bit pixels that viewers show, and grey ones as ink on nothing."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps


MAX_FILE_BYTES = 2**30
MAX_PIXELS = 2**26  # of one image: 8192 x 8192
LEVELS = 65_535  # of 16 bits
MAX_COLOUR = 48  # levels between the channels of what still counts as grey
EMPTY, FULL = 16, 240  # grey levels that become wholly transparent and wholly opaque


def open_image(source: str | os.PathLike | bytes, mask: bool = False) -> Image.Image:
    """
    Read an image file, whatever its suffix.

    Args:
        source (path or `bytes`): the file, or what it holds.
        mask (`bool`): whether it is a mask, for [`to_mask`] instead of [`to_rgb`].

    Returns:
        `PIL.Image.Image`: loaded, of the mode RGB, or L for a mask; of an animation the first frame.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no regular file, larger than 1 GiB, damaged, in no format that Pillow reads by itself, or
            of more than 2**26 pixels.
    """
    with _opening(source) as image:
        return to_mask(image) if mask else to_rgb(image)


def read_header(source: str | os.PathLike | bytes) -> tuple[str, tuple[int, int]]:
    """
    What the beginning of an image file tells, without decoding it.

    Args:
        source (path or `bytes`): the file, or what it holds.

    Returns:
        `str` and `(int, int)`: the mode in the file, and width and height of what [`open_image`] gives.

    Raises:
        FileNotFoundError, ValueError: as [`open_image`].
    """
    with _opening(source) as image:
        # The reader of TIFF turns the size itself; what follows the pixels of a PNG is not looked for.
        is_untold = image.format == "TIFF" or image.format == "PNG" and "exif" not in image.info
        is_turned = not is_untold and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.mode, image.size[::-1] if is_turned else image.size


@contextmanager
def _opening(source: str | os.PathLike | bytes) -> Iterator[Image.Image]:
    """An image within limits that is not decoded yet; whatever its reader raises names the file."""
    try:
        content = BytesIO(source) if isinstance(source, bytes) else _open_file(Path(source).expanduser())
        with content, Image.open(content, formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS}; scale it down"
                )
            yield image
    except FileNotFoundError:
        raise
    except Exception as error:  # the readers of formats raise errors of many kinds
        name = "the image" if isinstance(source, bytes) else repr(os.fspath(source))
        raise ValueError(f"{name} cannot be read: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """
    An image of any mode as upright 8-bit RGB.

    The orientation that a camera noted is applied, 16 bits are scaled to 8, palettes are looked up, transparency is
    composed on white, and CMYK is converted without a profile.

    Raises:
        ValueError: for floating point pixels, whose range nothing tells, and for integers beyond 16 bits.
    """
    return _flatten(image, "white").convert("RGB")


def to_mask(image: Image.Image) -> Image.Image:
    """
    A mask of any mode as upright 8-bit grey, white where it covers; what is transparent is black.

    Raises:
        ValueError: as [`to_rgb`].
    """
    return _flatten(image, "black").convert("L")


def to_ink(image: Image.Image, colour: str = "black") -> Image.Image:
    """
    Light strokes on a dark ground as ink on nothing, to be put on any ground: the grey level becomes the alpha.

    Args:
        image (`PIL.Image.Image`): grey, of any mode; up to level 16 it becomes transparent, from 240 on opaque.
        colour (`str`): of the ink, as Pillow names it.

    Returns:
        `PIL.Image.Image`: of the same size and the mode RGBA.

    Raises:
        ValueError: if the image is coloured, so that a grey level would not tell what is ink, or for no colour.
    """
    try:
        rgb = ImageColor.getrgb(colour)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"`colour` must be a colour that Pillow knows, such as 'black', got {colour!r}.") from error
    pixels = np.asarray(to_rgb(image)).astype(np.int32)  # (H, W, 3)
    difference = np.ptp(pixels, axis=2).max()
    if difference > MAX_COLOUR:
        raise ValueError(
            f"`image` must be grey to become transparent, got one whose channels differ by {difference} levels."
        )
    alpha = ((pixels.mean(axis=2) - EMPTY) / (FULL - EMPTY)).clip(0, 1)  # (H, W)
    ink = Image.new("RGBA", image.size, rgb)
    ink.putalpha(Image.fromarray((255 * alpha).round().astype(np.uint8)))
    return ink


def _flatten(image: Image.Image, ground: str) -> Image.Image:
    """The image upright, of at most 8 bits, composed on a ground where it is transparent."""
    if not isinstance(image, Image.Image):
        raise TypeError(f"`image` must be a PIL image, got {type(image).__name__}.")
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers, whose range nothing tells; give 8 or 16 bits")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # I;16 in its byte orders, or I where a file has 16 bits
        image = _from_levels(np.asarray(image).astype(np.int32), image.info.get("transparency"))
    if not image.has_transparency_data:
        return image
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image)


def _from_levels(levels: np.ndarray, transparent: int | None) -> Image.Image:
    """Levels (H, W) of 16 bits as 8-bit grey, of which one may be transparent."""
    if levels.min() < 0 or levels.max() > LEVELS:
        raise ValueError(f"its pixels go from {levels.min()} to {levels.max()}, which 16 bits do not hold")
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return grey


def _open_file(path: Path) -> BinaryIO:
    """A regular file of bounded size."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"it has {status.st_size} bytes, more than 1 GiB")
    return path.open("rb")


def _formats() -> list[str]:
    """What Pillow reads, without formats for which it starts another program."""
    Image.init()
    return sorted(set(Image.OPEN) - {"EPS"})


__all__ = ["open_image", "read_header", "to_ink", "to_mask", "to_rgb"]
