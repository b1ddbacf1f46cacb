"""What samples are compared with: statistics of the ADM evaluator, statistics saved here, or images."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from randar_hf.checks import is_int
from randar_hf.files import whole_file

from .feature_store import FeatureStore
from .images import hash_file, list_arrays, open_images, read_arrays
from .inception import SPATIAL_SHAPE, InceptionFeatures
from .metrics import FeatureStatistics, check_features


MAX_FEATURES = 10_000  # of a reference, for precision, recall and KID: as many as the ADM evaluator's files hold
MOMENTS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass
class Reference:
    """
    What samples are compared with: statistics that a file holds, or images, or both.

    Attributes:
        name (`str`): where it comes from.
        sha256 (`str`): of the file, or of the files of the images.
        count (`int` or `None`): images behind the statistics, where the file tells.
        crop (`int` or `None`): side of the centred square that is cut of each image.
        statistics (`dict`): [`FeatureStatistics`] by the kind of feature.
        features (`numpy.ndarray` of shape (m, d) or `None`): pool features of at most 10,000 images, for precision,
            recall and KID.
        store ([`FeatureStore`] or `None`): the features of the images; once it is filled, [`complete`] takes what the
            file does not hold.
    """

    name: str
    sha256: str
    count: int | None
    crop: int | None = None
    statistics: dict[str, FeatureStatistics] = field(default_factory=dict)
    features: np.ndarray | None = None
    store: FeatureStore | None = None

    def complete(self) -> None:
        """Take statistics and features from the store."""
        if self.store is None:
            return
        if not self.statistics:
            kinds = [kind for kind in MOMENTS if self.store.has(kind)]
            self.statistics = {kind: self.store.statistics(kind) for kind in kinds}
        self.features = self.store.array("pool")[spread_indices(self.store.images.count)]

    def check_dimensions(self, outputs) -> None:
        """Raise a `ValueError` unless its statistics are of as many features as a network's outputs."""
        found = {kind: len(statistics.mean) for kind, statistics in self.statistics.items()}
        found |= {} if self.features is None else {"pool": self.features.shape[1]}
        for kind, dimension in found.items():
            features = getattr(outputs, kind, None)
            if features is not None and features.shape[1] != dimension:
                raise ValueError(
                    f"`reference` must hold statistics of the same features, got others: {dimension} {kind} features "
                    f"there, {features.shape[1]} here."
                )


def spread_indices(count: int) -> np.ndarray:
    """At most 10,000 indices, evenly spread over `count` images."""
    return np.linspace(0, count - 1, min(count, MAX_FEATURES)).round().astype(int)


def spatial_order() -> torch.Tensor:
    """Where the spatial features in the ADM evaluator's order, channels last, lie in ours, channels first."""
    channels, height, width = SPATIAL_SHAPE
    return torch.arange(channels * height * width).view(channels, height, width).permute(1, 2, 0).flatten()


def open_reference(
    source: str | os.PathLike,
    extractor: nn.Module,
    store_dir: str | os.PathLike,
    crop: int | None = None,
    **columns: str,
) -> Reference:
    """
    Open what samples are compared with; no features are computed yet.

    Args:
        source (`str`): an npz file of the ADM evaluator or of [`save_statistics`], or what [`open_images`] takes.
        extractor (`torch.nn.Module`): whose features are compared.
        store_dir (`str`): folder for features.
        crop (`int`, *optional*): side of the centred square of reference images.
        columns: `split`, `image_column` and `label_column` of a data set.

    Raises:
        FileNotFoundError: if there is no such thing.
        ValueError: for a cut or pickled file, images that cannot be read, statistics that are incomplete or wrong, or
            those of other features.
    """
    path = Path(source).expanduser()
    names = list_arrays("reference", path) if path.suffix == ".npz" else []
    if "mu" not in names:
        images = open_images("reference", source, crop, **columns)
        return Reference(
            images.name, images.sha256, images.count, crop, store=FeatureStore(store_dir, images, extractor)
        )
    if crop is not None:
        raise ValueError(f"`crop` must not be given with a reference of statistics, got {crop}.")
    reference = _read_statistics(path, extractor)
    if reference.features is None and "arr_0" in names:
        reference.store = FeatureStore(store_dir, open_images("reference", path), extractor)
    return reference


def _read_statistics(path: Path, extractor: nn.Module) -> Reference:
    """The statistics of a file, after it was made sure that they are of the features at hand."""
    arrays = read_arrays("reference", path, ["mu", "sigma", "mu_s", "sigma_s", "pool", "about"])
    about = _read_about(path, arrays.get("about"))
    found = {"network": extractor.name, "sha256": extractor.sha256}
    differing = [name for name in found if name in about and about[name] != found[name]]
    if differing:
        values = "; ".join(f"{name}: {about[name]!r} there, {found[name]!r} here" for name in differing)
        raise ValueError(f"`reference` must hold statistics of the same features, got others. {values}.")
    statistics = {}
    for kind, (mean, covariance) in MOMENTS.items():
        if (mean in arrays) != (covariance in arrays):
            raise ValueError(f"`reference` must hold `{mean}` and `{covariance}` together, got one of them.")
        if mean in arrays:
            statistics[kind] = _read_moments(path, kind, arrays[mean], arrays[covariance], about.get("count"))
    features = arrays.get("pool")
    if features is not None:
        check_features("reference", features)
    return Reference(str(path), hash_file(path), about.get("count"), None, statistics, features)


def _read_moments(path: Path, kind: str, mean: np.ndarray, covariance: np.ndarray, count) -> FeatureStatistics:
    if kind == "spatial":
        size = int(np.prod(SPATIAL_SHAPE))
        if mean.shape != (size,) or covariance.shape != (size, size):
            raise ValueError(f"`reference` must have {size} numbers in `mu_s`, got {mean.shape}.")
        order = spatial_order().argsort().numpy()
        mean, covariance = mean[order], covariance[order][:, order]
    try:
        return FeatureStatistics.from_moments(mean, covariance, count)
    except ValueError as error:
        raise ValueError(f"`reference` must hold statistics, got {str(path)!r}: {error}") from error


def _read_about(path: Path, text: np.ndarray | None) -> dict:
    """What a file says of its statistics; one that says nothing is the ADM evaluator's."""
    if text is None:
        return {"network": InceptionFeatures.name}
    try:
        about = dict(json.loads(str(text)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"`reference` must hold an `about` that can be read, got {str(path)!r}: {error}") from error
    count = about.get("count")
    if count is not None and (not is_int(count) or count < 2):
        raise ValueError(f"`reference` must be of at least 2 images, got a count of {count!r} in {str(path)!r}.")
    return about


def save_statistics(path: str | os.PathLike, reference: Reference, extractor: nn.Module) -> Path:
    """
    Write the statistics of a reference, so that its images are read but once.

    Args:
        path (`str`): npz file with `mu`, `sigma`, `mu_s` and `sigma_s`, as the ADM evaluator's, the features `pool`
            for precision and recall, and `about`: JSON with the network, its hash, and the images.
    """
    arrays: dict[str, Any] = {} if reference.features is None else {"pool": reference.features}
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
        "crop": reference.crop,
    }
    path = Path(path)
    with whole_file(path) as file:
        np.savez(file, about=json.dumps(about), **arrays)
    return path
