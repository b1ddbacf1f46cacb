"""The numbers of what the shipped checkpoint was not trained for, on a few digits."""

import pytest

from randar_hf import demo_checkpoint
from randar_hf.pipelines import RandARInpaintPipeline
from randar_hf.training.experiments import digits_zero_shot
from randar_hf.training.experiments.digits_zero_shot import ZeroShotConfig, evaluate_zero_shot, load_digits


@pytest.fixture(scope="module")
def pipeline():
    pipeline = RandARInpaintPipeline.from_pretrained(demo_checkpoint())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def digits(pipeline):
    """Sixty training scans and twenty held-out ones."""
    digits = load_digits(pipeline.vqvae)
    for split, count in (("train", 60), ("validation", 20)):
        digits.tokens[split], digits.labels[split] = digits.tokens[split][:count], digits.labels[split][:count]
    digits.images = digits.images[:20]
    return digits


@pytest.fixture
def config():
    return ZeroShotConfig(num_images=20, num_orders=2)


def test_inpainted_digits_are_what_they_were(pipeline, digits, config):
    numbers = digits_zero_shot.inpainting_numbers(pipeline, digits, config)
    assert numbers["known_pixels_equal"] and numbers["named_as_true_class"] >= 0.8
    assert numbers["edited_named_as_new_class"] > numbers["unedited_named_as_new_class"]


@pytest.mark.slow
def test_what_is_known_helps(pipeline, config):
    digits = load_digits(pipeline.vqvae)  # all of them: a few say little
    bits = list(digits_zero_shot.known_share_numbers(pipeline.transformer, digits, config).values())
    assert bits == sorted(bits, reverse=True)


def test_likelihood_tells_digits_apart(pipeline, digits, config):
    assert digits_zero_shot.classification_number(pipeline.transformer, digits, config) >= 0.8


@pytest.mark.slow
def test_refinement_makes_tokens_fit(pipeline, digits, config):
    numbers = digits_zero_shot.refinement_numbers(pipeline, digits, config)
    assert numbers["rounds_4"]["bits_per_token_given_others"] < numbers["rounds_0"]["bits_per_token_given_others"]


@pytest.mark.slow
def test_all_numbers(tmp_path):
    numbers = evaluate_zero_shot(ZeroShotConfig(output=str(tmp_path / "numbers.json")))
    assert (tmp_path / "numbers.json").is_file()
    assert numbers["inpainting"]["named_as_true_class"] >= 0.95
    assert numbers["likelihood_classification"] >= 0.97
    probes = numbers["probe_accuracy"]
    assert all(probes[f"rounds_2_layer_{layer}"] > probes[f"rounds_1_layer_{layer}"] for layer in range(1, 6))


@pytest.mark.parametrize("settings", [{"num_images": 0}, {"num_orders": -1}])
def test_wrong_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ZeroShotConfig(**settings)
