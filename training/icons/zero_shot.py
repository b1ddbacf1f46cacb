"""What a model of icons does that it was never trained for, in numbers, on icons of held-out families.

```sh
python -m randar_hf.training.icons.zero_shot --model runs/icons/icons --dataset runs/icons/images \
    --classifier runs/icons/classifier --source package --output runs/icons/zero-shot.json
```

It needs the extra `icons`, to draw the held-out icons at twice the size.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import tqdm
from PIL import Image
from torch.nn import functional as F
from transformers import HfArgumentParser

from randar_hf.evaluation.metrics import frechet_distance
from randar_hf.outputs import check_output_folder
from randar_hf.pipelines import RandARExtrapolationPipeline, RandARInpaintPipeline
from randar_hf.pipelines.loading import load_pipeline

from ..outputs import write_json
from ..validation import check_fields, check_positive
from .classifier import IconClassifier, load_classifier, read_icons, same_object, to_grey
from .data import HELD_OUT_SCALE, check_package, drop_duplicates, read_package
from .drawing import contact_sheet, place
from .measures import BATCH_SIZE, Icons, check_num_images, decode_images, generate_tokens, generators, load_icons
from .names import STYLES, class_names


KNOWN_FRACTIONS = (0.0, 0.25, 0.5, 0.75)
LARGE = 64  # pixels
EXTRAPOLATIONS = {
    "hierarchical": {},
    **{f"hierarchical_extrapolated_{count}": {"num_extrapolated": count} for count in (1, 2, 4)},
    **{f"hierarchical_guided_{scale}": {"spatial_guidance_scale": scale} for scale in (1.5, 2.5)},
    "flat": {"hierarchical": False},
    "flat_guided_2.5": {"hierarchical": False, "spatial_guidance_scale": 2.5},
}
SHEET_COLUMNS = 12


@dataclass(kw_only=True)
class ZeroShotConfig:
    """Settings of `evaluate_zero_shot`."""

    model: str = field(metadata={"help": "folder of a RandARPipeline of icons"})
    dataset: str = field(metadata={"help": "folder that `icons.data` wrote"})
    classifier: str = field(metadata={"help": "folder that `icons.classifier` wrote"})
    source: str = field(metadata={"help": "folder of an unpacked @iconify/json"})
    output: str = field(metadata={"help": "JSON file for the numbers; sheets of images lie beside it"})
    num_images: int = field(default=192, metadata={"help": "held-out icons that are painted on; icons generated"})
    num_classified: int = field(default=96, metadata={"help": "held-out icons whose likelihoods are compared"})
    num_orders: int = field(default=2, metadata={"help": "orders that likelihoods are averaged over"})
    num_probed: int = field(default=2400, metadata={"help": "training images of the probe"})
    seed: int = field(default=0, metadata={"help": "seed of the first image; each has its own"})

    def __post_init__(self):
        check_fields(self)
        check_positive(self, "num_classified", "num_orders", "num_probed")
        check_num_images(self)


def evaluate_zero_shot(config: ZeroShotConfig) -> dict:
    """Measure inpainting, editing, likelihoods, features, larger images and resampling of a model of icons.

    Returns:
        The numbers by name; fractions are from 0 to 1, likelihoods in bits per token. They are also in
        `config.output`, beside `inpainted.png`, `edited.png` and `enlarged.png`, whose icons are not picked: they are
        the first ones.

    Raises:
        FileNotFoundError: the model, the classifier or the source is not there.
        ValueError: the data cannot be loaded.
    """
    output = Path(config.output).expanduser()
    check_output_folder("output", output.parent)
    check_package(Path(config.source).expanduser())
    classifier = load_classifier(config.classifier)
    pipeline = load_pipeline("model", config.model, "RandARInpaintPipeline")
    pipeline.set_progress_bar_config(disable=True)
    train = load_icons(pipeline.vqvae, config.dataset, "train", config.num_probed)
    held_out = load_icons(pipeline.vqvae, config.dataset, "validation")
    output.parent.mkdir(parents=True, exist_ok=True)
    numbers = {}
    for name, measure in {
        "inpainting": lambda: inpainting_numbers(pipeline, classifier, held_out, config),
        "extrapolation": lambda: extrapolation_numbers(pipeline, classifier, config),
        "refinement": lambda: refinement_numbers(pipeline, classifier, config),
        "bits_per_token_by_known_fraction": lambda: known_fraction_numbers(pipeline.transformer, held_out, config),
        "likelihood_classification": lambda: classification_numbers(pipeline.transformer, held_out, config),
        "probe_accuracy": lambda: probe_numbers(pipeline.transformer, train, held_out, config),
    }.items():
        numbers[name] = measure()
        write_json(output, numbers)  # what is measured is not lost
    return numbers


def inpainting_numbers(pipeline: RandARInpaintPipeline, classifier, held_out: Icons, config: ZeroShotConfig) -> dict:
    """The right half of held-out icons painted anew, as the true class and as the next object."""
    icons = held_out.first(config.num_images)
    width, height = icons.images[0].size
    mask = Image.new("L", (width, height))
    mask.paste(255, (width // 2, 0, width, height))
    others = (icons.labels + len(STYLES)) % len(class_names())  # (n,), the next object in the same style
    same, edited = (inpaint(pipeline, icons.images, mask, labels, config.seed) for labels in (icons.labels, others))
    known = [np.array_equal(np.asarray(old)[:, : width // 2], np.asarray(new)[:, : width // 2])
             for old, new in zip(icons.images * 2, same + edited, strict=True)]  # fmt: skip
    named_same, named_edited = (read_icons(classifier, images)[0] for images in (same, edited))
    folder = Path(config.output).expanduser().parent
    for name, images in {"inpainted": same, "edited": edited}.items():
        rows = {"given": icons.images, name: images}
        contact_sheet(rows, SHEET_COLUMNS, size=64).save(folder / f"{name}.png")
    return {
        "named_as_true_object": same_object(named_same, icons.labels),
        "edited_named_as_new_object": same_object(named_edited, others),
        "edited_named_as_old_object": same_object(named_edited, icons.labels),
        "unedited_named_as_new_object": same_object(named_same, others),
        "known_pixels_equal": all(known),
    }


def inpaint(pipeline, images: list, mask: Image.Image, labels: torch.Tensor, seed: int) -> list:
    """Images, each from its own generator."""
    painted = []
    for start in tqdm(range(0, len(images), BATCH_SIZE), desc="inpainting"):
        batch = [image.convert("RGB") for image in images[start : start + BATCH_SIZE]]
        classes, own = labels[start : start + BATCH_SIZE], generators(seed + start, len(batch))
        painted += pipeline(classes, batch, [mask] * len(batch), generator=own).images
    return painted


def draw_large(source: str | Path) -> dict[str, list[Image.Image]]:
    """The icons of an unpacked @iconify/json at twice the size, of both splits."""
    icons = drop_duplicates(read_package(Path(source).expanduser())[0])
    return {split: [place(icon.ink, LARGE, HELD_OUT_SCALE) for icon in icons if icon.split == split]
            for split in ("train", "validation")}  # fmt: skip


@torch.no_grad()
def large_features(classifier: IconClassifier, images: list[Image.Image]) -> torch.Tensor:
    """The classifier's features (n, 128) of 64 x 64 pixels as they are, not scaled down: it is convolutional."""
    return torch.cat([classifier.features(batch) for batch in to_grey(images, LARGE).split(64)])


