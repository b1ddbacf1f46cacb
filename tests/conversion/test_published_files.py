"""What is told by the name of a published file, and by the size of a model."""

import pytest
import torch

from randar_hf import RandARConfig, RandARForCausalLM, RARConfig, RARForCausalLM
from randar_hf.conversion import convert_model, find_published, published_state_dict
from randar_hf.conversion.published_files import PUBLISHED_FILES


@pytest.mark.parametrize(
    ("size", "vocab_size", "kind", "guidance"),
    [
        ("L", 16384, "rope", 3.4),
        ("L", 1024, "rope", 4.0),
        ("XL", 16384, "rope", 4.0),
        ("B", 16384, "none", 2.0),
        ("L", 16384, "none", 2.0),
        ("XL", 16384, "none", 1.75),
        ("XXL", 16384, "none", 1.75),
    ],
)
def test_the_guidance_that_the_authors_found_best(size, vocab_size, kind, guidance):
    config = RandARConfig.from_size(size, vocab_size=vocab_size, position_instruction=kind, num_hidden_layers=1)
    with torch.device("meta"):
        model = RandARForCausalLM(config)
    generation = convert_model(published_state_dict(model)).generation_config
    schedule, steps = ("constant", 256) if kind == "none" else ("linear", 88)
    assert (generation.guidance_scale, generation.guidance_schedule) == (guidance, schedule)
    assert generation.num_inference_steps == steps


def test_published_files_are_found_by_name():
    for name, published in PUBLISHED_FILES.items():
        assert find_published(f"downloads/{name}") is published
        shapes_tell = name.startswith("rar_")
        assert published.grid_size in ((None,) if shapes_tell else (16, 24))
        assert published.origin.source.startswith("https://github.com/")
    assert find_published("downloads/mine.pt") is None
    assert find_published({"weights": torch.ones(1)}) is None


@pytest.mark.parametrize("size", ["B", "L", "XL", "XXL"])
def test_sizes_of_published_files(size):
    for vocab_size, kind in ((16384, "rope"), (1024, "rope"), (16384, "none")):
        with torch.device("meta"):
            config = RandARConfig.from_size(size, vocab_size=vocab_size, position_instruction=kind)
            count = RandARForCausalLM(config).num_parameters()
        names = {name for name, published in PUBLISHED_FILES.items() if published.num_parameters == count}
        beginning = f"c2i_{size}_" if kind == "none" else "randar_"
        assert all(name.startswith(beginning) for name in names)
        assert names or (size, vocab_size) not in {("L", 16384), ("L", 1024), ("XL", 16384)}


@pytest.mark.parametrize(
    ("size", "temperature", "power"), [("B", 1.0, 2.75), ("L", 1.02, 2.5), ("XL", 1.02, 1.5), ("XXL", 1.02, 1.2)]
)
def test_rar_files_have_the_size_and_the_defaults_of_their_figures(size, temperature, power):
    published = PUBLISHED_FILES[f"rar_{size.lower()}.bin"]
    with torch.device("meta"):
        model = RARForCausalLM(RARConfig.from_size(size))
    assert model.num_parameters() == published.num_parameters
    converted = convert_model(published_state_dict(model))
    assert converted.num_parameters() == published.num_parameters
    assert converted.config.to_dict() == model.config.to_dict()
    generation = converted.generation_config
    assert generation.guidance_scale == published.origin.guidance_scale
    assert (generation.temperature, generation.guidance_power) == (temperature, power)
    assert (generation.guidance_schedule, generation.order) == ("power_cosine", "raster")


def test_figures_and_defaults_agree():
    by_name = {name: published.origin.guidance_scale for name, published in PUBLISHED_FILES.items()}
    assert by_name["randar_0.3b_llamagen_360k_bs_1024_lr_0.0004.safetensors"] == 3.4
    assert by_name["c2i_3B_384.pt"] == 1.65
