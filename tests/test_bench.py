"""The times and sizes that `randar-hf bench` gives."""

import pytest
import torch
from transformers import CompileConfig

from randar_hf import RandARConfig, RARConfig
from randar_hf.bench import measure
from randar_hf.bench_table import measure_table


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


def test_the_table_of_the_bench_in_small(monkeypatch, make_model):
    config = make_model(num_hidden_layers=1).config
    monkeypatch.setattr(RandARConfig, "from_size", classmethod(lambda cls, size: config))
    ways = [{"num_inference_steps": 2}, {"speculative_window": 4}]
    compiled = CompileConfig(backend="eager", mode=None, fullgraph=True, dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=2):  # a row has as many shapes, and forgets those of the last
        table = measure_table("cpu", "bfloat16", ("L",), (2,), ways, compiled)
    rows = table["rows"]
    assert table["device"] == "cpu" and table["dtype"] == "bfloat16"
    assert [(row["captured"], row.get("num_inference_steps")) for row in rows] == [
        (False, 2), (False, None), (True, 2), (True, None)
    ]  # fmt: skip
    for row in rows:
        assert row["images_per_second"] == pytest.approx(2 / row["seconds"])
        assert row["passes"] == row.get("num_inference_steps", row["passes"]) and 1 <= row["passes"] <= 16
    assert sum(row["seconds"] for row in rows) < table["seconds"]


def test_the_table_of_the_bench_begins_nothing_after_its_time(monkeypatch, make_model):
    config = make_model(num_hidden_layers=1).config
    monkeypatch.setattr(RandARConfig, "from_size", classmethod(lambda cls, size: config))
    rows = measure_table("cpu", sizes=("L",), batch_sizes=(1, 2), limit=-1)["rows"]
    assert [row["not_measured"] for row in rows] == ["-1 s were over"] * 12


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