def extrapolation_numbers(pipeline, classifier, config: ZeroShotConfig) -> dict:
    """Icons of twice the size: objects named when they are scaled down, and distances from held-out icons drawn large.

    For comparison: as many training icons drawn large, and generated icons of the trained size enlarged.
    """
    larger = RandARExtrapolationPipeline(**pipeline.components)
    larger.set_progress_bar_config(disable=True)
    labels = [index % len(class_names()) for index in range(config.num_images)]
    drawn = draw_large(config.source)
    reference = large_features(classifier, drawn["validation"])
    chosen = torch.randperm(len(drawn["train"]), generator=torch.Generator().manual_seed(config.seed))
    small = decode_images(pipeline, generate_tokens(pipeline, labels, config.seed))
    sets = {
        "training_icons_drawn_large": [drawn["train"][index] for index in chosen[: config.num_images].tolist()],
        "trained_size_enlarged": [image.resize((LARGE, LARGE), Image.Resampling.BICUBIC) for image in small],
    }
    for name, settings in EXTRAPOLATIONS.items():
        given = {"num_extrapolated": 0, "spatial_guidance_scale": 1.0, **settings}
        sets[name] = []
        for start in tqdm(range(0, len(labels), BATCH_SIZE), desc=name):
            batch = labels[start : start + BATCH_SIZE]
            own = generators(config.seed + start, len(batch))
            sets[name] += larger(batch, generator=own, **given).images
    folder = Path(config.output).expanduser().parent
    contact_sheet(sets, SHEET_COLUMNS, size=LARGE).save(folder / "enlarged.png")
    numbers = {}
    for name, images in sets.items():
        numbers[name] = {"frechet_distance": frechet_distance(large_features(classifier, images), reference)}
        if name != "training_icons_drawn_large":  # of any class
            named, _ = read_icons(classifier, images)
            numbers[name]["named_as_asked"] = same_object(named, torch.tensor(labels))
    return numbers


