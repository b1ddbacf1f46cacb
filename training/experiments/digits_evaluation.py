"""The numbers of a digits checkpoint, against the held-out scans and a classifier that never saw a generated digit.

```sh
python -m randar_hf.training.experiments.digits_evaluation
```
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import tqdm
from sklearn.svm import SVC
from torch.nn import functional as F
from transformers import HfArgumentParser

from randar_hf import RandARForCausalLM, RARForCausalLM, demo_checkpoint, vq
from randar_hf.orders import make_order
from randar_hf.pipelines.loading import load_pipeline

from ..data.pixels import to_pixels
from ..outputs import write_json
from ..validation import check_positive
from .digits_data import DIGIT_NAMES, image_to_scan, scan_to_image, split_scans


BATCH_SIZE = 50


@dataclass(kw_only=True)
class DigitsEvaluationConfig:
    """Settings of `evaluate_digits`."""

    model: str | None = field(default=None, metadata={"help": "folder of a pipeline of digits; the shipped RandAR"})
    output: str | None = field(default=None, metadata={"help": "JSON file for the numbers"})
    images_per_class: int = field(default=50, metadata={"help": "generated digits of each class"})
    seed: int = field(default=0, metadata={"help": "seed of the first image; each has its own"})

    def __post_init__(self):
        check_positive(self, "images_per_class")


def evaluate_digits(config: DigitsEvaluationConfig) -> dict:
    """Measure a digits checkpoint.

    Returns:
        The numbers by name; fractions are from 0 to 1. The classifier is scikit-learn's `SVC()` on 8 x 8 values.

        - `classifier_accuracy_real`, `..._reconstructed`: on the held-out scans, and after the tokenizer.
        - `class_accuracy`: fraction of digits generated with the stored settings that it names as the class asked for.
        - `class_accuracy_third_of_steps`, `class_accuracy_one_token_per_step`: the same at N // 3 and at N steps, for
          models that take any number of them.
        - `repeated_share`: fraction of generated digits whose tokens are all those of one training digit.
        - `frechet_distance`, `frechet_distance_real`: of these digits, and of the held-out images, from the training
          images, in 8 x 8 values.
        - `validation_bits_per_token`, `unigram_bits_per_token`, `uniform_bits_per_token`.
        - `psnr`: of the tokenizer on the held-out images, mean, in dB.
    """
    pipeline = load_pipeline("model", Path(config.model or demo_checkpoint()).expanduser())
    pipeline.set_progress_bar_config(disable=True)
    splits = split_scans()
    classifier = SVC().fit(splits["train"][0].reshape(-1, 64), splits["train"][1])
    images = {split: [scan_to_image(scan) for scan in scans] for split, (scans, _) in splits.items()}
    pixels = {split: to_pixel_batch(images) for split, images in images.items()}
    tokens = {split: vq.encode(pipeline.vqvae, batch).flatten(1) for split, batch in pixels.items()}  # (n, N)
    labels = {split: torch.from_numpy(targets).long() for split, (_, targets) in splits.items()}

    numbers = tokenizer_numbers(pipeline, classifier, splits["validation"], pixels["validation"], tokens["validation"])
    numbers["validation_bits_per_token"] = bits_per_token(
        pipeline.transformer, tokens["validation"], labels["validation"], config.seed
    )
    vocab_size = pipeline.transformer.config.vocab_size
    numbers["unigram_bits_per_token"] = unigram_bits(tokens["train"], tokens["validation"], vocab_size)
    numbers["uniform_bits_per_token"] = math.log2(vocab_size)
    train_scans = to_scans(images["train"])  # as blurred by being images as what is compared with them
    numbers |= generation_numbers(pipeline, classifier, train_scans, tokens["train"], config)
    numbers["frechet_distance_real"] = frechet_distance(to_scans(images["validation"]), train_scans)
    if config.output:
        write_json(Path(config.output), numbers)
    return numbers


def to_pixel_batch(images: list) -> torch.Tensor:
    """Images as (n, 3, H, W) in [-1, 1]."""
    return torch.stack([to_pixels(image, image.width) for image in images])


def classify(classifier: SVC, images: list) -> np.ndarray:
    """The digit, (n,), that the classifier sees in each image."""
    return classifier.predict(to_scans(images).reshape(-1, 64))


def to_scans(images: list) -> np.ndarray:
    """Images as scans, (n, 8, 8)."""
    return np.stack([image_to_scan(image) for image in images])


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of normal distributions fitted to scans, (n, 8, 8) and (m, 8, 8): what FID is without a network."""
    first, second = first.reshape(-1, 64), second.reshape(-1, 64)
    means, covariances = first.mean(0) - second.mean(0), [np.cov(scans, rowvar=False) for scans in (first, second)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0))  # (64,)
    return float(means @ means + np.trace(covariances[0] + covariances[1]) - 2 * roots.sum())


