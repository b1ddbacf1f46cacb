"""The shipped checkpoint and the image that shows it."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from sklearn.svm import SVC

from randar_hf import demo_checkpoint
from randar_hf.cli import main
from randar_hf.pipelines import RandARPipeline, RARPipeline
from randar_hf.training.experiments.digits_data import DIGIT_NAMES, split_scans
from randar_hf.training.experiments.digits_evaluation import classify


@pytest.fixture(scope="module")
def pipe():
    pipe = RandARPipeline.from_pretrained(demo_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def rar_pipe():
    pipe = RARPipeline.from_pretrained(demo_checkpoint("rar"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("name", ["pipe", "rar_pipe"])
def test_generated_digits_are_the_asked_ones(request, name):
    pipe = request.getfixturevalue(name)
    scans, targets = split_scans()["train"]
    classifier = SVC().fit(scans.reshape(-1, 64), targets)
    names = DIGIT_NAMES * 10
    images = pipe(names, generator=[torch.Generator().manual_seed(1000 + i) for i in range(100)]).images
    asked = torch.arange(10).repeat(10).numpy()
    # All 100 with probability 0.98 ** 100 at the least that is claimed; below 93 has probability 0.001.
    assert (classify(classifier, images) == asked).sum() >= 93


def test_stored_settings_suit_the_checkpoint(pipe):
    config = pipe.transformer.generation_config
    assert config.num_inference_steps < pipe.transformer.config.num_tokens == 64
    assert list(pipe.id2label.values()) == DIGIT_NAMES


def test_the_annealed_model_is_merged_and_goes_in_raster_order(rar_pipe):
    model = rar_pipe.transformer
    assert model.config.merged_positions and model.config.random_ratio == 0
    assert model.generation_config.order == "raster" and list(rar_pipe.id2label.values()) == DIGIT_NAMES
    with pytest.raises(ValueError, match="`order` must be 'raster'"):
        rar_pipe("three", order="random")


def test_an_unknown_demo_is_named():
    for wrong in ("vit", None, ["rar"]):
        with pytest.raises(ValueError, match="`model_type` must be one of randar, rar, got"):
            demo_checkpoint(wrong)


@pytest.mark.parametrize("model_type", ["randar", "rar"])
def test_model_card(model_type):
    card = ModelCard.load(Path(demo_checkpoint(model_type)) / "README.md")
    assert card.data.license and card.data.library_name == "diffusers"
    for heading in ("Data", "Recipe", "Numbers", "Limits"):
        assert f"## {heading}" in card.text


def test_demo_draws_a_sheet(tmp_path, capsys):
    assert main(["demo", "--output", str(tmp_path / "demo.png")]) == 0
    output = capsys.readouterr()
    assert "wrote" in output.out and "7/7" in output.err
    sheet = Image.open(tmp_path / "demo.png")
    assert min(sheet.size) > 600 and len(sheet.convert("L").getcolors()) > 100
    assert main(["demo", "--output", str(tmp_path / "demo.png")]) == 2
