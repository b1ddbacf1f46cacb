"""What a run takes, told before its first step, and refused where it does not fit."""

import re
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from randar_hf.training import (
    TokenizerTrainingConfig,
    TokenizingConfig,
    TrainingConfig,
    tokenize_images,
    train,
    train_tokenizer,
)
from randar_hf.training.discriminator import PatchDiscriminator
from randar_hf.training.memory_estimate import (
    ADVERSARIAL,
    check_fits,
    kept_activations,
    smaller_batches,
    tokenizer_activations,
)
from randar_hf.training.tokenizer_training import build_tokenizer


@pytest.fixture
def little_memory(monkeypatch):
    """`little_memory(mib)` leaves so much."""
    return lambda mib: monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=int(mib * 2**20))
    )


def kept_in_truth(module, pixels, loss) -> int:
    """Bytes that autograd keeps of a forward pass, beside weights."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(pixels)
        assert loss(output).requires_grad
    return sum(seen.values())


@pytest.mark.parametrize(("channels", "size", "blocks"), [([16, 32], 32, 1), ([8, 16, 16], 64, 2), ([16], 16, 1)])
def test_activations_are_what_autograd_keeps(channels, size, blocks):
    """Counted, within 25%; transient parts of the formula, a fifth of it or so, are not kept."""
    config = SimpleNamespace(
        block_out_channels=channels, layers_per_block=blocks, image_size=size, codebook_size=64, code_dim=8
    )
    pixels = torch.zeros(2, 3, size, size)
    kept = kept_in_truth(build_tokenizer(config), pixels, lambda out: out.sample.square().mean() + out.commit_loss)
    assert kept == pytest.approx(tokenizer_activations(config, 2, is_trained=True), rel=0.25)


def test_terms_of_the_loss_count(image_folder, small_tokenizer_settings, tmp_path, little_memory):
    discriminator, pixels = PatchDiscriminator(2), torch.zeros(2, 3, 64, 64, requires_grad=True)
    kept = kept_in_truth(discriminator, pixels, torch.mean)
    assert kept_activations(discriminator, pixels.to("meta")) == kept > 2 * 4 * 3 * 64**2

    def estimate(start):
        """MiB beside those of the process, as a message tells them."""
        more = {"image_size": 64, "batch_size": 2, "discriminator_start": start, "discriminator_layers": 2}
        config = tokenizer_config(image_folder, small_tokenizer_settings, tmp_path / "run", **more)
        with pytest.raises(ValueError, match="`batch_size` must fit the memory") as error:
            train_tokenizer(config)
        parts = re.findall(r"(?:weights|gradients|moments|activations) (\d+) MiB", str(error.value))
        assert len(parts) == 4
        return sum(map(int, parts))

    little_memory(1)
    weights = sum(parameter.numel() for parameter in discriminator.parameters())
    expected = (16 * weights + ADVERSARIAL * kept) / 2**20
    assert estimate(0) - estimate(None) == pytest.approx(expected, abs=3) and expected > 12  # each part is rounded


def tokenizer_config(image_folder, settings, folder, **more):
    return TokenizerTrainingConfig(dataset=str(image_folder), output_dir=str(folder), **{**settings, **more})


def test_a_tokenizer_that_does_not_fit(image_folder, small_tokenizer_settings, tmp_path, little_memory):
    little_memory(300)
    large = {"image_size": 256, "block_out_channels": [8, 8, 8], "batch_size": 16}
    config = tokenizer_config(image_folder, small_tokenizer_settings, tmp_path / "run", **large)
    with pytest.raises(
        ValueError, match=r"`batch_size` must fit the memory: `train-tokenizer` takes about .* got 300 MiB"
    ):
        train_tokenizer(config)
    with pytest.raises(ValueError, match="that are free; what fits: `batch_size` [12]$"):
        train_tokenizer(config)
    little_memory(100)
    with pytest.raises(ValueError, match="free; a smaller `image_size`, smaller `block_out_channels` or a smaller"):
        train_tokenizer(config)
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_fit(training_settings, tmp_path, little_memory):
    large = {"batch_size": 16, "hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 4}
    little_memory(700)
    with pytest.raises(ValueError, match="what fits: `batch_size` . with `gradient_accumulation_steps`|checkpointing"):
        train(TrainingConfig(**{**training_settings, **large}))
    little_memory(100)
    with pytest.raises(ValueError, match="free; a smaller `hidden_size`"):
        train(TrainingConfig(**training_settings))
    assert not list(tmp_path.iterdir())


def test_tokens_that_do_not_fit(image_folder, tokenizer_folder, tmp_path, little_memory):
    little_memory(100)
    config = TokenizingConfig(
        dataset=str(image_folder), tokenizer=str(tokenizer_folder), output_dir=str(tmp_path / "tokens")
    )
    with pytest.raises(ValueError, match="`batch_size` must fit the memory: `tokenize` .* got 100 MiB .*a smaller"):
        tokenize_images(config)
    assert not list(tmp_path.iterdir())


def test_smaller_batches_hold_as_many_images():
    assert smaller_batches(5) == [{"batch_size": 2}, {"batch_size": 1}]
    pairs = [(each["batch_size"], each["gradient_accumulation_steps"]) for each in smaller_batches(32, 2)]
    assert pairs == [(16, 4), (8, 8), (4, 16), (2, 32), (1, 64)]


def test_dry_runs(image_folder, tokenizer_folder, small_tokenizer_settings, training_settings, tmp_path, capsys):
    train_tokenizer(tokenizer_config(image_folder, small_tokenizer_settings, tmp_path / "a", dry_run=True))
    first = capsys.readouterr().out
    train(TrainingConfig(**training_settings, dry_run=True, gradient_accumulation_steps=2))
    second = capsys.readouterr().out
    config = {"dataset": str(image_folder), "tokenizer": str(tokenizer_folder), "output_dir": str(tmp_path / "b")}
    tokenize_images(TokenizingConfig(**config, dry_run=True))
    third = capsys.readouterr().out
    for text in (first, second):
        assert "parameters: " in text and " FLOP a step of " in text and " s a step, " in text
    assert "a step of 8 images" in second and "for 16 images" in third
    assert all("a dry run, nothing was written" in text and "MiB" in text for text in (first, second, third))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("accelerator", [{"device": torch.device("mps")}, {"is_fsdp2": True}])
def test_an_estimate_that_cannot_be_made_says_so_and_goes_on(accelerator, caplog):
    accelerator = SimpleNamespace(
        **{"device": torch.device("cpu"), "is_fsdp2": False, "num_processes": 1} | accelerator
    )
    assert check_fits("train", lambda: pytest.fail("no estimate"), [], "", accelerator) is None
    assert "memory cannot be estimated" in caplog.text and "going on without" in caplog.text


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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address spaces are limited on Linux")
@pytest.mark.parametrize("mib", [150, 500, 900])
def test_a_process_of_a_limited_address_space_says_so(image_folder, tmp_path, mib):
    command = [sys.executable, "-c", LIMITED, str(image_folder), str(tmp_path / "run"), str(mib)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "refused: `batch_size` must " in done.stderr
    assert not (tmp_path / "run").exists()
