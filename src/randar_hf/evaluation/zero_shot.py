"""Zero-shot classification by likelihood: the class under which an image is the likeliest, averaged over orders."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import tqdm
from diffusers import DiffusionPipeline
from matplotlib.figure import Figure

from randar_hf.checks import check_int
from randar_hf.files import whole_file
from randar_hf.outputs import check_no_links, check_output_folder

from .extractors import hash_weights
from .images import ImageSet
from .model_features import encode_pixels
from .probe import check_labels


def class_ids(images: ImageSet, id2label: dict[int, str], num_classes: int) -> np.ndarray:
    """
    The model's class (n,) of each image: by name where both name their classes, else the number itself.

    Raises:
        ValueError: if images have no classes, only some of their names are the model's, or a class is none of its
            `num_classes`.
    """
    if not images.class_names or not id2label:
        return check_labels(images, num_classes)
    known = {name.strip(): class_id for class_id, names in id2label.items() for name in [names, *names.split(",")]}
    unknown = [name for name in images.class_names if name not in known]
    if not unknown:
        return np.array([known[name] for name in images.class_names])[check_labels(images)]
    if len(unknown) < len(images.class_names):
        raise ValueError(f"`{images.argument}` must name its classes as the model does, got {unknown[0]!r}.")
    return check_labels(images, num_classes)


def classify_images(
    pipe: DiffusionPipeline,
    images: ImageSet,
    output_dir: str | os.PathLike,
    num_orders: int = 20,
    num_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> dict:
    """
    Classify images by a model's likelihood of their tokens under each class; called again, go on where it stopped.

    The log-likelihoods of the orders are averaged. Accuracy is given for the first 1, 2, ... of the orders.

    Args:
        pipe: a [`RandARPipeline`] or [`RARPipeline`].
        images ([`ImageSet`]): with classes, of the model's size.
        output_dir (`str`): folder for the scores of each image, which a stopped run finds again.
        num_orders (`int`): orders, at least 1; more than 1 only for a model of any order.
        num_images (`int`, *optional*): how many images, evenly spread over the set; all by default.
        batch_size (`int`): pairs of an image and a class that the model sees at once.
        seed (`int`): of the orders; each image has its own.

    Returns:
        `dict`: `accuracy`, `accuracy_by_orders`, `predictions` and `labels` (n,) and the `confusion` (C, C), true
        classes by predicted ones.

    Raises:
        ValueError: for an argument out of its range, images without classes, classes that the model does not have, or
            a folder that cannot be written or has a link in place of the scores.
    """
    for name, value in (("num_orders", num_orders), ("batch_size", batch_size)):
        check_int(name, value, 1)
    if num_images is not None:
        check_int("num_images", num_images, 1, images.count)
    fixed = pipe.transformer.config.fixed_order
    if fixed is not None and num_orders > 1:
        raise ValueError(f"`num_orders` must be 1 for a model of the order {fixed!r} alone, got {num_orders}.")
    num_classes = pipe.transformer.config.num_classes
    labels = class_ids(images, pipe.id2label, num_classes)
    indices = np.linspace(0, images.count - 1, num_images or images.count).round().astype(int)
    scores = _open_scores(output_dir, pipe, images, (len(indices), num_orders, num_classes), seed)
    for row in tqdm(np.flatnonzero(np.isnan(scores[:, -1, -1])), desc="images", unit=""):
        tokens = encode_pixels(pipe, images.batch([int(indices[row])]))
        generator = torch.Generator().manual_seed((seed + 0x9E3779B1 * int(indices[row])) % 2**32)
        found = [
            pipe.transformer.class_log_likelihoods(tokens, generator=generator, batch_size=batch_size)[0]
            for _ in range(num_orders)
        ]
        scores[row] = torch.stack(found).float().cpu().numpy()
        scores.flush()
    return _count(np.array(scores, dtype=np.float64), labels[indices])


def _open_scores(output_dir, pipe, images: ImageSet, shape: tuple[int, int, int], seed: int) -> np.memmap:
    """Log-likelihoods (n, orders, classes) on the disk, NaN where not computed yet; one file for each request."""
    about = {"images": images.sha256, "crop": images.crop, "shape": shape, "seed": seed}
    about["weights"] = hash_weights(pipe.transformer) + hash_weights(pipe.vqvae)
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    path = Path(output_dir) / f"scores-{name}.npy"
    check_output_folder("output_dir", path.parent)
    check_no_links("output_dir", path)
    if not path.exists():
        images.batch([0])  # raises for images that cannot be read, before anything is written
        path.parent.mkdir(parents=True, exist_ok=True)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with whole_file(path) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(shape[0]):
                file.write(np.full(shape[1:], np.nan, "<f4").tobytes())
    return np.load(path, mmap_mode="r+")


def _count(scores: np.ndarray, labels: np.ndarray) -> dict:
    """Accuracies and confusion of log-likelihoods (n, orders, C)."""
    means = scores.cumsum(axis=1) / np.arange(1, scores.shape[1] + 1)[:, None]
    predictions = means.argmax(axis=2)  # (n, orders): after each order
    accuracies = (predictions == labels[:, None]).mean(axis=0)
    confusion = np.zeros((scores.shape[2], scores.shape[2]), dtype=int)
    np.add.at(confusion, (labels, predictions[:, -1]), 1)
    return {
        "accuracy": float(accuracies[-1]),
        "accuracy_by_orders": {count + 1: float(value) for count, value in enumerate(accuracies)},
        "predictions": predictions[:, -1].tolist(),
        "labels": labels.tolist(),
        "confusion": confusion.tolist(),
    }


def draw_confusion(confusion: list[list[int]], names: list[str], path: str | os.PathLike) -> None:
    """Write an image of how often each true class, a row, was taken for each class, as fractions of the row."""
    counts = np.array(confusion, dtype=float)
    fractions = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = max(4.0, min(24.0, 0.3 * len(counts)))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(fractions, vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(image, label="fraction of the true class")
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(names) <= 50:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    figure.savefig(path)
