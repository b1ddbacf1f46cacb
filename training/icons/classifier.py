"""The judge of generated icons: a small convolutional network that names them, trained on real icons alone.

```sh
python -m randar_hf.training.icons.classifier --dataset runs/icons/images --output-dir runs/icons/classifier
```
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import tqdm
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import HfArgumentParser

from randar_hf.vq import from_levels

from ..data.reading import load_rows
from ..outputs import write_json
from ..validation import check_fields, check_positive
from .data import IMAGE_SIZE
from .names import STYLES, class_names


WIDTHS = (32, 64, 128)
WEIGHTS_FILE = "classifier.safetensors"


@dataclass(kw_only=True)
class ClassifierConfig:
    """Settings of `train_classifier`."""

    dataset: str = field(metadata={"help": "folder that `icons.data` wrote"})
    output_dir: str = field(metadata={"help": "folder for the weights and their accuracy"})
    epochs: int = field(default=6, metadata={"help": "passes over the training icons"})
    batch_size: int = field(default=64, metadata={"help": "icons per step"})
    learning_rate: float = field(default=3e-3, metadata={"help": "highest learning rate, of one cycle"})
    seed: int = field(default=0, metadata={"help": "seed of weights and order"})

    def __post_init__(self):
        check_fields(self)
        check_positive(self, "epochs", "batch_size", "learning_rate")


class IconClassifier(nn.Module):
    """Three blocks of two convolutions; the mean over the last block's positions is what distances are measured in."""

    def __init__(self):
        super().__init__()
        layers, width = [], 1
        for wider in WIDTHS:
            for stride in (1, 2):
                layers += [nn.Conv2d(width, wider, 3, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
                width = wider
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(width, len(class_names()))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features (B, 128) of grey pixels (B, 1, 32, 32) in [-1, 1]."""
        return self.blocks(pixels).mean((2, 3))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of `class_names`."""
        return self.head(self.features(pixels))


def to_grey(images: list[Image.Image], size: int = IMAGE_SIZE) -> torch.Tensor:
    """Images as grey pixels (n, 1, size, size) in [-1, 1]; larger ones are scaled down."""
    grey = [np.asarray(image.convert("L").resize((size, size), Image.Resampling.BOX)) for image in images]
    return from_levels(torch.from_numpy(np.stack(grey))[:, None])


@torch.no_grad()
def read_icons(classifier: IconClassifier, images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
    """The class (n,) that the classifier names for each image, and its features (n, 128)."""
    features = torch.cat([classifier.features(batch) for batch in to_grey(images).split(256)])  # (n, 128)
    return classifier.head(features).argmax(1), features


def same_object(first: torch.Tensor, second: torch.Tensor) -> float:
    """Fraction of rows whose classes (n,) are of one object, whatever their styles."""
    return (first // len(STYLES) == second // len(STYLES)).double().mean().item()


def train_classifier(config: ClassifierConfig) -> dict:
    """Train the classifier and write `classifier.safetensors` and `accuracy.json`.

    Returns:
        `accuracy`, of objects, and `class_accuracy`, of objects with their style, from 0 to 1, on held-out families.

    Raises:
        ValueError: the data cannot be loaded.
    """
    train, validation = (load_rows(config.dataset, split) for split in ("train", "validation"))
    torch.manual_seed(config.seed)
    classifier = IconClassifier()
    pixels, labels = to_grey(train["image"][:]), torch.tensor(train["label"][:])  # (n, 1, 32, 32), (n,)
    steps = config.epochs * -(-len(labels) // config.batch_size)
    optimizer = torch.optim.AdamW(classifier.parameters(), config.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
    for _ in tqdm(range(config.epochs), desc="classifier"):
        for rows in torch.randperm(len(labels)).split(config.batch_size):
            loss = F.cross_entropy(classifier(pixels[rows]), labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    named, _ = read_icons(classifier.eval(), validation["image"][:])
    true = torch.tensor(validation["label"][:])
    numbers = {"accuracy": same_object(named, true), "class_accuracy": (named == true).double().mean().item()}
    folder = Path(config.output_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(classifier.state_dict(), folder / WEIGHTS_FILE)
    write_json(folder / "accuracy.json", numbers)
    return numbers


def load_classifier(folder: str | Path) -> IconClassifier:
    """The classifier in a folder that `train_classifier` wrote.

    Raises:
        FileNotFoundError: there is none.
    """
    file = Path(folder).expanduser() / WEIGHTS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"`classifier` must be a folder with {WEIGHTS_FILE}, got {str(folder)!r}")
    classifier = IconClassifier()
    classifier.load_state_dict(load_file(file))
    return classifier.eval()


def main() -> None:
    """Train the classifier from the command line."""
    (config,) = HfArgumentParser(ClassifierConfig).parse_args_into_dataclasses()
    print(json.dumps(train_classifier(config), indent=2))


if __name__ == "__main__":
    main()
