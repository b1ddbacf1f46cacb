"""Training of the tokenizer."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import VQModel
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from randar_hf import vq
from randar_hf.training import TokenizerTrainingConfig, TrainingConfig, train, train_tokenizer
from randar_hf.training.codebook import CodebookKeeper, seed_codebook
from randar_hf.training.failures import TrainingError
from randar_hf.training.tokenizer_evaluation import structural_similarity


def test_trains_from_parquet_and_reports(image_parquet, small_tokenizer_settings, tmp_path, capsys, curves):
    config = TokenizerTrainingConfig(
        dataset=str(image_parquet),
        output_dir=str(tmp_path / "tokenizer"),
        image_column="image",
        validation_split="validation",
        **{**small_tokenizer_settings, "max_steps": 30, "learning_rate": 1e-2},
    )
    metrics = train_tokenizer(config)
    assert metrics["psnr"] > 8 and 0 < metrics["ssim"] < 1 and 1 < metrics["used_codes"] <= 16
    assert Image.open(tmp_path / "tokenizer" / "previews" / "step-30.png").size == (6 * 16, 2 * 16)
    assert (tmp_path / "tokenizer" / "validation.png").is_file()
    last = capsys.readouterr().out.splitlines()[-1]
    said = f"PSNR of {metrics['psnr']:.2f} dB and an SSIM of {metrics['ssim']:.3f} after 30 steps, the best of the run"
    assert said in last and said in (tmp_path / "tokenizer" / "README.md").read_text()
    assert last.startswith("VQModel with ") and f"Next: randar-hf tokenize --dataset {image_parquet} --tok" in last
    vqvae = VQModel.from_pretrained(tmp_path / "tokenizer")
    tokens = vq.encode(vqvae, torch.zeros(1, 3, 16, 16))
    assert tokens.shape == (1, 4, 4) and vq.decode(vqvae, tokens).shape == (1, 3, 16, 16)


@pytest.fixture(scope="module")
def nine_steps(image_folder, small_tokenizer_settings):
    """A checkpoint after every third step, and codes that start over after every other."""
    changes = {"max_steps": 9, "checkpointing_steps": 3, "codebook_size": 64, "logging_steps": 1}
    return {"dataset": str(image_folder), **small_tokenizer_settings, **changes}


@pytest.fixture
def settings(nine_steps, tmp_path):
    return {**nine_steps, "output_dir": str(tmp_path / "run")}


@pytest.fixture(scope="module")
def undisturbed(nine_steps, tmp_path_factory):
    """The folder of a run of these settings, to be read."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    train_tokenizer(TokenizerTrainingConfig(**nine_steps, output_dir=str(folder)))
    return folder


def weights_of(folder) -> dict:
    return load_file(Path(folder) / "diffusion_pytorch_model.safetensors")


def test_a_resumed_run_ends_as_an_undisturbed_one(settings, undisturbed, read_metrics):
    folder = shutil.copytree(undisturbed, Path(settings["output_dir"]))
    whole, rows = weights_of(folder), read_metrics(folder)
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-9"]
    for name in ("checkpoint-9", "diffusion_pytorch_model.safetensors", "metrics.jsonl"):
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    train_tokenizer(TokenizerTrainingConfig(**settings, resume="latest"))
    assert_close(weights_of(folder), whole, rtol=0, atol=0)
    assert read_metrics(folder) == rows[6:]


def test_uses_of_codes_are_part_of_a_checkpoint(settings):
    settings |= {"restart_steps": 5, "max_steps": 7, "checkpoints_total_limit": 3}
    train_tokenizer(TokenizerTrainingConfig(**settings))
    whole = weights_of(settings["output_dir"])
    (Path(settings["output_dir"]) / "diffusion_pytorch_model.safetensors").unlink()
    train_tokenizer(TokenizerTrainingConfig(**settings, resume="checkpoint-3"))
    assert_close(weights_of(settings["output_dir"]), whole, rtol=0, atol=0)


def test_killed_runs_end_as_an_undisturbed_one(start_training, settings, undisturbed):
    for kill_at in (15, 40, None):
        (process,) = start_training(settings, kill_at=kill_at, tokenizer=True)
        process.join()
        assert process.exitcode == (0 if kill_at is None else -signal.SIGKILL)
    assert_close(weights_of(settings["output_dir"]), weights_of(undisturbed), rtol=0, atol=0)


def test_two_processes_train_the_same_tokenizer(start_training, settings, undisturbed, read_metrics):
    for process in (group := start_training({**settings, "batch_size": 2}, processes=2, tokenizer=True)):
        process.join()
    assert [process.exitcode for process in group] == [0, 0]
    for row, other in zip(read_metrics(settings["output_dir"]), read_metrics(undisturbed), strict=True):
        assert row == pytest.approx(other, rel=1e-3)
    name = "quantize.embedding.weight"
    assert_close(weights_of(settings["output_dir"])[name], weights_of(undisturbed)[name], rtol=1e-3, atol=1e-4)


