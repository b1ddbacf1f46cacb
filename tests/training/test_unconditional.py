"""Images without classes, from a flat folder to a pipeline; and classes of one image."""

from pathlib import Path

import pytest
from datasets import load_dataset
from PIL import Image

from randar_hf.cli import main
from randar_hf.pipelines import RandARPipeline
from randar_hf.training import (
    TokenizerTrainingConfig,
    TokenizingConfig,
    TrainingConfig,
    tokenize_images,
    train,
    train_tokenizer,
)


@pytest.fixture
def steps(small_tokenizer_settings, training_settings, tmp_path, monkeypatch):
    """`steps(dataset, **more)` goes from a folder of images to a model."""
    monkeypatch.chdir(tmp_path)

    def run(dataset: str, **more):
        train_tokenizer(TokenizerTrainingConfig(**small_tokenizer_settings, dataset=dataset, output_dir="tokenizer"))
        for split in ("train", *({"validation"} if more else ())):
            tokenize_images(TokenizingConfig(dataset=dataset, tokenizer="tokenizer", output_dir="tokens", split=split))
        places = {"dataset": "tokens", "tokenizer": "tokenizer", "output_dir": "model", "max_steps": 2}
        train(TrainingConfig(**{**training_settings, **places, **more}))

    return run


def test_a_flat_folder_becomes_a_pipeline(steps, capsys):
    Path("my_images").mkdir()
    for index in range(8):
        Image.new("RGB", (16, 16), (0, 0, 30 * index)).save(f"my_images/{index}.png")
    steps("my_images")
    pipe = RandARPipeline.from_pretrained("model/pipeline")
    assert pipe.id2label == {0: "image"}
    assert pipe.transformer.generation_config.guidance_scale == 1.0
    assert Image.open("model/previews/step-2.png").size == (16, 4 * 16)
    assert main(["generate", "--model", "model/pipeline", "--num-images", "2"]) == 0
    assert main(["generate", "image", "--model", "model/pipeline", "--output", "named.png", "--num-images", "2"]) == 0
    assert Image.open("images.png").tobytes() == Image.open("named.png").tobytes()
    assert main(["generate", "--output", "other.png"]) == 2
    assert "`labels` must be given for a model of 96 classes, got none" in capsys.readouterr().err


def test_classes_of_one_image_and_a_validation_split_without_a_class(steps):
    for split, names in {"train": "aaab", "validation": "a"}.items():
        for index, name in enumerate(names):
            folder = Path("images", split, name)
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (0, 0, 60 * index)).save(folder / f"{index}.png")
    steps("images", validation_split="validation", validation_steps=1)
    pipe = RandARPipeline.from_pretrained("model/pipeline")
    assert pipe.id2label == {0: "a", 1: "b"} and pipe.transformer.generation_config.guidance_scale == 4.0
    rows = load_dataset("parquet", data_files="tokens/validation.parquet", split="train")
    assert rows.features["label"].names == ["a", "b"]
