"""Runs that cannot go on: a message of one line, and what was saved is whole."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from randar_hf import RandARForCausalLM, cli
from randar_hf.training import TokenizingConfig, TrainingConfig, tokenize_images, train
from randar_hf.training.failures import TrainingError, explain_failures
from randar_hf.training.optimization import NonFiniteGuard, make_optimizer
from randar_hf.training.randomness import KeyedSamples
from randar_hf.training.trainer import Trainer


@pytest.fixture
def settings(training_settings):
    return {**training_settings, "checkpointing_steps": 2}


@pytest.fixture
def poison(monkeypatch):
    """`poison({2, 3}, value)` multiplies the loss of the third and the fourth forward pass by a value."""

    def apply(calls, value: float = float("nan")):
        forward, count = RandARForCausalLM.forward, 0

        def poisoned(self, *args, **kwargs):
            nonlocal count
            output = forward(self, *args, **kwargs)
            if count in calls:
                output.loss = output.loss * value
            count += 1
            return output

        monkeypatch.setattr(RandARForCausalLM, "forward", poisoned)
        monkeypatch.setattr("randar_hf.training.trainer.compare_precision", lambda *arguments: None)  # passes, too

    return apply


def make_step(guard_norm: float | None, kind: str):
    torch.manual_seed(0)
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(3, 3)])})
    optimizer = make_optimizer(nn.ModuleDict({"model": model}), 0.1, 0.1, optimizer=kind)
    guard = NonFiniteGuard(optimizer, torch.device("cpu"))
    norms = [1.0] if guard_norm is None else [1.0, guard_norm]
    for norm in norms:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, norm)
        guard.check(torch.tensor(norm))
        optimizer.step()
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    return [tensor.clone() for tensor in (*model.parameters(), *states)], guard


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
@pytest.mark.parametrize(("kind", "count"), [("adamw", 8), ("muon", 6)])  # Muon keeps one moment, and no count
def test_a_skipped_step_changes_neither_weights_nor_moments_nor_counts(norm, kind, count):
    expected, _ = make_step(None, kind)
    found, guard = make_step(norm, kind)
    assert len(found) == count and all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert guard.read() == (1, 1)
    guard.check(torch.tensor(2.0))
    assert guard.read() == (1, 0)
    further, _ = make_step(2.0, kind)
    assert not any(torch.equal(a, b) for a, b in zip(expected, further, strict=True))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_steps_without_a_finite_gradient_are_skipped_and_counted(settings, poison, read_metrics, precision):
    poison({2, 3})
    folder = train(TrainingConfig(**settings, mixed_precision=precision))
    rows = read_metrics(folder)
    assert [row["skipped_steps"] for row in rows] == [0, 0, 1, 2, 2, 2]
    assert [row["gradient_norm"] is None for row in rows] == [False, False, True, True, False, False]
    assert [row["loss"] is None for row in rows] == [False, False, True, True, False, False]
    weights = RandARForCausalLM.from_pretrained(folder).state_dict()
    assert all(tensor.isfinite().all() for tensor in weights.values())
    progress = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())["progress"]
    assert (progress["skipped_steps"], progress["skipped_in_a_row"]) == (2, 2)


def test_too_many_skipped_steps_end_the_run(settings, poison, read_metrics):
    poison(range(2, 1000))
    with pytest.raises(
        ValueError,
        match="`max_skipped_steps` must be .*, got 2 and 3 of them; .*; the last good checkpoint is checkpoint-4",
    ):
        train(TrainingConfig(**settings, max_skipped_steps=2))
    rows = read_metrics(settings["output_dir"])
    assert len(rows) == 5


def test_the_count_of_skipped_steps_survives_a_resume(settings, poison, read_metrics):
    settings["lr_schedule"] = "constant"
    poison({2, 3})
    train(TrainingConfig(**{**settings, "max_steps": 4}))
    folder = train(TrainingConfig(**settings, resume="latest"))
    assert [row["skipped_steps"] for row in read_metrics(folder)] == [0, 0, 1, 2, 2, 2]


def test_infinite_gradient_in_half_a_batch_skips_the_whole_step(settings, poison, read_metrics):
    poison({3}, float("inf"))
    folder = train(TrainingConfig(**settings, gradient_accumulation_steps=2))
    rows = read_metrics(folder)
    assert [row["skipped_steps"] for row in rows] == [0, 1, 1, 1, 1, 1]
    assert rows[1]["loss"] < 3  # that of the other half


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_while_saving(settings, monkeypatch):
    save_state = Accelerator.save_state

    def save(self, folder):
        save_state(self, folder)
        if ".checkpoint-4." in folder:
            full_disk()

    monkeypatch.setattr(Accelerator, "save_state", save)
    with pytest.raises(
        ValueError,
        match="`output_dir` must take checkpoint-4, got an error with .* MiB free: .*No space left on device; "
        "the last good checkpoint is checkpoint-2",
    ):
        train(TrainingConfig(**settings))
    folder = Path(settings["output_dir"])
    assert not list(folder.glob(".checkpoint*"))
    monkeypatch.undo()
    train(TrainingConfig(**settings, resume="latest"))


LIMITED = """
import resource, sys
from randar_hf import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_real_limit_of_the_disk_gives_one_line(settings):
    settings |= {"hidden_size": 64, "intermediate_size": 256}
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    result = subprocess.run([sys.executable, "-c", LIMITED, "train", *words], capture_output=True, text=True)
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("randar-hf train: error: `output_dir` must take checkpoint-2, got an error")
    assert not list(Path(settings["output_dir"]).glob(".checkpoint*"))


