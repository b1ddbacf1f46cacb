"""What samples are compared with: statistics of the ADM evaluator, statistics saved here, or images."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .feature_store import FeatureStore
from .images import hash_file, open_images, read_arrays
from .inception import SPATIAL_SHAPE, InceptionFeatures
from .metrics import FeatureStatistics


MAX_FEATURES = 10_000  # of a reference, for precision, recall and KID: as many as the ADM evaluator's files hold
MOMENTS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass
class Reference:
    """
    Statistics of reference images by the kind of feature, and the pool features of at most 10,000 of them.

    Attributes:
        count (`int` or `None`): images behind the statistics, where the file tells.
        features (`numpy.ndarray` of shape (m, d) or `None`): for precision, recall and KID.
        sha256 (`str`): of the file, or of the files of the images.
    """

    name: str
    sha256: str
    count: int | None
    statistics: dict[str, FeatureStatistics]
    features: np.ndarray | None


def spread_indices(count: int) -> np.ndarray:
    """At most 10,000 indices, evenly spread over `count` images."""
    return np.linspace(0, count - 1, min(count, MAX_FEATURES)).round().astype(int)


def spatial_order() -> torch.LongTensor:
    """Where the spatial features in the ADM evaluator's order, channels last, lie in ours, channels first."""
    channels, height, width = SPATIAL_SHAPE
    return torch.arange(channels * height * width).view(channels, height, width).permute(1, 2, 0).flatten()


def is_statistics_file(path: str | os.PathLike) -> bool:
    """Whether a reference is an npz file with a mean, rather than images."""
    path = Path(path).expanduser()
    if path.suffix != ".npz" or not path.is_file():
        return False
    return "mu" in read_arrays("reference", path, ["mu"])


def check_statistics_file(path: Path, extractor: nn.Module) -> dict[str, np.ndarray]:
    """
    The arrays of a file of statistics, after it was made sure that they are of the features at hand.

    Raises:
        ValueError: for a cut or pickled file, statistics that are incomplete, or those of other features.
    """
    arrays = read_arrays("reference", path, ["mu", "sigma", "mu_s", "sigma_s", "pool", "about"])
    for mean, covariance in MOMENTS.values():
        if (mean in arrays) != (covariance in arrays):
            raise ValueError(f"`reference` must hold `{mean}` and `{covariance}` together, got one of them.")
    if "mu_s" in arrays and arrays["mu_s"].shape != (np.prod(SPATIAL_SHAPE),):
        raise ValueError(
            f"`reference` must have {np.prod(SPATIAL_SHAPE)} numbers in `mu_s`, got {arrays['mu_s'].shape}."
        )
    about = json.loads(str(arrays["about"])) if "about" in arrays else {"network": InceptionFeatures.name}
    found = {"network": extractor.name, "sha256": extractor.sha256}
    differing = [name for name in found if name in about and about[name] != found[name]]
    if differing:
        values = "; ".join(f"{name}: {about[name]!r} there, {found[name]!r} here" for name in differing)
        raise ValueError(f"`reference` must hold statistics of the same features, got others. {values}.")
    return arrays


def open_reference(
    source: str | os.PathLike, extractor: nn.Module, store_dir: str | os.PathLike, crop: int | None, **columns: str
) -> tuple[dict[str, np.ndarray], FeatureStore | None]:
    """
    The arrays of statistics that a reference is, and the store for features of the images that it has.

    Args:
        source (`str`): an npz file of the ADM evaluator or of [`save_statistics`], or what [`open_images`] takes.
        crop (`int`, *optional*): side of the centred square of reference images.
        columns: `split`, `image_column` and `label_column` of a data set.

    Raises:
        FileNotFoundError, ValueError: as [`open_images`] and [`check_statistics_file`] do.
    """
    if not is_statistics_file(source):
        return {}, FeatureStore(store_dir, open_images("reference", source, crop, **columns), extractor)
    path = Path(source).expanduser()
    if crop is not None:
        raise ValueError(f"`crop` must not be given with a reference of statistics, got {crop}.")
    arrays = check_statistics_file(path, extractor)
    has_images = "pool" not in arrays and read_arrays("reference", path, ["arr_0"])
    return arrays, FeatureStore(store_dir, open_images("reference", path), extractor) if has_images else None


def read_reference(source: str | os.PathLike, arrays: dict[str, np.ndarray], store: FeatureStore | None) -> Reference:
    """What [`open_reference`] found, once its store is filled."""
    if not arrays:
        kinds = [kind for kind in MOMENTS if store.array(kind) is not None]
        statistics = {kind: store.statistics(kind) for kind in kinds}
        features = store.array("pool")[spread_indices(store.images.count)]
        return Reference(store.images.name, store.images.sha256, store.images.count, statistics, features)
    count = json.loads(str(arrays["about"])).get("count") if "about" in arrays else None
    statistics = {}
    for kind, (mean, covariance) in MOMENTS.items():
        if mean in arrays:
            order = spatial_order().argsort().numpy() if kind == "spatial" else slice(None)
            moments = arrays[mean][order], arrays[covariance][order][:, order]
            statistics[kind] = FeatureStatistics.from_moments(*moments, count)
    features = np.array(store.array("pool")) if store is not None else arrays.get("pool")
    return Reference(str(source), hash_file(Path(source).expanduser()), count, statistics, features)


def save_statistics(path: str | os.PathLike, reference: Reference, extractor: nn.Module, crop: int | None) -> Path:
    """
    Write the statistics of a reference, so that its images are read but once.

    Args:
        path (`str`): npz file with `mu`, `sigma`, `mu_s` and `sigma_s`, as the ADM evaluator's, the features `pool`
            for precision and recall, and `about`: JSON with the network, its hash, and the images.
    """
    arrays = {}
    for kind, statistics in reference.statistics.items():
        order = spatial_order() if kind == "spatial" else torch.arange(len(statistics.mean))
        mean, covariance = MOMENTS[kind]
        arrays[mean] = statistics.mean[order].numpy()
        arrays[covariance] = statistics.covariance[order][:, order].numpy()
    about = {
        "network": extractor.name,
        "sha256": extractor.sha256,
        "resize_rule": extractor.resize_rule,
        "count": reference.count,
        "images": reference.name,
        "images_sha256": reference.sha256,
        "crop": crop,
    }
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.savez(file, pool=reference.features, about=json.dumps(about), **arrays)
    partial.replace(path)
    return path
