"""The centred square of an image, as in ADM."""

from PIL import Image

from .images import MAX_PIXELS, to_rgb


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
    if width * height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too narrow to be scaled to {size}")
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
