"""Settings that fit the data, and those that fit no run."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from randar_hf.training import TokenizerTrainingConfig, TrainingConfig, load_recipe, train, train_tokenizer
from randar_hf.training.presets import (
    OPEN_FIELDS,
    PRESETS,
    SIZES,
    STEPS,
    choose_preset,
    fit_model_settings,
    fit_tokenizer_settings,
)
from randar_hf.training.recipe_files import read_recipe, shipped_recipes
from randar_hf.training.run_config import PRESET_NAMES


PLACES = {"dataset": "data", "output_dir": "run"}
PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def processes(count: int = 1):
    return SimpleNamespace(num_processes=count, is_main_process=True)


def rows_of(*sizes: tuple[int, int]) -> Dataset:
    """Images of these heights and widths."""
    images = [PILImage.fromarray(np.zeros((*size, 3), np.uint8)) for size in sizes]
    return Dataset.from_dict({"image": images}, features=Features({"image": Image(decode=False)}))


@pytest.mark.parametrize(
    ("count", "name"),
    [(1, "small"), (60, "small"), (5000, "small"), (5001, "medium"), (300_000, "medium"), (1_281_167, "published")],
)
def test_the_number_of_images_chooses(count, name):
    assert choose_preset(count) == name and tuple(PRESETS) == PRESET_NAMES
    config = fit_model_settings(TrainingConfig(**PLACES), count, processes())
    assert config.preset == name and 1 <= config.batch_size <= count
    assert 1 <= config.warmup_steps <= config.max_steps / 7 + 1
    assert (config.hidden_size is None) == (name == "published")


def test_published_is_what_it_was():
    """The defaults of version 0.1, whatever the data."""
    config = fit_model_settings(TrainingConfig(**PLACES, preset="published"), 60, processes())
    assert (config.batch_size, config.max_steps, config.warmup_steps, config.learning_rate) == (
        32,
        360_000,
        50_000,
        4e-4,
    )
    assert not config.model_fields
    tokenizer = TokenizerTrainingConfig(**PLACES, preset="published")
    config = fit_tokenizer_settings(tokenizer, rows_of(*[(20, 20)] * 40), processes())
    assert (config.batch_size, config.max_steps, config.warmup_steps, config.learning_rate) == (32, 50_000, 500, 4e-4)
    sizes = (config.image_size, config.block_out_channels, config.codebook_size)
    assert sizes == (256, [64, 128, 128, 256, 256], 4096)


def test_what_is_given_stays():
    given = {"batch_size": 7, "max_steps": 70, "warmup_steps": 3, "learning_rate": 0.5}
    config = TrainingConfig(**PLACES, **given, hidden_size=8)
    fitted = fit_model_settings(config, 60, processes())
    assert dataclasses.replace(fitted, preset=None) == config  # the other sizes are the published ones, as ever
    config = TokenizerTrainingConfig(**PLACES, **given, image_size=24, block_out_channels=[4, 4], codebook_size=5)
    fitted = fit_tokenizer_settings(config, rows_of((30, 30)), processes())
    assert dataclasses.replace(fitted, preset=None) == config
    short = fit_model_settings(TrainingConfig(**PLACES, max_steps=14), 60, processes())
    assert (short.max_steps, short.warmup_steps) == (14, 2)
    several = fit_model_settings(TrainingConfig(**PLACES), 20, processes(4))
    assert several.batch_size == 5


def test_steps_are_passes_over_the_images_where_that_is_more():
    config = fit_model_settings(TrainingConfig(**PLACES), 1000, processes(2))
    assert config.max_steps == 100 * 1000 // (8 * 2)
    accumulated = TrainingConfig(**PLACES, gradient_accumulation_steps=3)
    assert fit_model_settings(accumulated, 2000, processes()).max_steps == 100 * 2000 // (8 * 3)
    config = fit_tokenizer_settings(TokenizerTrainingConfig(**PLACES), rows_of(*[(16, 16)] * 600), processes())
    assert config.max_steps == 50 * 600 // 16


@pytest.mark.parametrize(
    ("size", "image_size", "tokens"), [((9, 12), 16, 8), ((40, 300), 32, 8), ((70, 80), 64, 8), ((600, 400), 64, 8)]
)
def test_tokenizers_are_as_large_as_the_images(size, image_size, tokens):
    config = fit_tokenizer_settings(TokenizerTrainingConfig(**PLACES), rows_of(size, size, size), processes())
    assert (config.image_size, config.image_size // config.downsampling) == (image_size, tokens)
    larger = TokenizerTrainingConfig(**PLACES, image_size=256)
    config = fit_tokenizer_settings(larger, rows_of(size), processes())
    assert (config.image_size // config.downsampling, config.batch_size) == (16, 1)


def test_images_that_cannot_be_read_tell_no_size(tmp_path):
    features = Features({"image": Image(decode=False)})
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    paths = [str(tmp_path / f"{index}.png") for index in range(3)]
    rows = Dataset.from_dict({"image": paths}, features=features)
    assert fit_tokenizer_settings(TokenizerTrainingConfig(**PLACES), rows, processes()).image_size == 16


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_leave_nothing_open(name):
    """So the data does not change them: they give the losses that they gave."""
    for command in read_recipe(name).sections:
        settings = load_recipe(name, command)
        needed = {"train": (*STEPS, *SIZES), "train-tokenizer": (*STEPS, *OPEN_FIELDS[9:12]), "tokenize": ()}
        assert set(needed[command]) <= set(settings), command


def test_a_resumed_run_keeps_what_was_chosen(training_settings, capsys):
    open_fields = ("batch_size", "learning_rate", "warmup_steps")
    settings = {name: value for name, value in training_settings.items() if name not in open_fields}
    folder = train(TrainingConfig(**settings))
    assert (
        "chosen settings: preset small, batch_size 8, warmup_steps 0, learning_rate 0.002" in capsys.readouterr().err
    )
    run = json.loads((folder / "run.json").read_text())
    run["config"]["preset"] = None  # as in a run of before there were presets
    (folder / "run.json").write_text(json.dumps(run))
    train(TrainingConfig(**settings, resume="checkpoint-3"))
    told = "chosen settings: batch_size 8, warmup_steps 0, learning_rate 0.002\nchosen settings: preset small\n"
    assert told in capsys.readouterr().err
    with pytest.raises(ValueError, match="`learning_rate` must be 0.002, got 0.1"):
        train(TrainingConfig(**settings, learning_rate=0.1, resume="latest"))


def test_a_tokenizer_from_a_folder_alone(image_folder, tmp_path):
    train_tokenizer(TokenizerTrainingConfig(dataset=str(image_folder), output_dir=str(tmp_path / "run"), max_steps=1))
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert None not in [config[name] for name in OPEN_FIELDS if name in config]
    assert (config["image_size"], config["block_out_channels"]) == (16, [16, 32])


@pytest.mark.parametrize("config_class", [TrainingConfig, TokenizerTrainingConfig])
def test_settings_that_fit_no_run(config_class):
    with pytest.raises(ValueError, match="`warmup_steps` must be at most `max_steps`, 100, got 101; "):
        config_class(**PLACES, max_steps=100, warmup_steps=101)
    config_class(**PLACES, max_steps=100, warmup_steps=100)
    with pytest.raises(ValueError, match="`preset` must be one of 'small', 'medium', 'published', got 'large'"):
        config_class(**PLACES, preset="large")


def test_the_page_has_the_table_of_the_presets():
    section = PAGE.read_text().split("## Settings that fit the data")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    cells = {line[0]: line[1:] for line in lines}
    assert cells["`--preset`"] == [f"`{name}`" for name in PRESETS]
    for index, preset in enumerate(PRESETS.values()):
        assert cells["`--image-size`, at most"][index] == str(preset.image_size)
        assert cells["`--block-out-channels`"][index] == " ".join(map(str, preset.channels))
        assert cells["`--codebook-size`"][index] == f"{preset.codebook_size:,}"
        sizes = [preset.model_sizes.get(name, size) for name, size in zip(SIZES, (1024, 2816, 24, 16), strict=True)]
        assert cells["width, inner width, layers, heads"][index] == ", ".join(f"{size:,}" for size in sizes)
        assert cells["residual and MLP dropout"][index] == f"{preset.model_sizes.get('mlp_dropout', 0.1):g}"
        for name, steps in (("tokenizer", preset.tokenizer_steps), ("model", preset.model_steps)):
            expected = f"{steps.batch_size}; {steps.learning_rate:g}; {steps.warmup_steps:,}"
            assert cells[f"{name}: batch, learning rate, warm-up"][index] == expected
            passes = f"{steps.passes} passes, at least " if steps.passes else ""
            assert cells[f"{name}: steps"][index] == f"{passes}{steps.least_steps:,}"