def refinement_numbers(pipeline, classifier, config: ZeroShotConfig) -> dict:
    """Fraction named as asked, and bits per token given all tokens outside one of eight parts, by rounds."""
    model = pipeline.transformer
    labels = torch.arange(config.num_images) % len(class_names())
    tokens = generate_tokens(pipeline, labels.tolist(), config.seed)  # (n, N)
    numbers = {}
    for rounds in (0, 1, 2, 4):
        generator = torch.Generator().manual_seed(config.seed)
        pairs = zip(tokens.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)
        refined = torch.cat([model.refine(*pair, num_rounds=rounds, generator=generator) for pair in pairs])  # (n, N)
        generator = torch.Generator().manual_seed(config.seed)
        nats = model.token_log_likelihoods(refined, labels, generator=generator)
        numbers[f"rounds_{rounds}"] = {
            "named_as_asked": same_object(read_icons(classifier, decode_images(pipeline, refined))[0], labels),
            "bits_per_token_given_others": (-nats.mean() / math.log(2)).item(),
        }
    return numbers


def known_fraction_numbers(model, held_out: Icons, config: ZeroShotConfig) -> dict:
    """Bits per token of the unknown true tokens, with a fraction of the others given, chosen at random."""
    generator = torch.Generator().manual_seed(config.seed)
    ranks = torch.rand(held_out.tokens.shape, generator=generator).argsort(dim=1).argsort(dim=1)  # (n, N)
    bits = {}
    for fraction in KNOWN_FRACTIONS:
        known = ranks < round(fraction * ranks.shape[1])
        nats = model.log_likelihood(held_out.tokens, held_out.labels, known_mask=known, generator=generator)  # (n,)
        bits[str(fraction)] = (-nats.sum() / (~known).sum() / math.log(2)).item()
    return bits


def classification_numbers(model, held_out: Icons, config: ZeroShotConfig) -> dict:
    """Fractions of held-out icons whose true object, and true class, is the likeliest."""
    icons, generator = held_out.first(config.num_classified), torch.Generator().manual_seed(config.seed)
    named = []
    for tokens in tqdm(icons.tokens.split(8), desc="likelihoods"):
        nats = model.class_log_likelihoods(tokens, num_orders=config.num_orders, generator=generator)  # (8, C)
        named.append(nats.argmax(dim=1))
    named = torch.cat(named)  # (n,)
    return {
        "object": same_object(named, icons.labels),
        "class": (named == icons.labels).double().mean().item(),
    }


def probe_numbers(model, train: Icons, held_out: Icons, config: ZeroShotConfig) -> dict:
    """Objects that a linear probe names rightly on pooled features of the null class, by rounds and layer."""
    accuracy = {}
    for rounds in (1, 2):
        for layer in range(1, model.config.num_hidden_layers + 1):
            features = [pooled_features(model, icons, layer, rounds, config.seed) for icons in (train, held_out)]
            named = fit_probe(features[0], train.labels)(features[1]).argmax(1)  # (n,)
            accuracy[f"rounds_{rounds}_layer_{layer}"] = same_object(named, held_out.labels)
    return accuracy


def fit_probe(features: torch.Tensor, labels: torch.Tensor, penalty: float = 1e-3) -> Callable:
    """A logistic regression on features (n, D) of mean 0 and deviation 1, fitted until it is at its optimum or close.

    Returns:
        From features (m, D) to logits (m, C) of `class_names`.
    """
    norm = torch.nn.BatchNorm1d(features.shape[1], affine=False, momentum=None)
    scaled = norm(features)  # (n, D)
    linear = torch.nn.Linear(features.shape[1], len(class_names()))
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(linear(scaled), labels) + penalty * linear.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return torch.no_grad()(torch.nn.Sequential(norm.eval(), linear))


def pooled_features(model, icons: Icons, layer: int, rounds: int, seed: int) -> torch.Tensor:
    """Features (n, D) of icons, averaged over their positions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([
        model.extract_features(batch, layer=layer, rounds=rounds, generator=generator, pooled=True)
        for batch in tqdm(icons.tokens.split(BATCH_SIZE), desc=f"layer {layer}, {rounds} rounds")
    ])  # fmt: skip


def main() -> None:
    """Measure from the command line."""
    (config,) = HfArgumentParser(ZeroShotConfig).parse_args_into_dataclasses()
    print(json.dumps(evaluate_zero_shot(config), indent=2))


if __name__ == "__main__":
    main()
