"""MAE's random crops of training images, each from a seed of its own."""

import dataclasses
import hashlib
import json

import numpy as np
from PIL import Image

from randar_hf.checks import check_int
from randar_hf.images import to_rgb

from .images import ImageSet


AREAS, RATIOS, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # RandomResizedCrop's: fractions of the area, width by height


def random_crops(images: ImageSet, size: int, count: int, seed: int) -> ImageSet:
    """
    Random crops of a set, mirrored half of the time: first one of each image, then another of each, and so on.

    Args:
        images ([`ImageSet`]): n images of any size.
        size (`int`): side of the crops in pixels.
        count (`int`): crops of each image.
        seed (`int`): of the crops.

    Returns:
        [`ImageSet`]: of `count` n images without labels; number i is a crop of number i mod n.

    Raises:
        ValueError: for a size or a count below 1, or a seed below 0.
    """
    size, count, seed = check_int("size", size, 1), check_int("count", count, 1), check_int("seed", seed, 0)

    def read(index: int) -> Image.Image:
        image = images.read(index % images.count)
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        return random_resized_crop(image, size, np.random.default_rng([seed, index]))

    about = {"images": images.sha256, "size": size, "seed": seed, "areas": AREAS, "ratios": RATIOS}
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    return dataclasses.replace(images, sha256=digest, count=count * images.count, read=read, labels=None, crop=None)


def random_resized_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """A part of 8 to 100% of the area, a square of `size` pixels of it by a bicubic filter, mirrored or not."""
    image = to_rgb(image)
    left, top, width, height = _draw_box(image.width, image.height, rng)
    crop = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BICUBIC)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def _draw_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of a part; of an image where none fits the centred one of the nearest ratio."""
    for _ in range(TRIES):
        area = width * height * rng.uniform(*AREAS)
        ratio = np.exp(rng.uniform(*np.log(RATIOS)))
        across, down = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = rng.integers(width - across + 1), rng.integers(height - down + 1)
            return int(left), int(top), across, down
    ratio = min(max(width / height, RATIOS[0]), RATIOS[1])
    across, down = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - across) // 2, (height - down) // 2, across, down
