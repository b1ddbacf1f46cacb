"""The shipped checkpoints and the image that shows them."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from randar_hf import demo_checkpoint, vq
from randar_hf.cli import main
from randar_hf.pipelines import RandARPipeline, RARPipeline


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


@pytest.mark.parametrize(("writer", "reader"), [("pipe", "rar_pipe"), ("rar_pipe", "pipe")])
def test_generated_images_are_likeliest_as_the_asked_class_for_the_other_model(request, writer, reader):
    """The two were trained apart; what one samples, the other reads from the pixels, among 16 classes."""
    writer, reader = map(request.getfixturevalue, (writer, reader))
    classes = torch.arange(16) * (len(writer.id2label) // 16)
    images = writer(classes.tolist(), generator=[torch.Generator().manual_seed(i) for i in range(16)]).images
    tokens = vq.encode_images(reader.vqvae, reader.image_processor.preprocess(images)).flatten(1)  # (16, N)
    nats = reader.transformer.class_log_likelihoods(tokens, classes.tolist())  # (16, 16)
    assert (nats.argmax(dim=1) == torch.arange(16)).sum() >= 11  # one by chance


def test_stored_settings_suit_the_checkpoint(pipe, rar_pipe):
    config, rar_config = pipe.transformer.config, rar_pipe.transformer.config
    assert pipe.transformer.generation_config.num_inference_steps <= config.num_tokens == 64
    assert list(pipe.id2label) == list(range(config.num_classes)) and rar_pipe.id2label == pipe.id2label
    assert rar_config.merged_positions and rar_config.random_ratio == 0
    assert rar_pipe.transformer.generation_config.order == "raster"
    with pytest.raises(ValueError, match="`order` must be 'raster'"):
        rar_pipe(0, order="random")


def test_stored_numbers_are_small_and_calculated_with_in_full(pipe, rar_pipe):
    for each in (pipe, rar_pipe):
        assert each.transformer.dtype == each.vqvae.dtype == torch.float32
    weights = [pipe.vqvae.state_dict(), rar_pipe.vqvae.state_dict()]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])  # one tokenizer for both


def test_an_unknown_demo_is_named():
    for wrong in ("vit", None, ["rar"]):
        with pytest.raises(ValueError, match="`model_type` must be one of randar, rar, got"):
            demo_checkpoint(wrong)


@pytest.mark.parametrize("model_type", ["randar", "rar"])
def test_model_card(model_type):
    card = ModelCard.load(Path(demo_checkpoint(model_type)) / "README.md")
    assert card.data.license and card.data.library_name == "diffusers" and card.data.widget
    for heading in ("Data", "Recipe", "Numbers", "Limits"):
        assert f"## {heading}" in card.text


def test_demo_draws_a_sheet(tmp_path, capsys, hasty):
    assert main(["demo", "--output", str(tmp_path / "demo.png")]) == 0
    output = capsys.readouterr()
    assert "wrote" in output.out and "4/4" in output.err
    sheet = Image.open(tmp_path / "demo.png")
    assert min(sheet.size) > 600 and len(sheet.convert("L").getcolors()) > 100
    assert main(["demo", "--output", str(tmp_path / "demo.png")]) == 2
