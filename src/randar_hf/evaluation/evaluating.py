"""From a set of images to the numbers of the papers, with all that they depend on."""

import os
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn

from randar_hf.checks import check_int

from .feature_store import FeatureStore
from .images import ImageSet
from .metrics import frechet_distance, inception_score, kernel_distance, precision_recall
from .references import Reference, save_statistics, spread_indices


NEIGHBORS, SPLIT_SIZE = 3, 5000  # the ADM evaluator's
RELIABLE_COUNT = 10_000  # images below which the bias of FID is larger than what papers compare
LIBRARIES = ("randar-hf", "torch", "transformers", "numpy", "pillow")
# Names of the numbers: those of FID's network, and of any other, whose distances are never called FID.
INCEPTION_NAMES = {"pool": "fid", "spatial": "sfid", "kernel": "kid", "score": "inception_score"}
OTHER_NAMES = {"pool": "frechet_distance", "kernel": "kernel_distance", "score": "class_score"}


def evaluate_images(
    samples: ImageSet,
    reference: Reference,
    extractor: nn.Module,
    store_dir: str | os.PathLike,
    batch_size: int = 32,
    half_precision: bool = False,
    save_reference: str | os.PathLike | None = None,
    state: PartialState | None = None,
) -> dict | None:
    """
    Measure samples against a reference: FID, sFID, Inception Score, precision, recall and KID.

    Args:
        samples ([`ImageSet`]): the images to measure.
        reference ([`Reference`]): what they are compared with, of [`open_reference`].
        extractor (`torch.nn.Module`): [`InceptionFeatures`], [`VisionModelFeatures`], or a module of one's own with
            `name`, `sha256` and `resize_rule`.
        store_dir (`str`): folder for features; those that are there already are not computed again.
        batch_size (`int`): images that a process holds at once.
        half_precision (`bool`): distances in float16 for precision and recall, as the ADM evaluator's.
        save_reference (`str`, *optional*): npz file to write the reference's statistics to.
        state (`accelerate.PartialState`, *optional*): the processes that share the work.

    Returns:
        `dict`: the `metrics`, a `sentence` that says what they are worth, and what they depend on: the `network`, the
        `samples`, the `reference`, the `protocol` and the `versions`. `None` in all processes but the first.

    Raises:
        ValueError: for images or a reference that do not fit; before anything is written.
    """
    check_int("batch_size", batch_size, 1)
    check_counts(samples.count, reference)
    reference.check_dimensions(extractor(samples.batch([0])))
    store = FeatureStore(store_dir, samples, extractor)
    for part in (store, reference.store):
        if part is not None:
            part.fill(batch_size, state)
    if state is not None and not state.is_main_process:
        return None
    reference.complete()
    if save_reference is not None:
        save_statistics(save_reference, reference, extractor)
    metrics = _measure(store, reference, half_precision)
    return {
        "sentence": _describe(metrics, store, reference),
        "metrics": metrics,
        "network": {
            "name": extractor.name,
            "sha256": extractor.sha256,
            "is_published": extractor.is_published,
            "resize_rule": extractor.resize_rule,
        },
        "samples": _describe_images(samples),
        "reference": {
            "source": reference.name,
            "sha256": reference.sha256,
            "images": reference.count,
            "images_for_precision_and_recall": None if reference.features is None else len(reference.features),
            "crop": reference.crop,
        },
        "protocol": {"neighbors": NEIGHBORS, "split_size": SPLIT_SIZE, "half_precision": half_precision},
        "versions": {name: version(name) for name in LIBRARIES},
    }


def check_counts(samples: int, reference: Reference) -> None:
    """Raise a `ValueError` unless samples and reference have more images than the neighbours that are counted."""
    counts = {"samples": samples}
    if reference.store is not None:
        counts["reference"] = reference.store.images.count
    elif reference.features is not None:
        counts["reference"] = len(reference.features)
    for name, count in counts.items():
        if count <= NEIGHBORS:
            raise ValueError(f"`{name}` must hold at least {NEIGHBORS + 1} images, got {count}.")


def metric_names(extractor: nn.Module) -> dict[str, str]:
    """What the numbers of a network are called."""
    return INCEPTION_NAMES if extractor.name == "inception-2015-12-05" else OTHER_NAMES


def _measure(store: FeatureStore, reference: Reference, half_precision: bool) -> dict[str, float]:
    names, metrics = metric_names(store.extractor), {}
    for kind, statistics in reference.statistics.items():
        if store.has(kind):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of few images, which the sentence tells
                metrics[names[kind]] = frechet_distance(store.statistics(kind), statistics)
    if store.has("logits"):
        probabilities = torch.cat([torch.as_tensor(part).double().softmax(dim=1) for part in store.blocks("logits")])
        metrics[names["score"]] = inception_score(probabilities, SPLIT_SIZE)
    if reference.features is not None:
        pool = np.array(store.array("pool"))
        precision, recall = precision_recall(pool, reference.features, NEIGHBORS, half_precision)
        few = pool[spread_indices(len(pool))]
        distance, error = kernel_distance(few, reference.features)
        metrics |= {"precision": precision, "recall": recall}
        metrics |= {names["kernel"]: distance, f"{names['kernel']}_standard_error": error}
    return metrics


def _describe(metrics: dict[str, float], store: FeatureStore, reference: Reference) -> str:
    """One sentence with the main number and what keeps it from being compared with others."""
    extractor: Any = store.extractor
    count = store.images.count
    name = metric_names(extractor)["pool"]
    title = "FID" if name == "fid" else f"Frechet distance of {extractor.name} features (no FID)"
    if name not in metrics:
        return f"{title} of {count:,} images cannot be computed: {reference.name} has no statistics of the features."
    sentence = f"{title} of {count:,} images against {reference.name}: {metrics[name]:.4f}"
    dimension = len(next(iter(reference.statistics.values())).mean)
    if count < RELIABLE_COUNT:
        sentence += f", biased upwards by so few images (fewer than {RELIABLE_COUNT:,})"
    for kind, number in (("samples", count), ("reference images", reference.count)):
        if number is not None and number <= dimension:
            sentence += f"; fewer {kind} than the {dimension:,} features, so that a covariance is singular"
    if name == "fid" and not extractor.is_published:
        sentence += f"; the weights ({extractor.sha256[:8]}) are not the published ones: compare with no other FID"
    return sentence + "."


def _describe_images(images: ImageSet) -> dict:
    height, width = images.batch([0]).shape[2:]
    return {
        "source": images.name,
        "sha256": images.sha256,
        "count": images.count,
        "height": height,
        "width": width,
        "class_balance": images.class_balance(),
        "settings": images.settings,
    }
