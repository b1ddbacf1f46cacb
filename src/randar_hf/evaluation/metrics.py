"""Distances and scores of sets of features: n samples, m reference images, d features each."""

import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from randar_hf.checks import check_int


Features = np.ndarray | torch.Tensor
BLOCK_ROWS = 2048  # rows of a block of distances


class FeatureStatistics:
    """
    Mean and covariance of features that come in batches, in float64; the features themselves are not kept.

    Attributes:
        mean (`torch.Tensor` of shape (d,)), covariance (`torch.Tensor` of shape (d, d)): of the features so far, the
            covariance divided by n - 1.
        count (`int` or `None`): n; `None` where it is not known.
    """

    def __init__(self):
        self.count, self.mean, self._scatter = 0, None, None

    @classmethod
    def from_moments(cls, mean: Features, covariance: Features, count: int | None = None) -> "FeatureStatistics":
        """
        Statistics that were computed before.

        Raises:
            ValueError: for shapes that do not fit, numbers that are not finite, or a covariance that is not symmetric.
        """
        mean, covariance = _to_float64("mean", mean), _to_float64("covariance", covariance)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"`covariance` must have the shape (d, d) of a mean (d,), got {tuple(covariance.shape)} "
                f"and {tuple(mean.shape)}."
            )
        if not torch.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8):
            raise ValueError("`covariance` must be symmetric, got one that is not.")
        statistics = cls()
        statistics.count, statistics.mean = count, mean
        statistics._scatter = covariance if count is None else covariance * (count - 1)
        return statistics

    @property
    def covariance(self) -> torch.Tensor:
        return self._scatter if self.count is None else self._scatter / (self.count - 1)

    def update(self, features: Features) -> "FeatureStatistics":
        """Add a batch (b, d); the means of both parts are merged, so that no digits are lost (Chan et al., 1979)."""
        features = check_features("features", features, least=1)
        if self.count == 0:
            self.mean = features.new_zeros(features.shape[1])
            self._scatter = features.new_zeros(features.shape[1], features.shape[1])
        mean, total = features.mean(dim=0), self.count + len(features)
        centred, step = features - mean, mean - self.mean
        self._scatter += centred.T @ centred + torch.outer(step, step) * (self.count * len(features) / total)
        self.mean = self.mean + step * (len(features) / total)
        self.count = total
        return self

    @classmethod
    def of(cls, batches: Iterable[Features]) -> "FeatureStatistics":
        """Statistics of batches of features (b, d)."""
        statistics = cls()
        for batch in batches:
            statistics.update(batch)
        return statistics


class PrecisionRecall(NamedTuple):
    """Fractions from 0 to 1: `precision` of the samples, `recall` of the reference."""

    precision: float
    recall: float


class KernelDistance(NamedTuple):
    """The squared maximum mean discrepancy `value`, which may be below 0, and its `standard_error`."""

    value: float
    standard_error: float

    def __float__(self) -> float:
        return self.value


def frechet_distance(samples: Features | FeatureStatistics, reference: Features | FeatureStatistics) -> float:
    """
    Distance of the normal distributions fitted to two sets: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    On the pool features of [`InceptionFeatures`] this is FID (arXiv 1706.08500), on its spatial ones sFID
    (arXiv 2103.03841). The trace of the root is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which
    is symmetric, within the range of S1: singular covariances need no epsilon.

    Args:
        samples, reference: features (n, d) and (m, d), or their [`FeatureStatistics`].

    Returns:
        `float`: at least 0. Fewer images than features are warned of: the distance is biased upwards.

    Raises:
        ValueError: for another shape, fewer than two images, NaN, or two sets of other numbers of features.
    """
    pair = [_statistics(name, value) for name, value in (("samples", samples), ("reference", reference))]
    first, second = pair
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"`reference` must have the {len(first.mean)} features of `samples`, got {len(second.mean)}.")
    if first.mean.device != second.mean.device:
        raise ValueError("`reference` must be on the device of `samples`, got another one.")
    dimension = len(first.mean)
    offset = first.mean - second.mean
    traces = torch.trace(first.covariance) + torch.trace(second.covariance)
    smaller, larger = sorted(pair, key=lambda part: float("inf") if part.count is None else part.count)
    if smaller.count is not None and smaller.count <= dimension:
        warnings.warn(
            f"The Frechet distance of {smaller.count} images in {dimension} features is biased upwards: "
            "a covariance is singular.",
            stacklevel=2,
        )
    values, vectors = torch.linalg.eigh(smaller.covariance)
    inside = values > dimension * torch.finfo(torch.float64).eps * values[-1].clamp(min=0)  # the range of S1
    root = vectors[:, inside] * values[inside].sqrt()  # (d, r)
    product = root.T @ larger.covariance @ root  # (r, r)
    roots = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt()
    return max(float(offset @ offset + traces - 2 * roots.sum()), 0.0)


