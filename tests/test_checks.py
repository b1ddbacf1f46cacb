"""Numbers of numpy and torch wherever Python's own are taken, and what is refused."""

import json

import numpy as np
import pytest
import torch

from randar_hf import RandARConfig, RandARGenerationConfig, RARConfig
from randar_hf.checks import check_flag, check_int, check_number, plain
from randar_hf.orders import make_order
from randar_hf.schedules import group_sizes


INTS = [np.int64, np.uint8, lambda value: np.arange(value, value + 1)[0], lambda value: torch.tensor(value)]
FLOATS = [np.float32, np.float64, np.float16, lambda value: np.array(value), lambda value: torch.tensor(value)]
SETTINGS = {
    "num_inference_steps": 5,
    "top_k": 3,
    "guidance_scale": 2.5,
    "guidance_power": 0.5,
    "temperature": 0.5,
    "top_p": 0.75,
}


def of_other_libraries(value):
    """The same number in other types; every float here has one value in all of them."""
    if isinstance(value, bool):
        return [np.bool_(value), torch.tensor(value)]
    return [kind(value) for kind in (INTS if isinstance(value, int) else FLOATS)]


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_generation_are_stored_as_plain_numbers(name, tmp_path):
    for value in of_other_libraries(SETTINGS[name]):
        config = RandARGenerationConfig(**{name: value})
        assert type(getattr(config, name)) is type(SETTINGS[name]) and getattr(config, name) == SETTINGS[name]
        config.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "generation_config.json").read_text())[name] == SETTINGS[name]
    assert RandARGenerationConfig(do_sample=np.bool_(False)).do_sample is False


@pytest.mark.parametrize("name", [*SETTINGS, "do_sample", "spatial_guidance_scale", "grid_size"])
def test_generate(model, name):
    value = {**SETTINGS, "do_sample": False, "spatial_guidance_scale": 1.5, "grid_size": (3, 5)}[name]
    settings = {"guidance_schedule": "power_cosine", "num_inference_steps": 4}
    expected = model.generate([1], generator=torch.Generator().manual_seed(0), **{**settings, name: value})
    kinds = [tuple(map(np.int32, value))] if name == "grid_size" else of_other_libraries(value)
    for other in kinds:
        found = model.generate([1], generator=torch.Generator().manual_seed(0), **{**settings, name: other})
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("call", "name", "value"),
    [
        ("refine", "share", 0.25),
        ("refine", "num_rounds", 2),
        ("refine", "num_parts", 4),
        ("log_likelihood", "num_orders", 2),
        ("class_log_likelihoods", "batch_size", 3),
        ("class_log_likelihoods", "num_orders", 2),
        ("token_log_likelihoods", "num_parts", 4),
        ("extract_features", "layer", 1),
        ("extract_features", "rounds", 1),
    ],
)
def test_other_calls_of_a_model(model, call, name, value):
    labels = () if call in ("class_log_likelihoods", "extract_features") else ([0, 1],)
    tokens = torch.randint(32, (2, 16), generator=torch.Generator().manual_seed(0))
    ask = getattr(model, call)
    expected = ask(tokens, *labels, generator=torch.Generator().manual_seed(0), **{name: value})
    for other in of_other_libraries(value):
        found = ask(tokens, *labels, generator=torch.Generator().manual_seed(0), **{name: other})
        assert torch.equal(found, expected)


@pytest.mark.parametrize("config_class", [RandARConfig, RARConfig])
def test_configurations(config_class, tmp_path):
    fields = {"hidden_size": 32, "num_attention_heads": 4, "grid_size": 6, "num_classes": 3, "class_dropout": 0.25}
    expected = config_class(**fields)
    for position in (0, 2):
        found = config_class(**{name: of_other_libraries(value)[position] for name, value in fields.items()})
        assert found == expected and found.grid == (6, 6)
        found.save_pretrained(tmp_path)
        assert config_class.from_pretrained(tmp_path).to_diff_dict() == expected.to_diff_dict()
    found.num_hidden_layers = np.int64(2)
    assert type(found.num_hidden_layers) is int
    assert config_class(grid_size=[np.int64(3), np.int64(5)]).grid == (3, 5)


def test_orders_and_schedules():
    assert torch.equal(make_order("raster", np.int64(2), np.int32(3), np.int64(2)), make_order("raster", 2, 3, 2))
    sizes = group_sizes(np.int64(16), np.int16(5))
    assert sizes == group_sizes(16, 5) and {type(size) for size in sizes} == {int}


@pytest.mark.parametrize("value", [True, np.bool_(True), 2.0, np.float32(2), "2", None, [2], np.array([2]), 0, 9])
def test_what_is_no_whole_number_in_its_range(value):
    with pytest.raises(ValueError, match="`steps` must lie between 1 and 8 tokens, got"):
        check_int("steps", value, 1, 8, note=" tokens")


@pytest.mark.parametrize("value", [True, np.bool_(True), "0.5", None, np.nan, np.float32("inf"), 0, np.float64(1.5)])
def test_what_is_no_number_in_its_interval(value):
    with pytest.raises(ValueError, match=r"`share` must lie in \(0, 1\], got"):
        check_number("share", value, "(0, 1]")


def test_ends_of_intervals():
    assert check_number("x", np.float32(1), "(0, 1]") == 1 and check_number("x", 0, "[0, 1)") == 0
    with pytest.raises(ValueError, match=r"`x` must lie in \[0, 1\), got 1"):
        check_number("x", 1, "[0, 1)")
    with pytest.raises(ValueError, match="`x` must be a finite number above 0, got 0; why"):
        check_number("x", 0, "(0, inf)", "; why")
    with pytest.raises(ValueError, match="`x` must be a finite number of at least 0, got inf"):
        check_number("x", float("inf"))


@pytest.mark.parametrize("value", [1, 0, "yes", None, np.int64(1)])
def test_what_is_no_flag(value):
    with pytest.raises(ValueError, match="`flag` must be True or False, got"):
        check_flag("flag", value)


def test_what_is_no_scalar_stays():
    tensor = torch.ones(2)
    assert plain(tensor) is tensor and plain("a") == "a" and plain(None) is None
    assert plain((np.int64(1), [np.float32(2)])) == (1, [2.0])