def tokenizer_numbers(pipeline, classifier, held_out, pixels, tokens) -> dict:
    """PSNR, and the classifier's accuracy on the held-out scans before and after the tokenizer."""
    scans, labels = held_out
    height, width = pipeline.transformer.config.grid
    restored = vq.decode(pipeline.vqvae, tokens.unflatten(1, (height, width))).clamp(-1, 1)  # (n, 3, H, W)
    psnr = 10 * torch.log10(4 / F.mse_loss(restored, pixels, reduction="none").mean((1, 2, 3)))  # (n,)
    images = pipeline.image_processor.postprocess(restored, output_type="pil")
    return {
        "psnr": psnr.mean().item(),
        "classifier_accuracy_real": float(classifier.score(scans.reshape(-1, 64), labels)),
        "classifier_accuracy_reconstructed": float((classify(classifier, images) == labels).mean()),
    }


@torch.no_grad()
def bits_per_token(
    model: RandARForCausalLM | RARForCausalLM, tokens: torch.Tensor, labels: torch.Tensor, seed: int
) -> float:
    """Mean cross-entropy in bits of `tokens` (n, N) in the order of generation, drawn for each row if it is random."""
    generator = torch.Generator().manual_seed(seed)
    order = make_order(
        model.generation_config.order, *model.config.grid, batch_size=len(tokens), generator=generator
    )  # (n, N)
    losses = [
        model(input_ids=ids, class_labels=classes, order=places, labels=ids).loss * len(ids)
        for ids, classes, places in zip(*(x.split(BATCH_SIZE) for x in (tokens, labels, order)), strict=True)
    ]
    return (sum(losses) / len(tokens) / math.log(2)).item()


def unigram_bits(train: torch.Tensor, validation: torch.Tensor, vocab_size: int) -> float:
    """Bits per token of `validation` under the token frequencies of `train`, one added to every count."""
    counts = torch.bincount(train.flatten(), minlength=vocab_size) + 1.0  # (V,)
    return -(counts / counts.sum()).log2()[validation].mean().item()


def generation_numbers(
    pipeline, classifier, train_scans: np.ndarray, train_tokens: torch.Tensor, config: DigitsEvaluationConfig
) -> dict:
    """Class accuracy at the stored number of steps, at a third of the tokens and one a step; repeats, and distance."""
    num_tokens = pipeline.transformer.config.num_tokens
    variants = {"class_accuracy": None}
    if pipeline.transformer.config.fixed_order is None:
        variants |= {
            "class_accuracy_third_of_steps": num_tokens // 3,
            "class_accuracy_one_token_per_step": num_tokens,
        }
    labels = [label for label in range(len(DIGIT_NAMES)) for _ in range(config.images_per_class)]
    numbers = {}
    for name, steps in variants.items():
        tokens = generate_tokens(pipeline, labels, steps, config.seed)  # (n, N)
        images = decode_images(pipeline, tokens)
        numbers[name] = float((classify(classifier, images) == np.array(labels)).mean())
        if steps is None:
            repeated = (tokens[:, None] == train_tokens).all(-1).any(1)  # (n,)
            numbers["repeated_share"] = repeated.double().mean().item()
            numbers["frechet_distance"] = frechet_distance(to_scans(images), train_scans)
    return numbers


def generate_tokens(pipeline, labels: list[int], steps: int | None, seed: int) -> torch.Tensor:
    """Tokens (n, N) of one digit per label, each from its own generator."""
    batches = []
    for start in tqdm(range(0, len(labels), BATCH_SIZE), desc=f"digits, {steps or 'default'} steps"):
        batch = labels[start : start + BATCH_SIZE]
        generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(batch))]
        batches.append(pipeline.transformer.generate(batch, num_inference_steps=steps, generator=generators))
    return torch.cat(batches)


def decode_images(pipeline, tokens: torch.Tensor) -> list:
    """PIL images of token rows (n, N)."""
    pixels = pipeline.decode_latents(tokens, *pipeline.transformer.config.grid)
    return pipeline.image_processor.postprocess(pixels, output_type="pil")


def main() -> None:
    """Measure from the command line."""
    (config,) = HfArgumentParser(DigitsEvaluationConfig).parse_args_into_dataclasses()
    print(json.dumps(evaluate_digits(config), indent=2))


if __name__ == "__main__":
    main()
