"""
Masks: which tokens they cover, and how painted pixels join those around them.

Shapes: B images of (H, W) pixels, N = h * w tokens of one image. Pixels lie in [0, 1].
"""

from collections.abc import Sequence

import torch

from randar_hf.randomness import uniform


def tokens_under(mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """
    The tokens of which a mask covers at least one pixel, whatever the size of the mask.

    Args:
        mask (`torch.BoolTensor` of shape (H, W)): true where it covers.
        grid (`(int, int)`): rows and columns of tokens, h and w.

    Returns:
        `torch.BoolTensor` of shape (h * w,), in raster order. A pixel on the border of two cells covers both.
    """
    return torch.nn.functional.adaptive_max_pool2d(mask[None].float(), grid).flatten().bool()


def choose_fraction(
    unknown: torch.Tensor, strength: float, generator: torch.Generator | Sequence[torch.Generator] | None
) -> torch.Tensor:
    """
    A random fraction of the unknown tokens, chosen for each image by its generator.

    Args:
        unknown (`torch.BoolTensor` of shape (B, N)): tokens to choose from.
        strength (`float`): the fraction, in (0, 1], rounded to whole tokens, at least one of an image that has any.
        generator (`torch.Generator` or a list with one per image, *optional*): source of randomness.

    Returns:
        `torch.BoolTensor` of shape (B, N).
    """
    chances = uniform((unknown.shape[1],), len(unknown), generator)  # (B, N)
    ranks = chances.masked_fill(~unknown, torch.inf).argsort(dim=1).argsort(dim=1)
    count = (unknown.sum(dim=1, keepdim=True) * strength).round().clamp(min=1)  # (B, 1)
    return unknown & (ranks < count)


def seam_weights(mask: torch.Tensor, seam: int) -> torch.Tensor:
    """
    The fraction of the painted image in each pixel.

    Args:
        mask (`torch.BoolTensor` of shape (H, W)): true where painted.
        seam (`int`): pixels over which it grows within the mask, evenly, from the mask's edge, at most the longer side
            of the image, whose own edges are none.

    Returns:
        `torch.Tensor` of shape (H, W): 0 outside the mask, `d / (seam + 1)` for the d-th pixel behind its edge, 1 from
        there on.
    """
    seam = min(seam, max(mask.shape))
    outside = (~mask)[None].float()  # (1, H, W)
    depths = 1 - outside
    for _ in range(seam):
        outside = torch.nn.functional.max_pool2d(outside, 3, stride=1, padding=1)  # one pixel further in
        depths = depths + (1 - outside)
    return depths[0] / (seam + 1)


def resize(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Images (B, 3, H, W) in another size (height, width), with antialiasing; as they are if they have it already."""
    if tuple(pixels.shape[2:]) == tuple(size):
        return pixels
    return torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)


def composite(original: torch.Tensor, painted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """
    One image of two.

    Args:
        original (`torch.Tensor` of shape (3, H, W)): comes back to the last bit where the weight is 0.
        painted (`torch.Tensor` of shape (3, h, w)): of any size; comes back, resized, where the weight is 1.
        weights (`torch.Tensor` of shape (H, W)): fraction of the painted image, in [0, 1].

    Returns:
        `torch.Tensor` of shape (3, H, W) on the device of `painted`.
    """
    original, weights = original.to(painted.device), weights.to(painted.device)
    return torch.lerp(original, resize(painted[None], (original.shape[1], original.shape[2]))[0], weights)
