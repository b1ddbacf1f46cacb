"""Runs that are killed, interrupted, or started twice: nothing is lost, and the end is the same."""

import contextlib
import hashlib
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from randar_hf.cli.interrupts import acknowledging
from randar_hf.training import TrainingConfig, train
from randar_hf.training.checkpoints import list_checkpoints


@pytest.fixture
def settings(training_settings):
    """Twelve steps with a checkpoint after each, with dropout and averaged weights."""
    return {**training_settings, "max_steps": 12, "checkpointing_steps": 1, "ema_decay": 0.9}


def wait_for_checkpoint(folder, step: int) -> None:
    end = time.monotonic() + 60
    while last_step(folder) < step:
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.005)


def last_step(folder) -> int:
    return max((int(path.name.removeprefix("checkpoint-")) for path in list_checkpoints(Path(folder))), default=0)


def kill_again_and_again(start_training, settings, kills, seconds, processes=1):
    """Kill runs at random moments, every other time just before a random use of a file; finish and count them."""
    chance, done, killed = random.Random(0), 0, 0
    while killed < kills:
        by_file = processes == 1 and killed % 2 == 0
        group = start_training(settings, processes, kill_at=chance.randint(1, 40) if by_file else None)
        if not by_file:
            group[0].join(chance.uniform(0, seconds))
            for process in group:
                process.kill()
        for process in group:
            process.join()
        codes = {process.exitcode for process in group}
        killed += -signal.SIGKILL in codes
        done += codes == {0}
        assert codes <= {0, -signal.SIGKILL}
    for process in (group := start_training(settings, processes)):
        process.join()
        assert process.exitcode == 0
    return done


def check_kills(start_training, settings, tmp_path, same_weights, read_metrics, kills, processes=1):
    whole = {**settings, "output_dir": str(tmp_path / "whole")}
    begin = time.monotonic()
    for process in start_training(whole, processes):
        process.join()
        assert process.exitcode == 0
    kill_again_and_again(start_training, settings, kills, time.monotonic() - begin, processes)
    assert same_weights(whole["output_dir"], settings["output_dir"])
    assert read_metrics(settings["output_dir"]) == read_metrics(whole["output_dir"])  # each step once
    assert not list(Path(settings["output_dir"]).glob("*.partial"))


def test_killed_runs_end_as_an_undisturbed_one(start_training, settings, tmp_path, same_weights, read_metrics):
    check_kills(start_training, settings, tmp_path, same_weights, read_metrics, kills=4)


@pytest.mark.slow
def test_twenty_killed_runs_end_as_an_undisturbed_one(start_training, settings, tmp_path, same_weights, read_metrics):
    check_kills(start_training, {**settings, "max_steps": 40}, tmp_path, same_weights, read_metrics, kills=20)


@pytest.mark.slow
def test_killed_runs_of_two_processes_end_as_an_undisturbed_one(
    start_training, settings, tmp_path, same_weights, read_metrics
):
    check_kills(start_training, settings, tmp_path, same_weights, read_metrics, kills=4, processes=2)


def test_a_signal_saves_and_the_run_can_go_on(start_training, settings, tmp_path, same_weights):
    settings |= {"checkpointing_steps": 3, "max_steps": 60}
    step = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        (process,) = start_training({**settings, "num_workers": 1})
        wait_for_checkpoint(settings["output_dir"], step + 1)
        for worker in psutil.Process(process.pid).children():  # a scheduler signals all processes of a job
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(number)
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == 128 + number
        assert step < last_step(settings["output_dir"]) < 60
        step = last_step(settings["output_dir"])
        assert f"stopped by {number.name} with checkpoint-{step} in" in (tmp_path / "log").read_text()
        assert not (Path(settings["output_dir"]) / "model.safetensors").exists()
    train(TrainingConfig(**settings, resume="latest"))
    train(TrainingConfig(**{**settings, "output_dir": str(tmp_path / "whole")}))
    assert same_weights(settings["output_dir"], tmp_path / "whole")


def test_a_signal_is_answered_while_python_is_busy(monkeypatch):
    times = {}
    monkeypatch.setattr(sys.stderr, "write", lambda text: times.setdefault(text.strip(), time.monotonic()))
    former = signal.signal(signal.SIGINT, lambda *_: times.setdefault("handled", time.monotonic()))
    try:
        with acknowledging("train"):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)  # one instruction of Python
    finally:
        signal.signal(signal.SIGINT, former)
    answer, handled = sorted(times, key=times.get)[:: len(times) - 1]
    assert answer == "randar-hf train: SIGINT, stopping; what was trained is saved first"
    assert handled == "handled" and signal.set_wakeup_fd(-1) == -1


def test_a_folder_in_use_is_refused_until_its_process_dies(start_training, settings, monkeypatch):
    monkeypatch.setattr("randar_hf.files.LOCK_SECONDS", 0.1)
    (process,) = start_training({**settings, "max_steps": 100_000})
    wait_for_checkpoint(settings["output_dir"], 1)
    for choice in ({"overwrite": True}, {"resume": "latest"}):
        with pytest.raises(ValueError, match="`output_dir` must not be in use by another running process"):
            train(TrainingConfig(**{**settings, "max_steps": 100_000}, **choice))
    assert process.is_alive()
    process.kill()
    process.join()
    train(TrainingConfig(**settings, overwrite=True))
    assert load_file(Path(settings["output_dir"]) / "model.safetensors")
