"""Pictures to rows of tokens."""

import pytest
import torch
from datasets import ClassLabel, List, Value
from diffusers import VQModel

from randar_hf import vq
from randar_hf.training import TokenizingConfig, tokenize_images
from randar_hf.training.data import load_rows, pixel_dataset
from randar_hf.training.token_data import read_settings, token_dataset, tokenizer_hash


def test_rows_hold_the_tokens_and_labels_of_their_pictures(image_folder, tokenizer_folder, token_folder):
    rows = load_rows(str(token_folder), "train")
    assert rows.features["tokens"] == List(Value("uint16"), length=16)
    assert rows.features["label"] == ClassLabel(names=["across", "down"])
    vqvae = VQModel.from_pretrained(tokenizer_folder)
    pictures = load_rows(str(image_folder), "train")
    pixels = torch.stack([row["pixels"] for row in pixel_dataset(pictures, "image", 16)])
    loaded = token_dataset(rows, "tokens", "label")[:]
    assert torch.equal(loaded["tokens"], vq.encode(vqvae, pixels).flatten(1))
    assert loaded["label"].tolist() == pictures["label"][:]


def test_settings_travel_with_the_rows(tokenizer_folder, token_folder):
    settings = read_settings(str(token_folder))
    assert (settings.height, settings.width, settings.vocab_size) == (4, 4, 16)
    assert settings.tokenizer_hash == tokenizer_hash(VQModel.from_pretrained(tokenizer_folder))


def test_parquet_input_with_other_columns(image_parquet, tokenizer_folder, tmp_path):
    settings = {"dataset": str(image_parquet), "tokenizer": str(tokenizer_folder), "output_dir": str(tmp_path)}
    settings |= {"image_column": "picture", "label_column": "kind"}
    output = tokenize_images(TokenizingConfig(**settings))
    assert output == tmp_path / "train.parquet" and len(load_rows(str(output), "train")) == 16
    with pytest.raises(ValueError, match="`output_dir`: .*exists"):
        tokenize_images(TokenizingConfig(**settings))
    tokenize_images(TokenizingConfig(**settings, overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["train.parquet"]


def test_bad_input_is_named(image_folder, tokenizer_folder, tmp_path):
    settings = {
        "dataset": str(image_folder),
        "tokenizer": str(tokenizer_folder),
        "output_dir": str(tmp_path / "tokens"),
    }
    with pytest.raises(FileNotFoundError, match="`dataset`: .*nowhere"):
        tokenize_images(TokenizingConfig(**{**settings, "dataset": str(tmp_path / "nowhere")}))
    with pytest.raises(FileNotFoundError, match="`tokenizer`: .*nowhere"):
        tokenize_images(TokenizingConfig(**{**settings, "tokenizer": str(tmp_path / "nowhere")}))
    with pytest.raises(ValueError, match="`label_column`: there is no column 'class'; the columns are image, label"):
        tokenize_images(TokenizingConfig(**settings, label_column="class"))
    with pytest.raises(ValueError, match="`image_size`: 18 was given"):
        tokenize_images(TokenizingConfig(**settings, image_size=18))
    assert not (tmp_path / "tokens").exists()


def test_damaged_tokenizer_is_named(image_folder, tokenizer_folder, tmp_path):
    import shutil

    broken = shutil.copytree(tokenizer_folder, tmp_path / "broken")
    weights = broken / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ValueError, match="`tokenizer`: .*broken"):
        tokenize_images(
            TokenizingConfig(dataset=str(image_folder), tokenizer=str(broken), output_dir=str(tmp_path / "tokens"))
        )
