"""Images and tokens per second, known peaks, and the operations of a model beside those that torch counts."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from randar_hf import RandARForCausalLM, RARForCausalLM
from randar_hf.training.throughput import Throughput, device_peak, flops_per_image


def test_speed_is_logged(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert 0 < row["images_per_second"] < 1e5
        assert row["tokens_per_second"] == pytest.approx(16 * row["images_per_second"])
        assert "mfu" not in row  # a CPU


def test_the_watch_counts_what_runs_and_what_is_trained(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("randar_hf.training.throughput.time.perf_counter", lambda: now[0])
    watch = Throughput(tokens=256, flops=100.0, peak=1000.0)
    watch.run()
    now[0] = 2.0
    watch.pause()
    now[0] = 50.0
    watch.run()
    now[0], watch.images = 52.0, 8
    assert watch.read() == {"images_per_second": 2.0, "tokens_per_second": 512.0, "mfu": 0.2}
    now[0], watch.images = 53.0, 8
    assert watch.read()["images_per_second"] == 8.0


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "fp16", 312e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA GeForce GTX 1080", "bf16", None),
        ("NVIDIA H100 80GB HBM3", "no", None),
    ],
)
def test_known_peaks(monkeypatch, name, precision, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert device_peak(torch.device("cuda"), precision) == peak
    assert device_peak(torch.device("cpu"), precision) is None


@pytest.mark.parametrize("make", ["make_model", "make_rar"])
def test_the_flops_are_those_that_torch_counts(request, make):
    model = request.getfixturevalue(make)(attn_implementation="eager").train()
    assert isinstance(model, RandARForCausalLM | RARForCausalLM)
    ids = torch.zeros(1, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(ids, torch.zeros(1, dtype=torch.long), labels=ids).loss.backward()
    assert flops_per_image(model) == pytest.approx(counter.get_total_flops(), rel=0.06)
