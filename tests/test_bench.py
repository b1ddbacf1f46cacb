"""The times and sizes that `randar-hf bench` gives."""

import pytest

from randar_hf import RandARConfig, RARConfig
from randar_hf.bench import measure


def test_bench(monkeypatch, make_model):
    config = make_model().config
    monkeypatch.setattr(RandARConfig, "from_size", classmethod(lambda cls, size: config))
    result = measure("B", batch_size=2, num_inference_steps=4, runs=2)
    assert result["seconds_min"] <= result["seconds"] <= result["seconds_max"]
    assert result["images_per_second"] == pytest.approx(2 / result["seconds"])
    assert result["tokens_per_second"] == pytest.approx(32 / result["seconds"])
    assert result["cache_mib"] == pytest.approx(2 * 2 * 2 * 32 * 32 * 2 * 4 / 2**20)


def test_bench_of_rar_takes_a_step_for_each_token(monkeypatch, make_rar):
    config = make_rar().config
    monkeypatch.setattr(RARConfig, "from_size", classmethod(lambda cls, size: config))
    result = measure("B", batch_size=2, runs=1, model_type="rar", known_tokens=5)
    assert (result["num_inference_steps"], result["guidance_scale"]) == (16, 4.0)
    assert result["tokens_per_second"] == pytest.approx(2 * 11 / result["seconds"])
    assert result["cache_mib"] == pytest.approx(2 * 2 * 2 * 17 * 32 * 2 * 4 / 2**20)


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("size", {"size": "S"}),
        ("batch_size", {"batch_size": 0}),
        ("runs", {"runs": 0}),
        ("dtype", {"dtype": "int8"}),
        ("model_type", {"model_type": "vit"}),
    ],
)
def test_bench_names_wrong_arguments(named, arguments):
    with pytest.raises(ValueError, match=f"`{named}`"):
        measure(**arguments)
