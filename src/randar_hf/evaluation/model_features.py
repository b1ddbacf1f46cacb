"""What a model of images sees in them, as features to probe and to match. B images, h x w tokens, D features."""

import hashlib

import torch
from diffusers import DiffusionPipeline
from torch import nn

from randar_hf.checks import check_int, is_int
from randar_hf.devices import execution_device
from randar_hf.orders import make_order
from randar_hf.vq import encode_images, from_levels, to_pixel_range

from .extractors import PooledOutput, hash_weights
from .inception import check_images


TOKENIZER = "tokenizer"  # in place of a layer: the latents of the image tokenizer


def encode_pixels(pipe: DiffusionPipeline, images: torch.Tensor) -> torch.Tensor:
    """Tokens (B, h * w) of uint8 images (B, 3, H, W) of the pipeline's size."""
    return encode_images(pipe.vqvae, from_levels(check_images(images))).flatten(1)


def image_size(pipe: DiffusionPipeline) -> int:
    """Pixels of a side of the images that a pipeline makes."""
    return max(pipe.transformer.config.grid) * pipe.image_processor.config.vae_scale_factor


class ModelFeatures(nn.Module):
    """
    Features of one layer of a model, the sequence read once or twice (paper, Sec. 3.4.4); one order for all images.

    Args:
        pipe: a [`RandARPipeline`] or [`RARPipeline`].
        layer (`int` or `"tokenizer"`): as for `extract_features`; the tokenizer's latents for comparison (Table C).
        rounds (`int`): how often the sequence is read.
        seed (`int`): of the random order.

    Raises:
        ValueError: for a layer or rounds that the model does not have.
    """

    is_published, resize_rule = False, "none"  # as FID's network

    def __init__(self, pipe: DiffusionPipeline, layer: int | str = -1, rounds: int = 2, seed: int = 0):
        super().__init__()
        depth = pipe.transformer.config.num_hidden_layers
        if layer != TOKENIZER and not (is_int(layer) and -depth - 1 <= layer <= depth):
            raise ValueError(f"`layer` must lie between {-depth - 1} and {depth} or be {TOKENIZER!r}, got {layer!r}.")
        check_int("rounds", rounds, 1)
        self.pipe, self.layer, self.rounds = [pipe], layer, rounds  # in a list: its modules are not this one's
        self.grid = pipe.transformer.config.grid
        name = pipe.transformer.config.fixed_order or "random"
        self.order = make_order(
            name, self.grid[0], self.grid[1], generator=torch.Generator().manual_seed(seed)
        )  # (1, N)
        self.name = f"layer {layer}, {rounds} rounds, seed {seed}"
        hashes = hash_weights(pipe.transformer) + hash_weights(pipe.vqvae)
        self.sha256 = hashlib.sha256(hashes.encode()).hexdigest()

    @torch.no_grad()
    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Features (B, D, h, w) of uint8 images (B, 3, H, W)."""
        (pipe,) = self.pipe
        if self.layer == TOKENIZER:
            pixels = to_pixel_range(pipe.vqvae, from_levels(check_images(images)))  # (B, 3, H, W)
            return pipe.vqvae.encode(pixels.to(execution_device(pipe.vqvae), pipe.vqvae.dtype)).latents.float()
        order = self.order.expand(len(images), -1)
        tokens = encode_pixels(pipe, images)
        features = pipe.transformer.extract_features(tokens, layer=self.layer, rounds=self.rounds, order=order)
        return features.float().transpose(1, 2).unflatten(2, self.grid)

    def forward(self, images: torch.Tensor) -> PooledOutput:
        """The mean over all positions, (B, D)."""
        return PooledOutput(pool=self.maps(images).mean(dim=(2, 3)))
