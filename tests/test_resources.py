"""What generation leaves behind, what it waits for, and the cores it finds."""

import gc
import weakref

import psutil
import pytest
import torch
from accelerate import PartialState

from randar_hf import threads
from randar_hf.evaluation import sampling


def find_tensors() -> list[torch.Tensor]:
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]


def test_calls_leave_no_tensor_behind(model, generators):
    model.generate([0, 1], generator=generators(2))
    before = [weakref.ref(tensor) for tensor in find_tensors()]  # some of an earlier test may still go
    for _ in range(20):
        model.generate([0, 1], generator=generators(2))
    found, known = find_tensors(), {id(reference()) for reference in before}
    assert all(id(tensor) in known for tensor in found)


@pytest.mark.parametrize(
    ("num_threads", "busy_percent", "device", "is_told"),
    [
        (4, 50, "cpu", True),
        (2, 50, "cpu", False),
        (1, 100, "cpu", False),
        (4, 5, "cpu", False),
        (4, 90, "meta", False),
    ],
)
def test_threads_that_wait_for_busy_cores_are_told(monkeypatch, num_threads, busy_percent, device, is_told):
    told = []
    monkeypatch.setattr(threads.logger, "warning", told.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: busy_percent)
    threads.warn_of_busy_cores(device)
    assert len(told) == is_told
    assert not told or "4 threads, while 2.0 of 4 cores are idle" in told[0] and "OMP_NUM_THREADS" in told[0]


def test_what_samples_for_an_evaluation_looks_for_busy_cores(monkeypatch):
    looked = []
    monkeypatch.setattr(sampling, "warn_of_busy_cores", looked.append)
    for device in (None, "cpu"):
        sampling.start_processes(device)
    assert looked == [str(PartialState().device), "cpu"]


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
