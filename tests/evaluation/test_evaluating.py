"""Sets of images against a reference: numbers, resuming, statistics that are saved, wrong input."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from randar_hf.evaluation import (
    FeatureStatistics,
    InceptionFeatures,
    frechet_distance,
    inception_score,
    precision_recall,
)
from randar_hf.evaluation.evaluating import evaluate_images
from randar_hf.evaluation.extractors import VisionModelFeatures, load_extractor
from randar_hf.evaluation.feature_store import FeatureStore
from randar_hf.evaluation.images import open_images
from randar_hf.evaluation.references import open_reference, spatial_order


def features_of(extractor, folder):
    images = open_images("samples", folder)
    return extractor(images.batch(range(images.count)))


def evaluate(samples, reference, extractor, store_dir, **settings):
    images = open_images("samples", samples)
    return evaluate_images(images, open_reference(reference, extractor, store_dir), extractor, store_dir, **settings)


def as_array_file(folder, path):
    images = open_images("samples", folder)
    pixels = images.batch(range(images.count)).permute(0, 2, 3, 1).numpy()
    np.savez(path, arr_0=pixels, arr_1=np.array(images.labels))
    return path


def test_the_numbers_are_those_of_the_functions(extractor, make_images, tmp_path):
    samples, reference = make_images("samples", 30), make_images("reference", 40, seed=1, offset=30)
    result = evaluate(samples, reference, extractor, tmp_path / "store", batch_size=7)
    first, second = (features_of(extractor, folder) for folder in (samples, reference))
    metrics = result["metrics"]
    assert metrics["frechet_distance"] == pytest.approx(frechet_distance(first.pool, second.pool), rel=1e-5)
    assert metrics["class_score"] == pytest.approx(inception_score(first.logits.softmax(dim=1)), rel=1e-5)
    assert (metrics["precision"], metrics["recall"]) == precision_recall(first.pool, second.pool)
    assert metrics["kernel_distance_standard_error"] > 0
    assert "Frechet distance of channel-moments features (no FID) of 30 images" in result["sentence"]
    assert "biased upwards by so few images" in result["sentence"]
    assert "fid" not in json.dumps(result).lower().replace("(no fid)", "")
    assert result["samples"]["class_balance"] == {"classes": 3, "fewest": 10, "most": 10}
    assert result["samples"]["count"] == 30 and result["reference"]["images"] == 40
    assert result["network"]["resize_rule"] == "none" and "torch" in result["versions"]


def test_batches_and_kinds_of_files_change_nothing(extractor, make_images, tmp_path):
    samples, reference = make_images("samples", 30), make_images("reference", 40, seed=1)
    arrays = as_array_file(samples, tmp_path / "samples.npz"), as_array_file(reference, tmp_path / "reference.npz")
    found = [
        evaluate(first, second, extractor, tmp_path / name, batch_size=batch_size)
        for name, first, second, batch_size in (("a", samples, reference, 4), ("b", *arrays, 13))
    ]
    assert found[0]["metrics"] == pytest.approx(found[1]["metrics"], rel=1e-9)
    assert found[1]["samples"]["class_balance"]["classes"] == 3


def test_a_kill_loses_one_batch(extractor, make_images, tmp_path, monkeypatch):
    images, calls = open_images("samples", make_images("samples", 20)), []

    def forward(batch, real=extractor.forward):
        calls.append(len(batch))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(batch)

    monkeypatch.setattr(extractor, "forward", forward)
    store = FeatureStore(tmp_path / "store", images, extractor)
    with pytest.raises(KeyboardInterrupt):
        store.fill(5)  # a first batch tells the sizes; then two of four are kept
    store = FeatureStore(tmp_path / "store", images, extractor)
    store.fill(5)
    assert calls == [5, 5, 5, 5, 5, 5]
    expected = extractor(images.batch(range(20))).pool.float()
    assert torch.equal(torch.from_numpy(np.array(store.array("pool"))), expected)
    store.fill(5)
    assert len(calls) == 7  # nothing is computed again


def test_statistics_that_are_saved_stand_for_the_images(extractor, make_images, tmp_path):
    samples, reference = make_images("samples", 30), make_images("reference", 40, seed=1)
    saved, copied = tmp_path / "reference.npz", tmp_path / "copied.npz"
    from_images = evaluate(samples, reference, extractor, tmp_path / "store", save_reference=saved)
    from_file = evaluate(samples, saved, extractor, tmp_path / "store", save_reference=copied)
    assert evaluate(samples, copied, extractor, tmp_path / "store")["metrics"] == from_file["metrics"]
    assert from_file["metrics"] == pytest.approx(from_images["metrics"], rel=1e-9)
    assert from_file["reference"]["images"] == 40
    extractor.sha256 = "1" * 64
    with pytest.raises(ValueError, match="`reference` must hold statistics of the same features, got others. sha256"):
        evaluate(samples, saved, extractor, tmp_path / "store")


def statistics_file(path, **arrays):
    """Statistics of six features, and what is given instead or beside."""
    arrays = {"mu": np.zeros(6), "sigma": np.eye(6)} | arrays
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_spatial_statistics_of_the_adm_evaluator_come_in_its_order(tmp_path):
    """There a feature (row, column, channel) lies at (17 row + column) 7 + channel, here channels come first."""
    mean = np.random.default_rng(0).normal(size=2023)
    with torch.device("meta"):
        network = InceptionFeatures()
    path = statistics_file(tmp_path / "adm.npz", mu_s=mean, sigma_s=np.diag(mean**2))
    reference = open_reference(path, network, tmp_path)
    assert reference.store is None and reference.features is None and reference.count is None
    spatial = reference.statistics["spatial"]
    grid = torch.from_numpy(mean).view(17, 17, 7)
    assert torch.equal(spatial.mean.view(7, 17, 17), grid.permute(2, 0, 1))
    assert torch.equal(spatial.covariance.diag(), spatial.mean**2)
    assert torch.equal(spatial.mean[spatial_order()], grid.flatten())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": None}, "must hold `mu` and `sigma` together"),
        ({"mu_s": np.zeros(5), "sigma_s": np.eye(5)}, "must have 2023 numbers in `mu_s`"),
        ({"mu_s": np.zeros(2023), "sigma_s": np.eye(5)}, "must have 2023 numbers in `mu_s`"),
        ({"mu": np.array([{}], dtype=object)}, "must be an npz file of numbers"),
        ({"mu": np.full(6, np.nan)}, "`mean` must be finite"),
        ({"sigma": np.triu(np.ones((6, 6)))}, "`covariance` must be symmetric"),
        ({"pool": np.full((9, 6), np.nan)}, "`reference` must be finite, got NaN"),
        ({"pool": np.zeros((3, 6))}, "`reference` must hold at least 4 images, got 3"),
        ({"pool": np.zeros((9, 4))}, "got others: 4 pool features there, 6 here"),
        ({"mu": np.zeros(4), "sigma": np.eye(4)}, "got others: 4 pool features there, 6 here"),
        ({"about": None}, "got others. network: 'inception-2015-12-05' there, 'channel-moments' here"),
        ({"about": "no JSON"}, "an `about` that can be read"),
        ({"about": "[1]"}, "an `about` that can be read"),
        ({"about": json.dumps({"count": "many"})}, "must be of at least 2 images, got a count of 'many'"),
    ],
)
def test_wrong_statistics_are_one_sentence_and_write_nothing(change, message, extractor, make_images, tmp_path):
    about = json.dumps({"network": extractor.name, "sha256": extractor.sha256, "count": 9})
    path = statistics_file(tmp_path / "statistics.npz", **{"about": about} | change)
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate(make_images("samples", 5), path, extractor, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_wrong_images_are_one_sentence(make_images, tmp_path):
    def refused(message, source, error=ValueError):
        with pytest.raises(error, match=message):
            images = open_images("samples", source)
            images.batch(range(images.count))

    refused("`samples` must be a folder, an npz file or a data set", tmp_path / "nothing", FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refused("`samples` must hold images .* got none", tmp_path / "empty")
    Image.new("L", (16, 16)).save(make_images("grey", 3) / "class_0" / "z.png")
    refused("must hold RGB images of one size, got L in", tmp_path / "grey")
    Image.new("RGB", (16, 18)).save(make_images("mixed", 3) / "class_0" / "z.png")
    refused("must hold RGB images of one size, got 16 x 16 and 16 x 18", tmp_path / "mixed")
    cut = make_images("cut", 3) / "class_0" / "0000.png"
    cut.write_bytes(cut.read_bytes()[:300])
    refused("`samples` must hold images that can be read, got number 0 of .* cannot be read", tmp_path / "cut")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("no image")
    refused("must hold images that can be read", tmp_path / "text")
    whole = as_array_file(make_images("whole", 4), tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:1000])
    refused("must be a whole npz file", tmp_path / "cut.npz")
    for name, array in (("grey", np.zeros((3, 8, 8), np.uint8)), ("real", np.zeros((3, 8, 8, 3)))):
        np.savez(tmp_path / f"{name}.npz", arr_0=array)
        refused("must hold `arr_0` of uint8 and the shape", tmp_path / f"{name}.npz")
    np.savez(tmp_path / "pickled.npz", arr_0=np.array([{}], dtype=object))
    refused("must hold `arr_0` of uint8", tmp_path / "pickled.npz")
    np.savez(tmp_path / "other.npz", images=np.zeros((3, 8, 8, 3), np.uint8))
    refused("must be an npz file with `arr_0`", tmp_path / "other.npz")


def test_too_few_images_and_wrong_features_write_nothing(extractor, make_images, tmp_path, monkeypatch):
    few, enough = make_images("few", 3), make_images("enough", 6)
    with pytest.raises(ValueError, match="`samples` must hold at least 4 images, got 3"):
        evaluate(few, enough, extractor, tmp_path / "store")
    with pytest.raises(ValueError, match="`reference` must hold at least 4 images, got 3"):
        evaluate(enough, few, extractor, tmp_path / "store")
    real = extractor.forward

    def with_nan(batch):
        outputs = real(batch)
        outputs.pool[0, 0] = torch.nan
        return outputs

    monkeypatch.setattr(extractor, "forward", with_nan)
    with pytest.raises(ValueError, match="`samples` must have finite features, got NaN .* in pool of channel-moments"):
        evaluate(enough, enough, extractor, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_images_beside_statistics_serve_precision_alone(extractor, make_images, tmp_path):
    """As in the ADM evaluator's files: `mu` and `sigma` of all images, `arr_0` of some."""
    some, samples = as_array_file(make_images("some", 20), tmp_path / "some.npz"), make_images("samples", 12, seed=2)
    about = json.dumps({"network": extractor.name, "sha256": extractor.sha256})
    adm = statistics_file(tmp_path / "adm.npz", mu=np.ones(6), about=about, arr_0=np.load(some)["arr_0"])
    found = evaluate(samples, adm, extractor, tmp_path / "store")
    expected = evaluate(samples, some, extractor, tmp_path / "store")
    assert found["metrics"]["precision"] == expected["metrics"]["precision"]
    moments = FeatureStatistics.from_moments(np.ones(6), np.eye(6))
    distance = frechet_distance(features_of(extractor, samples).pool, moments)
    assert found["metrics"]["frechet_distance"] == pytest.approx(distance, rel=1e-5)
    assert found["reference"]["images"] is None and found["reference"]["images_for_precision_and_recall"] == 20


