"""Images to tokens and back through a `diffusers.VQModel`. (B, h, w) token grids of (B, 3, H, W) images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .devices import execution_device


if TYPE_CHECKING:
    from diffusers import VQModel


def downsampling(vqvae: VQModel) -> int:
    """Pixels per side of one token."""
    return 2 ** (len(vqvae.config.block_out_channels) - 1)


def pixel_range(vqvae: VQModel) -> tuple[float, float]:
    """What the tokenizer takes black and white for: (-1, 1), or what a converter noted in its configuration."""
    low, high = vqvae.config.get("_pixel_range", (-1.0, 1.0))
    return low, high


def from_levels(levels: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] of 8-bit levels, of any shape."""
    return levels.float() / 127.5 - 1


def to_pixel_range(vqvae: VQModel, images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] in the tokenizer's own range."""
    low, high = pixel_range(vqvae)
    return images if (low, high) == (-1, 1) else low + (images + 1) / 2 * (high - low)


@torch.no_grad()
def encode(vqvae: VQModel, pixels: torch.Tensor) -> torch.Tensor:
    """
    The nearest code of every cell of an image; any rectangular size.

    Args:
        vqvae (`diffusers.VQModel`): the image tokenizer.
        pixels (`torch.Tensor` of shape (B, 3, H, W)): images in the tokenizer's own range, usually [-1, 1]; H and W
            are multiples of [`downsampling`]. Brought to the tokenizer's device and type.

    Returns:
        `torch.LongTensor` of shape (B, h, w).

    Raises:
        ValueError: if `pixels` is no floating point tensor, has another shape, or a side is no multiple.
    """
    _check_pixels(pixels, vqvae.config.in_channels, downsampling(vqvae))
    latents = vqvae.encode(pixels.to(execution_device(vqvae), vqvae.dtype)).latents.float()  # (B, C, h, w)
    codebook = vqvae.quantize.embedding.weight.float()  # (V, C)
    # The nearest code has the largest z.e - |e|^2 / 2; image by image, since (B, N, V) may be large.
    offset = codebook.pow(2).sum(dim=1) / 2  # (V,)
    tokens = [(image.flatten(1).T @ codebook.T - offset).argmax(dim=1) for image in latents]  # (h * w,) each
    return torch.stack(tokens).view(latents.shape[0], *latents.shape[2:])


@torch.no_grad()
def decode(vqvae: VQModel, tokens: torch.Tensor) -> torch.Tensor:
    """
    The images that token grids stand for.

    Args:
        vqvae (`diffusers.VQModel`): the image tokenizer, with `lookup_from_codebook` set in its configuration.
        tokens (`torch.LongTensor` of shape (B, h, w)): codebook entries.

    Returns:
        `torch.Tensor` of shape (B, 3, H, W), in the tokenizer's own range, not clamped.

    Raises:
        ValueError: if `tokens` is no integer tensor, has another shape or holds a token outside the codebook.
    """
    if not isinstance(tokens, torch.Tensor) or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(f"`tokens` must be an integer tensor, got {getattr(tokens, 'dtype', type(tokens).__name__)}.")
    if tokens.ndim != 3 or tokens.numel() == 0:
        raise ValueError(f"`tokens` must have the shape (images, rows, columns), got {tuple(tokens.shape)}.")
    entries = vqvae.config.num_vq_embeddings
    if tokens.min() < 0 or tokens.max() >= entries:
        raise ValueError(
            f"`tokens` must lie between 0 and {entries - 1}, got values from {tokens.min()} to {tokens.max()}."
        )
    return _look_up(vqvae, tokens)


def _look_up(vqvae: VQModel, tokens: torch.Tensor) -> torch.Tensor:
    """[`decode`] of tokens that are known to be of the codebook; nothing is read from the device."""
    shape = (*tokens.shape, vqvae.config.vq_embed_dim or vqvae.config.latent_channels)
    with execution_device(vqvae) as device:  # diffusers makes a tensor on the default one
        return vqvae.decode(tokens.flatten().to(device), force_not_quantize=True, shape=shape).sample


def encode_images(vqvae: VQModel, images: torch.Tensor) -> torch.Tensor:
    """[`encode`] for images (B, 3, H, W) in [-1, 1], as diffusers' image processors give them, for any tokenizer."""
    _check_pixels(images, vqvae.config.in_channels, downsampling(vqvae))
    return encode(vqvae, to_pixel_range(vqvae, images))


@torch.no_grad()
def decode_images(vqvae: VQModel, tokens: torch.Tensor) -> torch.Tensor:
    """
    [`decode`] to images in [-1, 1], as diffusers' image processors take them, for any tokenizer.

    Args:
        vqvae (`diffusers.VQModel`): the image tokenizer.
        tokens (`torch.LongTensor` of shape (B, h, w)): codebook entries; one outside counts as the nearest inside.

    Returns:
        `torch.Tensor` of shape (B, 3, H, W). A tokenizer for [-1, 1] overshoots a little; values of one for another
        range are clamped and cut to the 8-bit level below, as MaskGIT's images are, so that rounding keeps them.
    """
    tokens = tokens.clamp(0, vqvae.config.num_vq_embeddings - 1)
    pixels, (low, high) = _look_up(vqvae, tokens), pixel_range(vqvae)
    if (low, high) == (-1, 1):
        return pixels
    levels = (255 * (pixels.float() - low) / (high - low)).clamp(0, 255).floor()
    return from_levels(levels)


def _check_pixels(pixels: torch.Tensor, channels: int, multiple: int):
    if not isinstance(pixels, torch.Tensor) or not pixels.is_floating_point():
        raise ValueError(
            f"`pixels` must be a floating point tensor, got {getattr(pixels, 'dtype', type(pixels).__name__)}."
        )
    if pixels.ndim != 4 or pixels.shape[1] != channels or len(pixels) == 0:
        raise ValueError(
            f"`pixels` must have the shape (images, {channels}, height, width), got {tuple(pixels.shape)}."
        )
    height, width = pixels.shape[2:]
    if height < multiple or width < multiple or height % multiple or width % multiple:
        raise ValueError(
            f"`pixels` must have a height and width that are multiples of {multiple}, got {height} x {width}."
        )
