"""Which pixels a crop holds, and what images of other modes become."""

import numpy as np
import pytest
import torch
from PIL import Image

from randar_hf.crops import centre_square
from randar_hf.training.data.crops import centre_crop, cut_crops, square_size
from randar_hf.training.data.pixels import to_pixels


def coordinates(width: int, height: int) -> np.ndarray:
    """An image whose pixels hold their row and their column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def test_the_square_lies_in_the_middle():
    pixels = coordinates(31, 20)
    assert np.array_equal(centre_square(Image.fromarray(pixels), 20), pixels[:, 5:25])  # 11 // 2 columns before it
    tall = pixels.transpose(1, 0, 2)
    assert np.array_equal(centre_square(Image.fromarray(tall), 20), tall[5:25])


def test_large_images_are_halved_by_means_then_scaled_by_a_bicubic_filter():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    means = pixels.reshape(32, 2, 40, 2, 3).astype(float).mean((1, 3))
    assert np.abs(np.asarray(centre_square(Image.fromarray(pixels), 32), float) - means[:, 4:36]).max() <= 1
    # 63 is less than twice 32, so nothing is halved.
    image = Image.fromarray(pixels[:63])
    scaled = np.asarray(image.resize((41, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(centre_square(image, 32), scaled[:, 4:36])
    # 40 x 32 after one halving, scaled by 5 / 8 to 25 x 20.
    scaled = Image.fromarray(pixels).resize((40, 32), Image.Resampling.BOX).resize((25, 20), Image.Resampling.BICUBIC)
    assert np.array_equal(centre_square(Image.fromarray(pixels), 20), np.asarray(scaled)[:, 2:22])


def test_small_images_are_enlarged():
    assert centre_square(Image.new("RGB", (3, 5), "red"), 16).size == (16, 16)


def test_a_line_is_no_image():
    with pytest.raises(ValueError, match="1 x 30000 pixels are too narrow"):
        centre_square(Image.new("L", (1, 30_000)), 256)


def crops_of(pixels: np.ndarray, size: int, augmentation: str) -> list[np.ndarray]:
    squares = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return [crop[0].permute(1, 2, 0).numpy() for crop in cut_crops(squares, size, augmentation)]


def test_crops_lie_where_they_should():
    square = coordinates(20, 20)
    (only,) = crops_of(square, 20, "none")
    assert np.array_equal(only, square)
    first, second = crops_of(square, 20, "adm")
    assert np.array_equal(first, square) and np.array_equal(second, square[:, ::-1])

    assert [square_size("ten_crop", size) for size in (18, 256, 384)] == [19, 281, 422]
    assert square_size("adm", 256) == 256
    square = np.stack(np.mgrid[:281, :281], axis=-1)
    crops = crops_of(square, 256, "ten_crop")
    corners = [(0, 0), (0, 25), (25, 0), (25, 25), (12, 12)]  # the middle of 25 is rounded to the even 12
    assert len(crops) == 10
    for whole, five in ((square, crops[:5]), (square[:, ::-1], crops[5:])):
        for (top, left), crop in zip(corners, five):
            assert np.array_equal(crop, whole[top : top + 256, left : left + 256])
    assert [centre_crop(count) for count in (1, 2, 10)] == [0, 0, 4]


def test_pixels_span_minus_one_to_one():
    pixels = to_pixels(Image.fromarray(np.array([[[0, 51, 255]]], dtype=np.uint8)), 1)
    assert torch.allclose(pixels.flatten(), torch.tensor([-1.0, -0.6, 1.0]))
