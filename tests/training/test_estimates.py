"""What a run takes, told before its first step, and refused where it does not fit."""

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn

from randar_hf import memory as free
from randar_hf.training import (
    TokenizerTrainingConfig,
    TokenizingConfig,
    TrainingConfig,
    tokenize_images,
    train,
    train_tokenizer,
)
from randar_hf.training.memory_estimate import measure_step


CPU = torch.device("cpu")


@pytest.fixture
def little_memory(monkeypatch):
    """`little_memory(mib)` leaves so much."""
    return lambda mib: monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=int(mib * 2**20))
    )


def test_the_bytes_of_a_step():
    def build():
        return nn.Sequential(nn.Linear(1000, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 1, bias=False))

    estimate = measure_step(build, lambda model: model(torch.zeros(500, 1000)).sum(), CPU, averages=True)
    weights = 4 * (1000 * 1000 + 1000)
    assert estimate.parameters == 1_001_000
    assert (estimate.weights, estimate.gradients, estimate.moments, estimate.averages) == (
        weights,
        weights,
        2 * weights,
        weights,
    )
    # Input, sums and what the activation gives are alive at once, and the gradient of the latter at most.
    assert 3 * 4 * 500_000 <= estimate.activations + weights <= 5 * 4 * 500_000 + weights
    assert estimate.flops == pytest.approx(2 * 500 * (2 * 1_000_000 + 3 * 1000), rel=0.01)
    inference = measure_step(build, lambda model: None, CPU)
    assert (inference.gradients, inference.moments, inference.activations) == (0, 0, 0)
    assert measure_step(build, lambda model: model(torch.zeros(5, 1000)).sum(), CPU, num_processes=2).gradients == (
        2 * weights
    )


def tokenizer_config(image_folder, settings, folder, **more):
    return TokenizerTrainingConfig(dataset=str(image_folder), output_dir=str(folder), **{**settings, **more})


def test_a_tokenizer_that_does_not_fit(image_folder, small_tokenizer_settings, tmp_path, little_memory):
    little_memory(310)
    config = tokenizer_config(image_folder, small_tokenizer_settings, tmp_path / "run", batch_size=4096)
    with pytest.raises(ValueError, match=r"must fit .* activations .* 310 MiB are free; `batch_size` \d+ fits"):
        train_tokenizer(config)
    assert not (tmp_path / "run").exists()
    little_memory(200)
    with pytest.raises(ValueError, match="200 MiB are free; a smaller `image_size`"):
        train_tokenizer(config)


def test_a_model_that_does_not_fit(training_settings, tmp_path, little_memory):
    little_memory(301)
    with pytest.raises(ValueError, match=r"are free; `batch_size` \d+, `gradient_accumulation_steps` \d+ fits"):
        train(TrainingConfig(**{**training_settings, "batch_size": 4096}))
    little_memory(200)
    with pytest.raises(ValueError, match="are free; a smaller `hidden_size`"):
        train(TrainingConfig(**training_settings))
    assert not (tmp_path / "run").exists()


def test_tokens_that_do_not_fit(image_folder, tokenizer_folder, tmp_path, little_memory):
    little_memory(200)
    config = TokenizingConfig(
        dataset=str(image_folder), tokenizer=str(tokenizer_folder), output_dir=str(tmp_path / "tokens")
    )
    with pytest.raises(ValueError, match="`batch_size` must fit the memory.*200 MiB are free"):
        tokenize_images(config)
    assert not (tmp_path / "tokens").exists()


def test_dry_runs(image_folder, tokenizer_folder, small_tokenizer_settings, training_settings, tmp_path, capsys):
    train_tokenizer(tokenizer_config(image_folder, small_tokenizer_settings, tmp_path / "a", dry_run=True))
    first = capsys.readouterr().out
    train(TrainingConfig(**training_settings, dry_run=True, gradient_accumulation_steps=2))
    second = capsys.readouterr().out
    config = {"dataset": str(image_folder), "tokenizer": str(tokenizer_folder), "output_dir": str(tmp_path / "b")}
    tokenize_images(TokenizingConfig(**config, dry_run=True))
    third = capsys.readouterr().out
    for text in (first, second):
        assert "parameters: " in text and " FLOP in " in text and " s a step, " in text
    assert "steps of 8 images" in second and "for 16 images" in third
    assert all("a dry run, nothing was written" in text and "MiB" in text for text in (first, second, third))
    assert list(tmp_path.iterdir()) == []


def test_an_estimate_that_cannot_be_made(image_folder, small_tokenizer_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("randar_hf.training.memory_estimate.free_memory", lambda device: None)
    train_tokenizer(tokenizer_config(image_folder, small_tokenizer_settings, tmp_path / "a"))
    assert "a step takes about" in capsys.readouterr().err

    def fail(*args, **kwargs):
        raise RuntimeError("no such operation")

    monkeypatch.setattr("randar_hf.training.run_estimates.measure_step", fail)
    train_tokenizer(tokenizer_config(image_folder, small_tokenizer_settings, tmp_path / "b"))
    assert "memory that cannot be told (no such operation)" in capsys.readouterr().err


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_containers(version, tmp_path, monkeypatch):
    root = tmp_path / "memory" if version == 1 else tmp_path
    files, line = (free.V1_FILES, "4:memory:/job/part") if version == 1 else (free.V2_FILES, "0::/job/part")
    for group, limit, used in (("job", 800, 500), ("job/part", 900, 100)):
        (root / group).mkdir(parents=True)
        (root / group / files[0]).write_text(f"{limit}\n")
        (root / group / files[1]).write_text(f"{used}\n")
        (root / group / "memory.stat").write_text(f"anon 3\n{files[2]} 50\n")
    read = free._read_lines
    monkeypatch.setattr(free, "CGROUPS", tmp_path)
    monkeypatch.setattr(free, "_read_lines", lambda path: [line] if str(path) == "/proc/self/cgroup" else read(path))
    assert free.free_memory(CPU) == 350
    (root / "job" / files[0]).write_text("max\n" if version == 2 else "9223372036854771712\n")
    assert free.free_memory(CPU) == 850


LIMITED = """
import resource, sys
import psutil
from randar_hf.training import TokenizerTrainingConfig, train_tokenizer
import randar_hf.training.tokenizer_training
limit = psutil.Process().memory_info().vms + int(sys.argv[3]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    train_tokenizer(TokenizerTrainingConfig(dataset=sys.argv[1], output_dir=sys.argv[2], image_size=128,
        block_out_channels=[32, 32, 32], batch_size=8, max_steps=1, warmup_steps=0, codebook_size=64))
except ValueError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address spaces are limited on Linux")
@pytest.mark.parametrize("mib", [150, 700])
def test_a_process_of_a_limited_address_space_says_so(image_folder, tmp_path, mib):
    command = [sys.executable, "-c", LIMITED, str(image_folder), str(tmp_path / "run"), str(mib)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "refused: `batch_size` must fit the memory" in done.stderr
    assert not (tmp_path / "run").exists()
