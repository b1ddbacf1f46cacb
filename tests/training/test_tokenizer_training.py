"""Training of the tokenizer."""

import pytest
import torch
from accelerate import Accelerator
from diffusers import VQModel

from randar_hf import vq
from randar_hf.training import TokenizerTrainingConfig, train_tokenizer
from randar_hf.training.codebook import CodebookKeeper, seed_codebook


def test_trains_from_parquet_and_reports(image_parquet, small_tokenizer_settings, tmp_path):
    config = TokenizerTrainingConfig(
        dataset=str(image_parquet),
        output_dir=str(tmp_path / "tokenizer"),
        image_column="picture",
        validation_split="validation",
        **{**small_tokenizer_settings, "max_steps": 60, "learning_rate": 1e-2},
    )
    metrics = train_tokenizer(config)
    assert metrics["psnr"] > 8 and 1 < metrics["used_codes"] <= 16
    vqvae = VQModel.from_pretrained(tmp_path / "tokenizer")
    tokens = vq.encode(vqvae, torch.zeros(1, 3, 16, 16))
    assert tokens.shape == (1, 4, 4) and vq.decode(vqvae, tokens).shape == (1, 3, 16, 16)


def test_same_seed_gives_the_same_weights(image_folder, small_tokenizer_settings, tmp_path):
    weights = []
    for name in ("first", "second"):
        train_tokenizer(
            TokenizerTrainingConfig(
                dataset=str(image_folder), output_dir=str(tmp_path / name), **small_tokenizer_settings
            )
        )
        weights.append((tmp_path / name / "diffusion_pytorch_model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_codebook_starts_from_encoder_outputs_and_unused_codes_start_over():
    torch.manual_seed(0)
    vqvae = VQModel(block_out_channels=(4,), norm_num_groups=4, latent_channels=2, num_vq_embeddings=8, sample_size=4)
    pixels = torch.rand(4, 3, 4, 4) * 2 - 1
    seed_codebook(vqvae, pixels)
    latents = vqvae.encode(pixels).latents.movedim(1, -1).flatten(0, -2)  # (64, 2)
    codebook = vqvae.quantize.embedding.weight
    assert torch.cdist(codebook, latents).min(dim=1).values.max() < 0.1 * latents.std()

    keeper = CodebookKeeper(vqvae)
    codebook.data[5] = 1000.0
    vqvae.train()(pixels)
    keeper.replace_unused(Accelerator())
    assert torch.cdist(codebook, latents).min(dim=1).values.max() < 0.1 * latents.std()


def test_bad_input_is_named(image_folder, tokenizer_folder, small_tokenizer_settings, tmp_path):
    settings = {"dataset": str(image_folder), "output_dir": str(tmp_path / "new"), **small_tokenizer_settings}
    with pytest.raises(FileNotFoundError, match="`dataset`: .*nowhere"):
        train_tokenizer(TokenizerTrainingConfig(**{**settings, "dataset": str(tmp_path / "nowhere")}))
    with pytest.raises(ValueError, match="`image_column`: there is no column 'photo'; the columns are image, label"):
        train_tokenizer(TokenizerTrainingConfig(**settings, image_column="photo"))
    with pytest.raises(ValueError, match="`image_column`: 'label' holds .*no pictures"):
        train_tokenizer(TokenizerTrainingConfig(**settings, image_column="label"))
    with pytest.raises(ValueError, match="`output_dir`: .*holds another run"):
        train_tokenizer(TokenizerTrainingConfig(**{**settings, "output_dir": str(tokenizer_folder)}))
    with pytest.raises(ValueError, match="`image_size`: 18 was given"):
        TokenizerTrainingConfig(**{**settings, "image_size": 18})
    with pytest.raises(ValueError, match="`codebook_size`: 70000 was given"):
        TokenizerTrainingConfig(**{**settings, "codebook_size": 70_000})
    assert not (tmp_path / "new").exists()