def inception_score(probabilities: Features, split_size: int = 5000) -> float:
    """
    exp of the mean KL divergence of p(y | x) from p(y) (arXiv 1606.03498), averaged over splits in the given order.

    Args:
        probabilities (n, C): of the classes; rows sum to 1. The ADM evaluator's are the softmax of the logits of
            [`InceptionFeatures`], without bias.
        split_size (`int`): images of a split; the last one may be smaller.

    Returns:
        `float`: from 1 to C.

    Raises:
        ValueError: for another shape, NaN, or rows that are no probabilities.
    """
    probabilities = check_features("probabilities", probabilities, least=1)
    check_int("split_size", split_size, 1)
    sums = probabilities.sum(dim=1)
    if probabilities.min() < 0 or (sums - 1).abs().max() > 1e-3:
        raise ValueError(
            f"`probabilities` must be at least 0 and sum to 1 in each row, got a least value of "
            f"{probabilities.min():.4g} and sums from {sums.min():.4g} to {sums.max():.4g}."
        )
    scores = []
    for part in probabilities.split(split_size):
        entropy = torch.special.entr(part).sum(dim=1).mean()
        scores.append(torch.exp(torch.special.entr(part.mean(dim=0)).sum() - entropy))
    return float(torch.stack(scores).mean())


def precision_recall(
    samples: Features, reference: Features, neighbors: int = 3, half_precision: bool = False
) -> PrecisionRecall:
    """
    Improved precision and recall (arXiv 1904.06991): fractions of each set within the other's balls.

    The ball of a feature reaches to its `neighbors`-th nearest of the same set, itself not counted. Precision is the
    fraction of the samples inside a ball of the reference, recall that of the reference inside a ball of the samples.

    Args:
        samples (n, d), reference (m, d): features. Distances are computed in blocks, in float64.
        neighbors (`int`): k; below both n and m.
        half_precision (`bool`): compute distances in float16 and, where a block overflows, in float32, as the ADM
            evaluator does; its numbers depend on that.

    Raises:
        ValueError: for another shape, NaN, other numbers of features, or fewer than k + 1 images.
    """
    samples, reference = _check_pair(samples, reference, least=check_int("neighbors", neighbors, 1) + 1)
    if not half_precision:
        centre = reference.mean(dim=0)  # distances stay, rounding is less
        samples, reference = samples - centre, reference - centre
    distances = _half_distances if half_precision else _squared_distances
    sample_radii, reference_radii = (_radii(part, neighbors, distances) for part in (samples, reference))
    sample_inside = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
    reference_inside = torch.zeros(len(reference), dtype=torch.bool, device=samples.device)
    for rows, columns in _blocks(len(samples), len(reference)):
        block = distances(samples[rows], reference[columns])
        sample_inside[rows] |= (block <= reference_radii[columns]).any(dim=1)
        reference_inside[columns] |= (block <= sample_radii[rows, None]).any(dim=0)
    return PrecisionRecall(sample_inside.double().mean().item(), reference_inside.double().mean().item())


def kernel_distance(samples: Features, reference: Features) -> KernelDistance:
    """
    The unbiased squared MMD with the kernel (x.y / d + 1)^3, which is KID (arXiv 1801.01401); right for few samples.

    Args:
        samples (n, d), reference (m, d): features; at least three of each.

    Returns:
        [`KernelDistance`]: over all pairs, and its standard error by the jackknife over both sets.

    Raises:
        ValueError: for another shape, NaN, other numbers of features, or fewer than three images.
    """
    samples, reference = _check_pair(samples, reference, least=3)
    n, m = len(samples), len(reference)
    within_samples, within_reference = _kernel_sums(samples), _kernel_sums(reference)  # (n,), (m,)
    across_samples = torch.zeros_like(within_samples)
    across_reference = torch.zeros_like(within_reference)
    for rows, columns in _blocks(n, m):
        block = _cubic_kernel(samples[rows], reference[columns])
        across_samples[rows] += block.sum(dim=1)
        across_reference[columns] += block.sum(dim=0)
    first, second, cross = within_samples.sum(), within_reference.sum(), across_samples.sum()
    terms = first / (n * (n - 1)), second / (m * (m - 1)), -2 * cross / (n * m)
    without_sample = (  # (n,): the value without each sample
        (first - 2 * within_samples) / ((n - 1) * (n - 2)) + terms[1] - 2 * (cross - across_samples) / ((n - 1) * m)
    )
    without_reference = (  # (m,)
        (second - 2 * within_reference) / ((m - 1) * (m - 2))
        + terms[0]
        - 2 * (cross - across_reference) / ((m - 1) * n)
    )
    variances = [
        (len(part) - 1) / len(part) * (part - part.mean()).square().sum()
        for part in (without_sample, without_reference)
    ]
    return KernelDistance(float(sum(terms)), float(sum(variances)) ** 0.5)


