"""What a digits checkpoint does that it was never trained for, in numbers: held-out scans, judged by a classifier.

```sh
python -m randar_hf.training.experiments.digits_zero_shot
```
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from transformers import HfArgumentParser

from randar_hf import demo_checkpoint, vq
from randar_hf.pipelines import RandARExtrapolationPipeline, RandARInpaintPipeline

from ..outputs import write_json
from ..validation import check_positive
from .digits_data import scan_to_image, split_scans
from .digits_evaluation import BATCH_SIZE, classify, decode_images, generate_tokens, to_pixel_batch


CLASSES = 10
KNOWN_SHARES = (0.0, 0.25, 0.5, 0.75)
EXTRAPOLATIONS = {
    "hierarchical": {},
    "hierarchical_spatial_guidance": {"spatial_guidance_scale": 2.5},
    "hierarchical_high_frequencies_extrapolated": {"num_extrapolated": 1},
    "flat": {"hierarchical": False},
}


@dataclass(kw_only=True)
class ZeroShotConfig:
    """Settings of `evaluate_zero_shot`."""

    model: str | None = field(default=None, metadata={"help": "folder of a RandARPipeline of digits; the shipped one"})
    output: str | None = field(default=None, metadata={"help": "JSON file for the numbers"})
    num_images: int = field(default=200, metadata={"help": "held-out digits that are inpainted; digits generated"})
    num_orders: int = field(default=8, metadata={"help": "orders that likelihoods are averaged over"})
    seed: int = field(default=0, metadata={"help": "seed of the first image; each has its own"})

    def __post_init__(self):
        for name in ("num_images", "num_orders"):
            check_positive(self, name)


@dataclass
class Digits:
    """Scans, tokens (n, N) and labels (n,) of both splits, and the classifier that is fitted on the first."""

    tokens: dict[str, torch.Tensor]
    labels: dict[str, torch.Tensor]
    images: list[Image.Image]  # held-out
    classifier: SVC


def evaluate_zero_shot(config: ZeroShotConfig) -> dict:
    """Measure inpainting, editing, likelihoods, features, larger images and resampling of a digits checkpoint.

    Returns:
        The numbers by name; fractions are from 0 to 1, likelihoods in bits per token. The classifier is scikit-learn's
        `SVC()` on 8 x 8 values, fitted on the training scans.
    """
    pipeline = RandARInpaintPipeline.from_pretrained(config.model or demo_checkpoint())
    pipeline.set_progress_bar_config(disable=True)
    digits = load_digits(pipeline.vqvae)
    numbers = {
        "inpainting": inpainting_numbers(pipeline, digits, config),
        "bits_per_token_by_known_share": known_share_numbers(pipeline.transformer, digits, config),
        "likelihood_classification": classification_number(pipeline.transformer, digits, config),
        "probe_accuracy": probe_numbers(pipeline.transformer, digits, config),
        "extrapolation": extrapolation_numbers(pipeline, digits, config),
        "refinement": refinement_numbers(pipeline, digits, config),
    }
    if config.output:
        write_json(Path(config.output), numbers)
    return numbers


def load_digits(vqvae) -> Digits:
    """The scans of both splits as tokens."""
    splits = split_scans()
    images = {split: [scan_to_image(scan) for scan in scans] for split, (scans, _) in splits.items()}
    return Digits(
        tokens={split: vq.encode(vqvae, to_pixel_batch(images)).flatten(1) for split, images in images.items()},
        labels={split: torch.from_numpy(labels).long() for split, (_, labels) in splits.items()},
        images=images["validation"],
        classifier=SVC().fit(splits["train"][0].reshape(-1, 64), splits["train"][1]),
    )


def inpainting_numbers(pipeline: RandARInpaintPipeline, digits: Digits, config: ZeroShotConfig) -> dict:
    """The right half of held-out digits painted anew, as the true class and as the next one."""
    images, labels = digits.images[: config.num_images], digits.labels["validation"][: config.num_images]
    width, height = images[0].size
    mask = Image.new("L", (width, height))
    mask.paste(255, (width // 2, 0, width, height))
    others = (labels + 1) % CLASSES
    same, edited = (inpaint(pipeline, images, mask, classes, config.seed) for classes in (labels, others))
    known = [np.array_equal(np.asarray(old)[:, : width // 2], np.asarray(new)[:, : width // 2])
             for old, new in zip(images * 2, same + edited, strict=True)]  # fmt: skip
    seen_same, seen_edited = classify(digits.classifier, same), classify(digits.classifier, edited)
    return {
        "named_as_true_class": share(seen_same == labels.numpy()),
        "edited_named_as_new_class": share(seen_edited == others.numpy()),
        "unedited_named_as_new_class": share(seen_same == others.numpy()),
        "known_pixels_equal": all(known),
    }


def inpaint(pipeline, images: list, mask: Image.Image, labels: torch.Tensor, seed: int) -> list:
    """Images, each from its own generator."""
    painted = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(batch))]
        classes = labels[start : start + BATCH_SIZE]
        rgb = [image.convert("RGB") for image in batch]
        painted += pipeline(classes, rgb, [mask] * len(batch), generator=generators).images
    return painted


def known_share_numbers(model, digits: Digits, config: ZeroShotConfig) -> dict:
    """Bits per token of the unknown true tokens, with a fraction of the others given, chosen at random."""
    tokens, labels = digits.tokens["validation"], digits.labels["validation"]
    generator = torch.Generator().manual_seed(config.seed)
    ranks = torch.rand(tokens.shape, generator=generator).argsort(dim=1).argsort(dim=1)  # (n, N)
    bits = {}
    for known_share in KNOWN_SHARES:
        known = ranks < round(known_share * tokens.shape[1])
        nats = model.log_likelihood(tokens, labels, known_mask=known, generator=generator)  # (n,)
        bits[str(known_share)] = (-nats.sum() / (~known).sum() / math.log(2)).item()
    return bits


def classification_number(model, digits: Digits, config: ZeroShotConfig) -> float:
    """Fraction of held-out digits whose true class is the likeliest."""
    generator = torch.Generator().manual_seed(config.seed)
    nats = model.class_log_likelihoods(
        digits.tokens["validation"], num_orders=config.num_orders, generator=generator
    )  # (n, CLASSES)
    return share((nats.argmax(dim=1) == digits.labels["validation"]).numpy())


def probe_numbers(model, digits: Digits, config: ZeroShotConfig) -> dict:
    """Accuracy of a linear probe on pooled features of the null class, by rounds and layer."""
    accuracy = {}
    for rounds in (1, 2):
        for layer in range(1, model.config.num_hidden_layers + 1):
            features = {}
            for split, tokens in digits.tokens.items():
                generator = torch.Generator().manual_seed(config.seed)
                features[split] = torch.cat(
                    [
                        model.extract_features(batch, layer=layer, rounds=rounds, generator=generator, pooled=True)
                        for batch in tokens.split(BATCH_SIZE)
                    ]
                ).numpy()  # (n, D)
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            probe.fit(features["train"], digits.labels["train"])
            found = probe.score(features["validation"], digits.labels["validation"])
            accuracy[f"rounds_{rounds}_layer_{layer}"] = float(found)
    return accuracy


def extrapolation_numbers(pipeline, digits: Digits, config: ZeroShotConfig) -> dict:
    """Fraction of digits of twice the size that the classifier, which sees them scaled down, names as asked."""
    larger = RandARExtrapolationPipeline(**pipeline.components)
    larger.set_progress_bar_config(disable=True)
    labels = [index % CLASSES for index in range(config.num_images)]
    defaults = {"num_extrapolated": 0, "spatial_guidance_scale": 1.0}
    named = {}
    for name, settings in EXTRAPOLATIONS.items():
        images = []
        for start in range(0, len(labels), BATCH_SIZE):
            batch = labels[start : start + BATCH_SIZE]
            generators = [torch.Generator().manual_seed(config.seed + start + index) for index in range(len(batch))]
            images += larger(batch, generator=generators, **{**defaults, **settings}).images
        named[name] = share(classify(digits.classifier, images) == np.array(labels))
    return named


def refinement_numbers(pipeline, digits: Digits, config: ZeroShotConfig) -> dict:
    """Share named as asked, and bits per token given all tokens outside one of eight parts, by rounds."""
    model, labels = pipeline.transformer, [index % CLASSES for index in range(config.num_images)]
    tokens = generate_tokens(pipeline, labels, None, config.seed)  # (n, N)
    numbers = {}
    for rounds in (0, 1, 2, 4):
        refined = torch.cat(
            [
                model.refine(batch, classes, num_rounds=rounds, generator=torch.Generator().manual_seed(config.seed))
                for batch, classes in zip(
                    tokens.split(BATCH_SIZE), torch.tensor(labels).split(BATCH_SIZE), strict=True
                )
            ]
        )
        nats = model.token_log_likelihoods(
            refined, torch.tensor(labels), generator=torch.Generator().manual_seed(config.seed)
        )
        numbers[f"rounds_{rounds}"] = {
            "named_as_asked": share(classify(digits.classifier, decode_images(pipeline, refined)) == np.array(labels)),
            "bits_per_token_given_others": (-nats.mean() / math.log(2)).item(),
        }
    return numbers


def share(right: np.ndarray) -> float:
    """Fraction of what is true."""
    return float(np.mean(right))


def main() -> None:
    """Measure from the command line."""
    (config,) = HfArgumentParser(ZeroShotConfig).parse_args_into_dataclasses()
    print(json.dumps(evaluate_zero_shot(config), indent=2))


if __name__ == "__main__":
    main()
