"""Images of any kind to RGB, and their centred square as in ADM."""

import numpy as np
from PIL import Image


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
