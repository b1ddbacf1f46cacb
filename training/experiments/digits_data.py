"""The handwritten digits of scikit-learn as images: 1,797 scans of 8 x 8 values, a fixed fifth of them held out."""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


DIGIT_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
IMAGE_SIZE = 32
HELD_OUT_SEED = 0


def split_scans() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The scans, (n, 8, 8) with ink from 0 to 16, and their labels, (n,), of `"train"` and `"validation"`.

    The held-out fifth has the same fraction of every class and is the same in every run.
    """
    digits = load_digits()
    train, validation = train_test_split(
        np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=HELD_OUT_SEED
    )
    return {
        "train": (digits.images[train], digits.target[train]),
        "validation": (digits.images[validation], digits.target[validation]),
    }


def scan_to_image(scan: np.ndarray) -> PILImage.Image:
    """An (8, 8) scan as a 32 x 32 RGB image, light ink on dark ground."""
    small = PILImage.fromarray((scan * 255 / 16).round().astype(np.uint8))
    return small.resize((IMAGE_SIZE, IMAGE_SIZE), PILImage.Resampling.BICUBIC).convert("RGB")


def image_to_scan(image: PILImage.Image) -> np.ndarray:
    """An image of any size as an (8, 8) scan of values from 0 to 16: the mean of every block."""
    small = image.convert("L").resize((8, 8), PILImage.Resampling.BOX)
    return np.asarray(small, dtype=np.float64) * 16 / 255


def write_digits(folder: Path) -> None:
    """Write the images as `train.parquet` and `validation.parquet` with the columns `image` and `label`."""
    folder.mkdir(parents=True, exist_ok=True)
    features = Features({"image": Image(), "label": ClassLabel(names=DIGIT_NAMES)})
    for split, (scans, labels) in split_scans().items():
        rows = {"image": [scan_to_image(scan) for scan in scans], "label": labels.tolist()}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
