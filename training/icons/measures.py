"""What the measurements of models of icons share: data with tokens, generated tokens, and bits per token."""

import math
from dataclasses import dataclass

import torch
from accelerate.utils import tqdm
from PIL import Image

from randar_hf import RandARForCausalLM, RARForCausalLM, vq
from randar_hf.orders import make_order

from ..data.pixels import to_pixels
from ..data.reading import load_rows


BATCH_SIZE = 48
ENCODED_AT_ONCE = 256


@dataclass
class Icons:
    """Icons of one split: tokens (n, N), labels (n,) and images."""

    tokens: torch.Tensor
    labels: torch.Tensor
    images: list[Image.Image]

    def first(self, count: int) -> "Icons":
        """The first `count` of them, which are a random sample: the rows of the data set are shuffled."""
        return Icons(self.tokens[:count], self.labels[:count], self.images[:count])


def check_num_images(config) -> None:
    """Raise a `ValueError` unless `config.num_images` is at least 2, of which a distance can be computed."""
    if config.num_images < 2:
        raise ValueError(f"`num_images` must be at least 2, got {config.num_images}")


def load_icons(vqvae, dataset: str, split: str, count: int | None = None) -> Icons:
    """A split of the data set, or its first `count` rows, with their tokens."""
    rows = load_rows(dataset, split if count is None else f"{split}[:{count}]")
    images = rows["image"][:]
    pieces = (images[start : start + ENCODED_AT_ONCE] for start in range(0, len(images), ENCODED_AT_ONCE))
    tokens = torch.cat([vq.encode(vqvae, to_pixel_batch(piece)).flatten(1) for piece in pieces])  # (n, N)
    return Icons(tokens, torch.tensor(rows["label"][:]), images)


def to_pixel_batch(images: list[Image.Image]) -> torch.Tensor:
    """Images as (n, 3, H, W) in [-1, 1]."""
    return torch.stack([to_pixels(image, image.width) for image in images])


def generators(first: int, count: int) -> list[torch.Generator]:
    """A generator for each of `count` images, seeded from `first` on."""
    return [torch.Generator().manual_seed(first + index) for index in range(count)]


def generate_tokens(pipeline, labels: list[int], seed: int, **settings) -> torch.Tensor:
    """Tokens (n, N) of an icon for each label, each from its own generator; `settings` are those of `generate`."""
    batches = []
    for start in tqdm(range(0, len(labels), BATCH_SIZE), desc="icons"):
        batch = labels[start : start + BATCH_SIZE]
        own = generators(seed + start, len(batch))
        batches.append(pipeline.transformer.generate(batch, generator=own, **settings))
    return torch.cat(batches)


def decode_images(pipeline, tokens: torch.Tensor) -> list[Image.Image]:
    """Images of token rows (n, N)."""
    pixels = pipeline.decode_latents(tokens, *pipeline.transformer.config.grid)
    return pipeline.image_processor.postprocess(pixels, output_type="pil")


@torch.no_grad()
def bits_per_token(model: RandARForCausalLM | RARForCausalLM, icons: Icons, seed: int) -> float:
    """Mean cross-entropy in bits of the tokens in the order of generation, a new one for each icon if it is random."""
    generator = torch.Generator().manual_seed(seed)
    order = make_order(
        model.generation_config.order, *model.config.grid, batch_size=len(icons.tokens), generator=generator
    )  # (n, N)
    losses = [
        model(input_ids=ids, class_labels=classes, order=ranks, labels=ids).loss * len(ids)
        for ids, classes, ranks in zip(
            *(x.split(BATCH_SIZE) for x in (icons.tokens, icons.labels, order)), strict=True
        )
    ]
    return (sum(losses) / len(icons.tokens) / math.log(2)).item()


def unigram_bits(train: torch.Tensor, validation: torch.Tensor, vocab_size: int) -> float:
    """Bits per token of `validation` under the token frequencies of `train`, one added to every count."""
    counts = torch.bincount(train.flatten(), minlength=vocab_size) + 1.0  # (V,)
    return -(counts / counts.sum()).log2()[validation].mean().item()


def tokens_by_frequency(tokens: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Tokens (count, N), each position sampled by itself from the rows of `tokens` (n, N)."""
    rows = torch.randint(len(tokens), (count, tokens.shape[1]), generator=generator)
    return tokens.gather(0, rows)