def check_features(name: str, features: Features, least: int = 2) -> torch.Tensor:
    """
    Features (n, d) as a float64 tensor.

    Raises:
        TypeError: if they are no array or tensor.
        ValueError: if there are fewer than `least`, the shape is another, or a number is not finite.
    """
    features = _to_float64(name, features)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"`{name}` must have the shape (images, features), got {tuple(features.shape)}.")
    if len(features) < least:
        raise ValueError(f"`{name}` must hold at least {least} images, got {len(features)}.")
    return features


def _to_float64(name: str, values: Features) -> torch.Tensor:
    if not isinstance(values, np.ndarray | torch.Tensor):
        raise TypeError(f"`{name}` must be an array or a tensor, got {type(values).__name__}.")
    if isinstance(values, np.ndarray) and values.dtype.kind not in "fiu":
        raise ValueError(f"`{name}` must hold numbers, got {values.dtype}.")
    values = torch.as_tensor(values)
    if values.is_complex():
        raise ValueError(f"`{name}` must hold real numbers, got {values.dtype}.")
    values = values.detach().double()
    if not values.isfinite().all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity in it.")
    return values


def _statistics(name: str, value: Features | FeatureStatistics) -> FeatureStatistics:
    if not isinstance(value, FeatureStatistics):
        return FeatureStatistics.of([check_features(name, value)])
    if value.count is not None and value.count < 2:
        raise ValueError(f"`{name}` must be of at least 2 images, got {value.count}.")
    return value


def _check_pair(samples: Features, reference: Features, least: int) -> list[torch.Tensor]:
    pair = [check_features(*part, least) for part in (("samples", samples), ("reference", reference))]
    if pair[0].shape[1] != pair[1].shape[1]:
        raise ValueError(
            f"`reference` must have the {pair[0].shape[1]} features of `samples`, got {pair[1].shape[1]}."
        )
    return pair


def _blocks(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    for start in range(0, rows, BLOCK_ROWS):
        for other in range(0, columns, BLOCK_ROWS):
            yield slice(start, start + BLOCK_ROWS), slice(other, other + BLOCK_ROWS)


def _squared_distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Squared distances (b, c), exactly 0 where the two are alike up to the rounding of the products."""
    norms = first.square().sum(dim=1)[:, None] + second.square().sum(dim=1)  # (b, c)
    distances = torch.addmm(norms, first, second.T, alpha=-2)
    rounding = torch.finfo(first.dtype).eps * first.shape[1]
    return distances.masked_fill(distances <= rounding * norms, 0)


def _half_distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Squared distances (b, c) in float16, or in float32 if one of the block is not finite."""
    for dtype in (torch.float16, torch.float32):
        left, right = first.to(dtype), second.to(dtype)
        norms = left.square().sum(dim=1)[:, None], right.square().sum(dim=1)[None]
        distances = (norms[0] - 2 * (left @ right.T) + norms[1]).clamp(min=0)
        if distances.isfinite().all():
            break
    return distances.double()


def _radii(features: torch.Tensor, neighbors: int, distances) -> torch.Tensor:
    """Squared distance of each feature (n, d) to its k-th neighbour, itself not counted."""
    radii = []
    for start in range(0, len(features), BLOCK_ROWS):
        block = features[start : start + BLOCK_ROWS]
        parts = [distances(block, part) for part in features.split(BLOCK_ROWS)]
        radii.append(torch.cat(parts, dim=1).kthvalue(neighbors + 1, dim=1).values)  # the nearest is itself
    return torch.cat(radii)


def _cubic_kernel(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _kernel_sums(features: torch.Tensor) -> torch.Tensor:
    """For each feature (n, d) the sum of its kernel with all others, (n,)."""
    sums = torch.zeros(len(features), dtype=features.dtype, device=features.device)
    for rows, columns in _blocks(len(features), len(features)):
        sums[rows] += _cubic_kernel(features[rows], features[columns]).sum(dim=1)
    return sums - (features.square().sum(dim=1) / features.shape[1] + 1) ** 3
