"""What generation leaves behind and what it waits for."""

import gc

import pytest
import torch

from randar_hf import RandARConfig, RARConfig
from randar_hf.bench import measure
from randar_hf.linear import Linear


def count_tensors() -> int:
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def test_calls_leave_no_tensor_behind(model, generators):
    model.generate([0, 1], generator=generators(2))
    before = count_tensors()
    for _ in range(20):
        model.generate([0, 1], generator=generators(2))
    assert count_tensors() == before


@pytest.mark.gpu
@pytest.mark.parametrize("do_sample", [True, False])
def test_no_step_waits_for_the_host(make_model, do_sample):
    states = make_model().cuda().generation_steps(
        [0, 1], num_inference_steps=8, do_sample=do_sample, top_k=5, generator=torch.Generator().manual_seed(0)
    )  # fmt: skip
    next(states)
    torch.cuda.set_sync_debug_mode("error")
    try:
        tokens = [state.tokens for state in states][-1]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (tokens >= 0).all()


@pytest.mark.gpu
def test_gpu_and_cpu_agree(make_model, generators):
    settings = {"num_inference_steps": 5, "do_sample": False, "order": "spiral_in"}
    on_cpu = make_model().generate([0, 1], **settings)
    assert torch.equal(make_model().cuda().generate([0, 1], **settings).cpu(), on_cpu)


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_fast_linear_is_a_linear(rows, bias):
    torch.manual_seed(0)
    layer, states = Linear(48, 40, bias=bias), torch.randn(rows, 1, 48)
    exact = torch.nn.functional.linear(states.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with torch.no_grad():
        torch.testing.assert_close(layer(states).double(), exact, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer(states.transpose(0, 1)).double(), exact.transpose(0, 1), atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(states).dtype == torch.bfloat16
    assert layer(states).requires_grad  # training goes the ordinary way


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
