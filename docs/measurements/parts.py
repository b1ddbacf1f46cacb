"""The parts of an evaluation by Inception, timed one by one, and what they come to for n samples and m references.

python docs/measurements/parts.py [SAMPLES [REFERENCES]]

Seconds of the processor on one thread, with random weights and random features, so that nothing need be downloaded.
"""

import sys
import time
from collections.abc import Callable

import torch
from diffusers import VQModel

from randar_hf.evaluation import (
    FeatureStatistics,
    InceptionFeatures,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from randar_hf.vq import decode_images


ROWS, KEPT = 2048, 10_000  # of a block of features; rows that KID takes


def seconds(function: Callable) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def image_decoder() -> VQModel:
    """LlamaGen's tokenizer in its sizes."""
    return VQModel(
        down_block_types=["DownEncoderBlock2D"] * 4 + ["AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 128, 256, 256, 512],
        layers_per_block=2,
        latent_channels=256,
        num_vq_embeddings=16_384,
        vq_embed_dim=8,
        lookup_from_codebook=True,
    ).eval()


@torch.no_grad()
def main(samples: int = 50_000, references: int = 10_000) -> None:
    """Print a table of seconds and hours."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, 256, 256), dtype=torch.uint8, generator=generator)
    first, second = (torch.rand(ROWS, 2048, generator=generator, dtype=torch.float64) for _ in range(2))
    network, statistics = InceptionFeatures(), FeatureStatistics()
    network(images[:1])  # warms up
    image = seconds(lambda: network(images)) / len(images)
    vqvae, tokens = image_decoder(), torch.randint(16_384, (1, 16, 16), generator=generator)
    decoding = seconds(lambda: decode_images(vqvae, tokens))
    block = seconds(lambda: statistics.update(first))
    other = FeatureStatistics.of([second])
    distance = seconds(lambda: frechet_distance(statistics, other))
    neighbours = seconds(lambda: precision_recall(first, second)) / 3  # of each set in itself and of both
    kernels = seconds(lambda: kernel_distance(first, second)) / 3
    pairs = (samples**2 + references**2 + samples * references) / ROWS**2
    rows = [
        ("image decoder, 256 x 256 pixels", "an image", decoding, decoding * samples),
        ("Inception, samples and references", "an image", image, image * (samples + references)),
        ("mean and covariance, pool and spatial", f"{ROWS:,} rows of 2,048", block, 2 * block * samples / ROWS),
        ("Frechet distance, pool and spatial", "one", distance, 2 * distance),
        ("precision and recall", f"{ROWS:,} x {ROWS:,} distances", neighbours, neighbours * pairs),
        ("KID", f"{ROWS:,} x {ROWS:,} products", kernels, 3 * kernels * (KEPT / ROWS) ** 2),
    ]
    print(f"| part | measured for | seconds | hours for {samples:,} samples |\n| --- | --- | --- | --- |")
    for name, unit, found, total in rows:
        print(f"| {name} | {unit} | {found:.2f} | {total / 3600:.2f} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
