"""The numbers of a model of icons, judged by the classifier and by icons of families that nobody has seen.

```sh
python -m randar_hf.training.icons.evaluation --model runs/icons/model/pipeline --dataset runs/icons/images \
    --classifier runs/icons/classifier --output-dir runs/icons/evaluation
```
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser

from randar_hf.evaluation.metrics import frechet_distance
from randar_hf.pipelines.loading import load_pipeline

from ..outputs import write_json
from ..validation import check_fields
from .classifier import load_classifier, read_icons, same_object
from .drawing import contact_sheet
from .measures import (
    Icons,
    bits_per_token,
    check_num_images,
    decode_images,
    generate_tokens,
    load_icons,
    tokens_by_frequency,
    unigram_bits,
)
from .names import class_names


SHOWN = 20
WINDOW = 8  # of lossless decoding
PUBLISHED_STEPS = 88 / 256  # of the tokens


@dataclass(kw_only=True)
class IconEvaluationConfig:
    """Settings of `evaluate_icons`."""

    model: str = field(metadata={"help": "folder of a RandARPipeline or RARPipeline of icons"})
    dataset: str = field(metadata={"help": "folder that `icons.data` wrote"})
    classifier: str = field(metadata={"help": "folder that `icons.classifier` wrote"})
    output_dir: str = field(metadata={"help": "folder for the numbers and two sheets of images"})
    num_images: int = field(default=800, metadata={"help": "generated icons, of the classes in turn"})
    seed: int = field(default=0, metadata={"help": "seed of the first image; each has its own"})

    def __post_init__(self):
        check_fields(self)
        check_num_images(self)


def evaluate_icons(config: IconEvaluationConfig) -> dict:
    """Measure a model of icons.

    Returns:
        The numbers by name; fractions are from 0 to 1. They are also in `numbers.json` beside `generated.png`, the
        first images of each class, and `nearest.png`, the first 20 with the training icon whose features are nearest.

        - `classifier_accuracy_real`, `..._reconstructed`: objects named on the held-out families, before and after the
          tokenizer.
        - `object_accuracy`, `class_accuracy`: generated icons named as the object asked for, and as the object in the
          style asked for, with the stored settings.
        - `object_accuracy_third_of_steps`, for models that take any number of steps, as 88 of 256;
          `..._one_token_per_step`; `lossless_equal_fraction`: icons whose tokens are the same in lossless decoding.
        - `repeated_fraction`: generated icons whose tokens are all those of a training image.
        - `frechet_distance`: in the classifier's features, of generated to held-out icons; `..._train`, of as many
          training icons; `..._frequencies`, of tokens sampled from the frequencies of each position.
        - `bits_per_token`, `unigram_bits_per_token`: of the held-out tokens.

    Raises:
        FileNotFoundError: the model or the classifier is not there.
        ValueError: the data cannot be loaded.
    """
    classifier = load_classifier(config.classifier)
    pipeline = load_pipeline("model", Path(config.model).expanduser())
    pipeline.set_progress_bar_config(disable=True)
    train, held_out = (load_icons(pipeline.vqvae, config.dataset, split) for split in ("train", "validation"))
    labels = [index % len(class_names()) for index in range(config.num_images)]
    tokens = generate_tokens(pipeline, labels, config.seed)  # (n, N)
    images = decode_images(pipeline, tokens)
    numbers = {
        **accuracy_numbers(pipeline, classifier, held_out),
        **generation_numbers(pipeline, classifier, images, labels, config.seed),
        "repeated_fraction": repeated_fraction(tokens, train.tokens),
        **distance_numbers(pipeline, classifier, images, train, held_out, config.seed),
        "bits_per_token": bits_per_token(pipeline.transformer, held_out, config.seed),
        "unigram_bits_per_token": unigram_bits(train.tokens, held_out.tokens, pipeline.transformer.config.vocab_size),
    }
    folder = Path(config.output_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    by_class = {name: images[index :: len(class_names())] for index, name in enumerate(class_names())}
    contact_sheet(by_class, columns=12).save(folder / "generated.png")
    nearest_sheet(classifier, images[:SHOWN], train.images).save(folder / "nearest.png")
    write_json(folder / "numbers.json", numbers)
    return numbers


def accuracy_numbers(pipeline, classifier, held_out: Icons) -> dict:
    """What the classifier names rightly of the held-out icons, before and after the tokenizer."""
    real, _ = read_icons(classifier, held_out.images)
    restored, _ = read_icons(classifier, decode_images(pipeline, held_out.tokens))
    return {
        "classifier_accuracy_real": same_object(real, held_out.labels),
        "classifier_accuracy_reconstructed": same_object(restored, held_out.labels),
    }


def generation_numbers(pipeline, classifier, images: list, labels: list[int], seed: int) -> dict:
    """What is named as asked of generated icons, and of those in fewer steps, one by one and without loss."""
    asked, config = torch.tensor(labels), pipeline.transformer.config
    named, _ = read_icons(classifier, images)
    numbers = {
        "object_accuracy": same_object(named, asked),
        "class_accuracy": (named == asked).double().mean().item(),
    }
    steps = {"one_token_per_step": config.num_tokens}
    if config.fixed_order is None:
        steps["third_of_steps"] = round(config.num_tokens * PUBLISHED_STEPS)
    for name, count in steps.items():
        others = generate_tokens(pipeline, labels, seed, num_inference_steps=count)  # (n, N)
        named, _ = read_icons(classifier, decode_images(pipeline, others))
        numbers[f"object_accuracy_{name}"] = same_object(named, asked)
        if count == config.num_tokens:
            lossless = generate_tokens(pipeline, labels, seed, speculative_window=WINDOW)  # (n, N)
            numbers["lossless_equal_fraction"] = (lossless == others).all(1).double().mean().item()
    return numbers


def repeated_fraction(tokens: torch.Tensor, train: torch.Tensor) -> float:
    """Fraction of rows of tokens (n, N) that are rows of the training tokens (m, N)."""
    known = set(map(tuple, train.tolist()))
    return sum(tuple(row) in known for row in tokens.tolist()) / len(tokens)


def distance_numbers(pipeline, classifier, images: list, train: Icons, held_out: Icons, seed: int) -> dict:
    """Frechet distances to the held-out icons, in the classifier's features."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(train.images), generator=generator)[: len(images)].tolist()
    sets = {
        "frechet_distance": images,
        "frechet_distance_train": [train.images[index] for index in chosen],
        "frechet_distance_frequencies": decode_images(
            pipeline, tokens_by_frequency(train.tokens, len(images), generator)
        ),
    }
    _, reference = read_icons(classifier, held_out.images)
    return {name: frechet_distance(read_icons(classifier, some)[1], reference) for name, some in sets.items()}


def nearest_sheet(classifier, images: list, train_images: list):
    """A sheet of images, each above the training image that is nearest in the classifier's features."""
    _, features = read_icons(classifier, images)
    _, others = read_icons(classifier, train_images)
    nearest = torch.cdist(features, others).argmin(1).tolist()
    rows = {"generated": images, "nearest": [train_images[index] for index in nearest]}
    return contact_sheet(rows, columns=len(images), size=64)


def main() -> None:
    """Measure from the command line."""
    (config,) = HfArgumentParser(IconEvaluationConfig).parse_args_into_dataclasses()
    print(json.dumps(evaluate_icons(config), indent=2))


if __name__ == "__main__":
    main()
