"""Metrics on features: the reference program's numbers, closed forms, mirrored cases, wrong input."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from randar_hf.evaluation import (
    FeatureStatistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    metrics,
    precision_recall,
)


CASE = Path(__file__).parents[1] / "fixtures" / "inception"
PAIRS = [frechet_distance, precision_recall, kernel_distance]


@pytest.fixture(scope="module")
def expected():
    return load_file(CASE / "expected.safetensors"), json.loads((CASE / "case.json").read_text())["metrics"]


def gaussian(count, dimension=4, seed=0):
    return torch.randn(count, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_reference_programs_numbers(expected):
    tensors, numbers = expected
    samples, reference = tensors["features_samples"], tensors["features_reference"]
    assert frechet_distance(samples, reference) == pytest.approx(numbers["fid"], rel=1e-6)
    for split_size in (5000, 250):
        score = inception_score(tensors["probabilities"], split_size)
        assert score == pytest.approx(numbers[f"inception_score_splits_of_{split_size}"], rel=1e-6)
    assert precision_recall(samples, reference) == pytest.approx((numbers["precision"], numbers["recall"]), rel=1e-6)


@pytest.mark.parametrize("function", PAIRS)
def test_arrays_tensors_types_and_order_of_images_change_nothing(expected, function, monkeypatch):
    samples, reference = expected[0]["features_samples"], expected[0]["features_reference"]
    before = function(samples, reference)
    shuffled = samples[torch.randperm(len(samples))], reference[torch.randperm(len(reference))]
    np.testing.assert_allclose(function(*shuffled), before, rtol=1e-9)
    np.testing.assert_allclose(function(samples.numpy(), reference.numpy()), before, rtol=1e-12)
    monkeypatch.setattr(metrics, "BLOCK_ROWS", 37)
    np.testing.assert_allclose(function(samples, reference), before, rtol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_statistics_in_batches_are_those_of_all(expected, batch_size):
    samples = expected[0]["features_samples"]
    statistics = FeatureStatistics.of(samples.split(batch_size))
    assert statistics.count == 500
    torch.testing.assert_close(statistics.mean, samples.mean(dim=0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(statistics.covariance, samples.T.cov(), rtol=1e-9, atol=1e-11)


def test_statistics_keep_digits_far_from_zero():
    features = gaussian(4000) + 1e6
    covariance = FeatureStatistics.of(features.split(100)).covariance
    torch.testing.assert_close(covariance, (features - 1e6).T.cov(), rtol=1e-6, atol=1e-8)


def test_two_gaussians_have_the_closed_form():
    mean, scale = torch.tensor([1.0, -2.0, 0.5, 0.0]), torch.tensor([0.5, 1.0, 2.0, 3.0])
    first = FeatureStatistics.from_moments(torch.zeros(4), torch.eye(4))
    second = FeatureStatistics.from_moments(mean, torch.diag(scale**2))
    closed = float(mean.square().sum() + (scale - 1).square().sum())
    assert frechet_distance(first, second) == pytest.approx(closed, rel=1e-12)
    assert frechet_distance(second, first) == pytest.approx(closed, rel=1e-12)
    sampled = frechet_distance(gaussian(100_000), mean + scale * gaussian(100_000, seed=1))
    assert sampled == pytest.approx(closed, rel=0.02)


@pytest.mark.parametrize("count", [40, 5])
def test_identical_sets_have_no_distance(count):
    features = gaussian(count, 20)
    features[:, 3:6] = 7.0  # constant
    features[:, 8] = features[:, 9]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert frechet_distance(features, features) < 1e-6
    assert precision_recall(features, features) == (1, 1)
    assert kernel_distance(features, features).value < 0  # unbiased: the pairs of an image with itself are missing


def test_singular_covariances_have_the_closed_form():
    """In 400 features of which 20 vary: the same as in the 20, and as few samples of many features."""
    samples, reference = gaussian(60, 20), 1.5 * gaussian(80, 20, seed=1)
    rotation = torch.linalg.qr(gaussian(400, 400, seed=2)).Q[:20]  # (20, 400)
    with pytest.warns(UserWarning, match="60 images in 400 features is biased upwards"):
        wide = frechet_distance(samples @ rotation, reference @ rotation)
    assert wide == pytest.approx(frechet_distance(samples, reference), rel=1e-9)


def test_collapse_costs_recall_and_noise_costs_precision():
    reference = gaussian(400)
    collapsed = reference[:1] + 0.01 * gaussian(400, seed=1)  # good images of one kind
    precision, recall = precision_recall(collapsed, reference)
    assert precision > 0.95 and recall < 0.05
    scattered = 30 * gaussian(400, seed=1)  # bad images of all kinds
    precision, recall = precision_recall(scattered, reference)
    assert precision < 0.05 and recall > 0.95


@pytest.mark.parametrize("half_precision", [False, True])
def test_repeated_images_are_inside_of_their_balls(half_precision):
    repeated = gaussian(3, 64).repeat(5, 1) + 3.0
    assert precision_recall(repeated, repeated.clone(), half_precision=half_precision) == (1, 1)


def test_balls_are_those_of_plain_distances(expected):
    samples, reference = expected[0]["features_samples"][:60], expected[0]["features_reference"][:70]
    for neighbors in (1, 3, 5):
        radii = [torch.cdist(part, part).sort(dim=1).values[:, neighbors] for part in (samples, reference)]
        across = (samples[:, None] - reference[None]).norm(dim=-1)
        inside = (across <= radii[1]).any(dim=1), (across <= radii[0][:, None]).any(dim=0)
        assert precision_recall(samples, reference, neighbors) == tuple(part.double().mean().item() for part in inside)


def half_distances(first, second):
    """The ADM evaluator's: norms and products rounded to float16, and each sum of them."""
    first, second = first.numpy().astype(np.float16), second.numpy().astype(np.float16)
    norms = [(part * part).astype(np.float32).sum(axis=1).astype(np.float16) for part in (first, second)]
    products = (first.astype(np.float32) @ second.astype(np.float32).T).astype(np.float16)
    return np.maximum(norms[0][:, None] - np.float16(2) * products + norms[1], 0)