def test_a_crop_makes_any_images_squares_of_a_size(make_images, tmp_path):
    Image.new("L", (40, 21), 100).save(make_images("mixed", 3) / "class_0" / "z.png")
    images = open_images("reference", tmp_path / "mixed", crop=8)
    assert images.batch(range(4)).shape == (4, 3, 8, 8)
    with pytest.raises(ValueError, match="`crop` must be an int of at least 1, got 0"):
        open_images("reference", tmp_path / "mixed", crop=0)


def test_a_vision_model_serves_as_the_network(vit, make_images):
    images = open_images("samples", make_images("samples", 5))
    plain, classifier = (VisionModelFeatures.from_pretrained(str(vit / name)) for name in ("plain", "classifier"))
    assert plain(images.batch(range(5))).pool.shape == (5, 16)
    outputs = classifier(images.batch(range(5)))
    assert outputs.pool.shape == (5, 16) and outputs.logits.shape == (5, 3)
    assert "'height': 8" in plain.resize_rule and plain.sha256 != classifier.sha256
    with pytest.raises(ValueError, match="`features` must be the folder or Hub name of a vision model"):
        VisionModelFeatures.from_pretrained(str(vit / "nothing"))


def test_missing_weights_are_told_with_both_ways_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(FileNotFoundError, match="give `weights` the path of .* or the Hub name .* or compare other"):
        load_extractor()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth").write_bytes(b"other")
    with pytest.raises(ValueError, match="in the cache, which is not the published file .SHA-256 6726825d"):
        load_extractor()
    with pytest.raises(ValueError, match="`weights` must be None with `features`, .* got 'weights.pth'"):
        load_extractor("google/vit", "weights.pth")
    with pytest.raises(FileNotFoundError, match="must be a file or a repository with one, got "):
        load_extractor(weights=str(tmp_path / "none.pth"))
