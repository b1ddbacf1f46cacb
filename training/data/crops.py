"""The crops of a centred square that become tokens."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch

AUGMENTATIONS = {"none": 1, "adm": 2, "ten_crop": 10}  # crops per image
TEN_CROP_SCALE = 1.1


def centre_crop(num_crops: int) -> int:
    """Which of the crops of an image is the middle of it as it is: the fifth of ten, else the first."""
    return 4 if num_crops == AUGMENTATIONS["ten_crop"] else 0


def square_size(augmentation: str, size: int) -> int:
    """Pixels per side of the square that crops of `size` pixels are cut from."""
    return int(TEN_CROP_SCALE * size) if augmentation == "ten_crop" else size


def cut_crops(squares: "torch.Tensor", size: int, augmentation: str) -> list["torch.Tensor"]:
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


def _five_crops(squares: "torch.Tensor", size: int) -> list["torch.Tensor"]:
    end = squares.shape[-1] - size
    middle = round(end / 2)
    corners = [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)]
    return [squares[..., top : top + size, left : left + size] for top, left in corners]