def test_a_disk_that_is_full_for_the_log(settings, monkeypatch):
    monkeypatch.setattr(Trainer, "log", full_disk)
    with pytest.raises(
        TrainingError,
        match="`output_dir` must lie on a disk with room, got a full one at .*; there is no checkpoint yet",
    ):
        train(TrainingConfig(**settings))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_row_that_vanishes(settings, monkeypatch, num_workers):
    getitems = KeyedSamples.__getitems__

    def read(self, indices):
        if self.epoch == 1:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "train.parquet")
        return getitems(self, indices)

    monkeypatch.setattr(KeyedSamples, "__getitems__", read)
    with pytest.raises(
        ValueError,
        match="`dataset` must stay as it is, got .* No such file or directory: .*; the last good .*-4",
    ):
        train(TrainingConfig(**settings, num_workers=num_workers))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("could not create a primitive"),
        MemoryError(),
    ],
)
def test_too_little_memory(settings, monkeypatch, capsys, error):
    def forward(*args, **kwargs):
        raise error

    monkeypatch.setattr(RandARForCausalLM, "forward", forward)
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert cli.main(["train", *words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        "randar-hf train: error: `batch_size` must be smaller for the memory there is, got 4; lower"
    )
    assert line.endswith("; there is no checkpoint yet") and "more" not in line.split("(")[1]


def test_other_errors_pass_as_they_are():
    for error in (RuntimeError("shapes"), OSError(errno.EPERM, "no")):
        with pytest.raises(type(error)) as raised, explain_failures("run", 1, "lower it", str):
            raise error
        assert raised.value is error


def test_memory_that_really_is_too_small(settings):
    with pytest.raises(TrainingError, match="`batch_size` must be smaller for the memory there is, got 4"):
        with explain_failures("run", 4, "lower it", str):
            torch.empty(2**50, dtype=torch.float64)


@pytest.mark.parametrize("device", ["nowhere", "meta"])
def test_a_device_that_does_not_compute_here_is_named(settings, image_folder, tokenizer_folder, monkeypatch, device):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", device)
    tokenizing = TokenizingConfig(dataset=str(image_folder), tokenizer=str(tokenizer_folder), output_dir="never")
    for run in (lambda: train(TrainingConfig(**settings)), lambda: tokenize_images(tokenizing)):
        with pytest.raises(ValueError, match=f"`ACCELERATE_TORCH_DEVICE` must be a device .*, got '{device}': "):
            AcceleratorState._reset_state(reset_partial_state=True)
            run()
    assert not Path(settings["output_dir"]).exists() and not Path("never").exists()


def test_processes_that_are_not_connected_are_told_how_to_launch(
    settings, image_folder, tokenizer_folder, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun sets it
    tokenizing = TokenizingConfig(dataset=str(image_folder), tokenizer=str(tokenizer_folder), output_dir="never")
    for run in (lambda: train(TrainingConfig(**settings)), lambda: tokenize_images(tokenizing)):
        with pytest.raises(
            ValueError, match="2 processes .* launched by `ACCELERATE_USE_CPU=true torchrun --nproc-per-"
        ):
            run()
    assert not Path(settings["output_dir"]).exists() and not Path("never").exists()
