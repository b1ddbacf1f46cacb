"""Images of any kind to RGB, their centred square as in ADM, and the crops of it that become tokens."""

import numpy as np
import torch
from PIL import Image


AUGMENTATIONS = {"none": 1, "adm": 2, "ten_crop": 10}  # crops per image
TEN_CROP_SCALE = 1.1


def centre_crop(num_crops: int) -> int:
    """Which of the crops of an image is the middle of it as it is: the fifth of ten, else the first."""
    return 4 if num_crops == AUGMENTATIONS["ten_crop"] else 0


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB.

    16 bits are scaled to 8, palettes are looked up, CMYK is converted without a profile, and transparency is dropped:
    what lies below it shows. The orientation that a camera noted is not applied.

    Raises:
        ValueError: the image holds floating point numbers, whose range nothing tells.
    """
    if image.mode == "F":
        raise ValueError("pixels are floating point numbers")
    if image.mode.startswith("I"):  # I;16 in its byte orders, or I where the file has 16 bits
        levels = np.asarray(image).astype(np.int64).clip(0, 65_535)
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """The centred square of an image, `size` pixels a side, as ADM cuts it.

    The image is halved by 2 x 2 means while its short side is at least twice `size`, scaled by a bicubic filter
    until the short side is `size`, and cropped.

    Raises:
        ValueError: the image is so narrow that the scaled one would not fit into memory.
    """
    image = to_rgb(image)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too narrow to be scaled to {size}")
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def square_size(augmentation: str, size: int) -> int:
    """Pixels per side of the square that crops of `size` pixels are cut from."""
    return int(TEN_CROP_SCALE * size) if augmentation == "ten_crop" else size


def cut_crops(squares: torch.Tensor, size: int, augmentation: str) -> list[torch.Tensor]:
    """The crops of images.

    Args:
        squares: (B, 3, S, S) with S = `square_size(augmentation, size)`.
        size: pixels per side of a crop.
        augmentation: `"none"`, the square; `"adm"`, the square and its mirror image; `"ten_crop"`, the four corners
            (top left, top right, bottom left, bottom right) and the middle, and the same five of the mirror image.

    Returns:
        Tensors (B, 3, size, size), one for each crop of an image.
    """
    mirrored = squares.flip(-1)
    if augmentation == "ten_crop":
        return [*_five_crops(squares, size), *_five_crops(mirrored, size)]
    return [squares, mirrored] if augmentation == "adm" else [squares]


def _five_crops(squares: torch.Tensor, size: int) -> list[torch.Tensor]:
    end = squares.shape[-1] - size
    middle = round(end / 2)
    corners = [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)]
    return [squares[..., top : top + size, left : left + size] for top, left in corners]
