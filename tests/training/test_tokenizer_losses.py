"""The perceptual and the adversarial term of a tokenizer's loss."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import VQModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from randar_hf.training import TokenizerTrainingConfig, export_run, train_tokenizer
from randar_hf.training.discriminator import PatchDiscriminator
from randar_hf.training.perceptual import PerceptualDistance
from randar_hf.training.tokenizer_training_config import field_of


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Folders of a tiny ResNet and a tiny ViT."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(resnet).save_pretrained(folder / "resnet")
    ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(folder / "resnet")
    vit = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32)
    ViTModel(vit).save_pretrained(folder / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "vit")
    return folder


@pytest.fixture
def settings(image_folder, small_tokenizer_settings, tmp_path, networks):
    """Four steps with both terms, the adversarial one from the third on."""
    terms = {"perceptual_network": str(networks / "resnet"), "discriminator_start": 2, "discriminator_layers": 1}
    more = {"dataset": str(image_folder), "output_dir": str(tmp_path / "run"), "validation_split": "validation"}
    return {**small_tokenizer_settings, **more, **terms, "logging_steps": 1, "checkpointing_steps": 2}


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_the_perceptual_distance_has_a_gradient_and_is_none_of_equal_images(networks, name):
    distance = PerceptualDistance(str(networks / name))
    first, second = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first.requires_grad_()
    values = distance(first, second)
    assert values.shape == (2,) and (values > 0).all()
    values.sum().backward()
    assert first.grad.abs().sum() > 0 and not any(weight.requires_grad for weight in distance.parameters())
    assert_close(distance(second, second), torch.zeros(2))
    assert_close(distance(first[:1], second[:1]), values[:1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_logit_of_the_discriminator_sees_its_field(layers):
    field = field_of(layers)
    assert field == {1: 16, 2: 34, 3: 70}[layers]
    model = PatchDiscriminator(layers).eval()
    pixels = torch.zeros(1, 3, 2 * field, 2 * field, requires_grad=True)
    logits = model(pixels)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    rows = pixels.grad.abs().sum((0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == field


def test_the_terms_train_and_a_resumed_run_ends_as_an_undisturbed_one(settings, read_metrics, tmp_path):
    folder = Path(settings["output_dir"])
    train_tokenizer(TokenizerTrainingConfig(**settings))
    lines = [line for line in read_metrics(folder) if "perceptual" in line]
    assert [line["adversarial"] is None for line in lines] == [True, True, False, False]
    assert [line["discriminator"] is None for line in lines] == [True, True, False, False]
    assert lines[-1]["discriminator"] > 0 and all(line["perceptual"] > 0 for line in lines)
    name = "diffusion_pytorch_model.safetensors"
    whole, judges = load_file(folder / name), load_file(folder / "checkpoint-4" / "model_1.safetensors")
    shutil.rmtree(folder / "checkpoint-4")
    train_tokenizer(TokenizerTrainingConfig(**settings, resume="latest"))
    assert_close(load_file(folder / name), whole, rtol=0, atol=0)
    assert_close(load_file(folder / "checkpoint-4" / "model_1.safetensors"), judges, rtol=0, atol=0)
    assert VQModel.from_pretrained(export_run(folder, tmp_path / "exported", "2"))
    none = {"perceptual_network": None, "discriminator_start": None, "discriminator_layers": 3}
    train_tokenizer(TokenizerTrainingConfig(**settings | none, overwrite=True))
    first = read_metrics(folder)[0]
    assert first["reconstruction"] == lines[0]["reconstruction"] and "perceptual" not in first


def test_bad_input_is_named(settings):
    def refused(match, **changes):
        with pytest.raises(ValueError, match=match):
            train_tokenizer(TokenizerTrainingConfig(**settings | changes))

    refused("`discriminator_layers` must be at most 1 for images of 16 pixels, .* got 2", discriminator_layers=2)
    refused("`image_size` must be at least 16 for a discriminator, got 8", image_size=8)
    refused("`discriminator_start` must be at least 0, got -1", discriminator_start=-1)
    refused("`discriminator_start` must be below `max_steps`, 4, got 4", discriminator_start=4)
    refused("`patience` must be None with a discriminator, got 3", patience=3)
    refused("`perceptual_weight` must be above 0, got 0", perceptual_weight=0.0)
    refused(
        "`perceptual_network` must be the folder or Hub name of .*, got '.*nowhere'", perceptual_network="./nowhere"
    )
    assert not Path(settings["output_dir"]).exists()
