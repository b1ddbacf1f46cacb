"""The metrics as modules of the `evaluate` library."""

import json
import sys

import evaluate
import pytest
import torch

from randar_hf.evaluation import frechet_distance, inception_score, kernel_distance, precision_recall
from randar_hf.evaluation.metric_modules import FOLDER, metric_module


NAMES = ("frechet_distance", "inception_score", "kernel_distance", "precision_recall")


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Modules, loaded as a user would, from a folder of the tests, whatever the process has loaded before."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(folder / "modules"))
        patch.syspath_prepend(folder / "modules")
        for name in loaded_modules():
            patch.delitem(sys.modules, name)
        yield lambda name: evaluate.load(str(metric_module(name)), cache_dir=str(folder / "cache"))
        for name in loaded_modules():
            del sys.modules[name]


def loaded_modules() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(40, 6, dtype=torch.float64, generator=generator) + shift for shift in (0, 0.5)]


def test_two_sets(load, features):
    samples, reference = features
    value, error = kernel_distance(samples, reference)
    expected = {
        "frechet_distance": {"frechet_distance": frechet_distance(samples, reference)},
        "kernel_distance": {"kernel_distance": value, "kernel_distance_standard_error": error},
        "precision_recall": precision_recall(samples, reference)._asdict(),
    }
    for name, numbers in expected.items():
        metric = load(name)
        found = metric.compute(predictions=samples.tolist(), references=reference.tolist())
        assert found == pytest.approx(numbers), name
        for first, second in zip(samples.split(15), reference.split(15), strict=True):
            metric.add_batch(predictions=first.tolist(), references=second.tolist())
        assert metric.compute() == pytest.approx(numbers), name
    found = load("precision_recall").compute(predictions=samples.tolist(), references=reference.tolist(), neighbors=5)
    assert found == pytest.approx(precision_recall(samples, reference, neighbors=5)._asdict())


def test_probabilities(load, features):
    probabilities = features[0].softmax(dim=1)
    found = load("inception_score").compute(predictions=probabilities.tolist(), split_size=10)
    assert found == {"inception_score": pytest.approx(inception_score(probabilities, split_size=10))}


def test_combined_and_saved(load, features, tmp_path):
    samples, reference = (part.tolist() for part in features)
    both = evaluate.combine([load("frechet_distance"), load("kernel_distance")])
    found = both.compute(predictions=samples, references=reference)
    assert set(found) == {"frechet_distance", "kernel_distance", "kernel_distance_standard_error"}
    path = evaluate.save(tmp_path / "results.json", **found)
    assert json.loads(path.read_text())["frechet_distance"] == found["frechet_distance"]


@pytest.mark.parametrize("name", NAMES)
def test_each_folder_is_a_space(name):
    files = {path.name for path in metric_module(name).iterdir() if path.is_file()}
    assert files == {f"{name}.py", "README.md", "app.py", "requirements.txt"}
    front = (metric_module(name) / "README.md").read_text().split("---")[1]
    assert "sdk: gradio" in front and "- metric" in front


def test_an_unknown_name_is_one_sentence():
    assert sorted(path.name for path in FOLDER.iterdir() if path.is_dir()) == sorted(NAMES)
    with pytest.raises(ValueError, match="`name` must be one of frechet_distance, .* got 'fid'"):
        metric_module("fid")
