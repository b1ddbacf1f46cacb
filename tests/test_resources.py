"""What generation leaves behind and what it waits for."""

import gc

import pytest
import torch


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