def test_half_precision_is_the_adm_evaluators():
    """Far from zero float16 does not tell neighbours apart, and its numbers are others."""
    samples, reference = gaussian(200) + 16, 1.1 * gaussian(300, seed=1) + 16.2
    radii = [np.sort(half_distances(part, part), axis=1)[:, 3] for part in (samples, reference)]
    across = half_distances(samples, reference)
    inside = (across <= radii[1]).any(axis=1).mean(), (across <= radii[0][:, None]).any(axis=0).mean()
    assert precision_recall(samples, reference, half_precision=True) == inside
    assert precision_recall(samples, reference) != pytest.approx(inside, abs=0.01)


def test_half_precision_falls_back_where_it_overflows(expected):
    samples, reference = expected[0]["features_samples"], expected[0]["features_reference"]
    near = precision_recall(samples, reference, half_precision=True)
    assert near == pytest.approx(precision_recall(samples, reference), abs=0.02)
    large = precision_recall(1000 * samples, 1000 * reference, half_precision=True)
    assert large == pytest.approx(precision_recall(samples, reference), abs=0.002)


def test_kernel_distance_is_the_mean_over_pairs():
    samples, reference = gaussian(6, 3), gaussian(5, 3, seed=1) + 1
    kernel = lambda x, y: (x @ y / 3 + 1) ** 3  # noqa: E731
    within = [
        np.mean([kernel(part[i], part[j]) for i in range(len(part)) for j in range(len(part)) if i != j])
        for part in (samples, reference)
    ]
    across = np.mean([kernel(x, y) for x in samples for y in reference])
    assert kernel_distance(samples, reference).value == pytest.approx(sum(within) - 2 * across, rel=1e-12)
    assert float(kernel_distance(samples, reference)) == kernel_distance(samples, reference).value


def test_kernel_distance_is_unbiased_and_knows_its_error():
    found = [kernel_distance(gaussian(60, seed=2 * i), gaussian(40, seed=2 * i + 1)) for i in range(300)]
    values, errors = (np.array(part) for part in zip(*found, strict=True))
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(300)
    assert values.std() < np.mean(errors) < 2 * values.std()  # the jackknife is on the safe side
    apart = [kernel_distance(gaussian(60, seed=2 * i), gaussian(40, seed=2 * i + 1) + 1) for i in range(300)]
    values, errors = (np.array(part) for part in zip(*apart, strict=True))
    assert np.mean(errors) == pytest.approx(values.std(), rel=0.25)


def test_inception_score_of_certain_and_of_uncertain_classes():
    assert inception_score(torch.eye(10).repeat(3, 1)) == pytest.approx(10)
    assert inception_score(torch.full((30, 10), 0.1)) == pytest.approx(1)


@pytest.mark.parametrize("function", PAIRS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.full((50, 4), torch.nan), "must be finite, got NaN"),
        (gaussian(50)[0], r"must have the shape \(images, features\), got \(4,\)"),
        (gaussian(1), "must hold at least . images, got 1"),
        (gaussian(50, 5), "`reference` must have the .* features of `samples`"),
        (np.array([["a"]]), "must hold numbers"),
    ],
)
def test_wrong_features_are_one_sentence(function, wrong, message):
    for pair in ((gaussian(50), wrong), (wrong, gaussian(50))):
        with pytest.raises(ValueError, match=message):
            function(*pair)
    with pytest.raises(TypeError, match="`samples` must be an array or a tensor, got str"):
        function("features.npz", gaussian(50))


def test_wrong_numbers_are_one_sentence():
    with pytest.raises(ValueError, match="`samples` must hold at least 4 images, got 3"):
        precision_recall(gaussian(3), gaussian(9))
    with pytest.raises(ValueError, match="`neighbors` must be an int of at least 1, got 0"):
        precision_recall(gaussian(9), gaussian(9), neighbors=0)
    with pytest.raises(ValueError, match="`split_size` must be an int of at least 1, got 0"):
        inception_score(torch.eye(3), split_size=0)
    with pytest.raises(ValueError, match="`probabilities` must be at least 0 and sum to 1"):
        inception_score(torch.eye(3) * 2)
    with pytest.raises(ValueError, match="`covariance` must have the shape"):
        FeatureStatistics.from_moments(torch.zeros(3), torch.eye(4))
    with pytest.raises(ValueError, match="`covariance` must be symmetric"):
        FeatureStatistics.from_moments(torch.zeros(2), torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