def test_a_step_without_a_finite_gradient_is_skipped_and_too_many_end_the_run(settings, monkeypatch, read_metrics):
    forward, steps = VQModel.forward, iter(range(1, 100))

    def spoiled(self, pixels):
        output = forward(self, pixels)
        output.commit_loss = output.commit_loss * (float("nan") if next(steps) in (2, 3, *range(10, 14)) else 1)
        return output

    monkeypatch.setattr(VQModel, "forward", spoiled)
    train_tokenizer(TokenizerTrainingConfig(**settings, max_skipped_steps=2))
    rows = read_metrics(Path(settings["output_dir"]))
    assert [row["skipped_steps"] for row in rows] == [0, 1, 2, 2, 2, 2, 2, 2, 2]
    assert all(weight.isfinite().all() for weight in weights_of(settings["output_dir"]).values())
    with pytest.raises(TrainingError, match="`max_skipped_steps` must be .* and 3 of them; .*; there is no checkpo"):
        train_tokenizer(TokenizerTrainingConfig(**settings, max_skipped_steps=2, overwrite=True))


def test_a_run_is_resumed_with_its_own_settings_alone(settings, undisturbed, token_folder):
    settings["output_dir"], resume = str(undisturbed), {"resume": "latest"}
    with pytest.raises(ValueError, match="`seed` must be 0, got 1; `code_dim` must be 2, got 3"):
        train_tokenizer(TokenizerTrainingConfig(**{**settings, "code_dim": 3, "seed": 1}, **resume))
    with pytest.raises(
        ValueError,
        match="`resume` must be .* of `randar-hf train`, got .*9' of `randar-hf train-t",
    ):
        train(TrainingConfig(dataset=str(token_folder), output_dir=settings["output_dir"], **resume))
    with pytest.raises(ValueError, match="`resume` and `overwrite` must not both be given"):
        TokenizerTrainingConfig(**settings, overwrite=True, **resume)


def test_structural_similarity_is_that_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(2, 3, 13, 11, generator=generator) * 2 - 1
    second = (first + 0.3 * torch.randn(first.shape, generator=generator)).clamp(-1, 1)
    weights = torch.exp(-(torch.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
    weights = weights[:, None] * weights / weights.sum() ** 2
    values = []
    for row in range(3):  # the windows of the first image's second colour
        x, y = ((image[0, 1, row : row + 11] + 1) / 2 for image in (first, second))
        mx, my = ((weights * part).sum() for part in (x, y))
        vx, vy, xy = ((weights * part).sum() for part in ((x - mx) ** 2, (y - my) ** 2, (x - mx) * (y - my)))
        values.append((2 * mx * my + 1e-4) * (2 * xy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    first, second = (image[:1, 1:2].expand(1, 3, 13, 11) for image in (first, second))
    assert_close(structural_similarity(first, second), torch.stack(values).mean()[None])
    assert_close(structural_similarity(first, first), torch.ones(1))
    assert structural_similarity(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)).isfinite().all()


def test_codebook_starts_from_encoder_outputs_and_unused_codes_start_over():
    torch.manual_seed(0)
    vqvae = VQModel(block_out_channels=(4,), norm_num_groups=4, latent_channels=2, num_vq_embeddings=8, sample_size=4)
    pixels = torch.rand(4, 3, 4, 4) * 2 - 1
    generator, accelerator = torch.Generator().manual_seed(0), Accelerator()
    seed_codebook(vqvae, pixels, accelerator, generator)
    latents = vqvae.encode(pixels).latents.movedim(1, -1).flatten(0, -2)  # (64, 2)
    codebook = vqvae.quantize.embedding.weight
    assert torch.cdist(codebook, latents).min(dim=1).values.max() < 0.1 * latents.std()

    keeper = CodebookKeeper(vqvae)
    codebook.data[5] = 1000.0
    vqvae.train()(pixels)
    keeper.replace_unused(accelerator, generator)
    assert torch.cdist(codebook, latents).min(dim=1).values.max() < 0.1 * latents.std()


def test_bad_input_is_named(image_folder, tokenizer_folder, small_tokenizer_settings, tmp_path):
    settings = {"dataset": str(image_folder), "output_dir": str(tmp_path / "new"), **small_tokenizer_settings}
    with pytest.raises(FileNotFoundError, match="`dataset` must be .*nowhere"):
        train_tokenizer(TokenizerTrainingConfig(**{**settings, "dataset": str(tmp_path / "nowhere")}))
    with pytest.raises(ValueError, match="`image_column` must be one of image, label, got 'photo'"):
        train_tokenizer(TokenizerTrainingConfig(**settings, image_column="photo"))
    with pytest.raises(ValueError, match="`image_column` must hold images, got .* in 'label'"):
        train_tokenizer(TokenizerTrainingConfig(**settings, image_column="label"))
    with pytest.raises(ValueError, match="`output_dir` must hold no other run"):
        train_tokenizer(TokenizerTrainingConfig(**{**settings, "output_dir": str(tokenizer_folder)}))
    with pytest.raises(ValueError, match="`image_size` must be a multiple of .*, got 18"):
        TokenizerTrainingConfig(**{**settings, "image_size": 18})
    with pytest.raises(ValueError, match="`codebook_size` must be at most 65536.*got 70000"):
        TokenizerTrainingConfig(**{**settings, "codebook_size": 70_000})
    assert not (tmp_path / "new").exists()
