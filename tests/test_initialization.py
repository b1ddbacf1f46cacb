"""The weights of a new model, and of what a loaded file does not hold, against those of the published programs."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from randar_hf import RandARConfig, RandARForCausalLM, RARConfig, RARForCausalLM


STD = 0.05
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
MODELS = [
    (RandARForCausalLM, RandARConfig, {"position_instruction": "rope"}),
    (RandARForCausalLM, RandARConfig, {"position_instruction": "dense"}),
    (RandARForCausalLM, RandARConfig, {"position_instruction": "none"}),
    (RARForCausalLM, RARConfig, {}),
    (RARForCausalLM, RARConfig, {"merged_positions": True}),
]


def published_moments(name: str, is_rar: bool) -> tuple[float, float]:
    """Mean and standard deviation of a new parameter in the published programs."""
    if "norm.weight" in name:  # of layers, of queries and keys, the last
        return 1.0, 0.0
    starts_at_zero = ("bias", "start_token", "modulation") if is_rar else ("lm_head",)
    return 0.0, 0.0 if any(word in name for word in starts_at_zero) else STD


def assert_initial(name: str, parameter: torch.Tensor, is_rar: bool):
    mean, std = published_moments(name, is_rar)
    if std == 0:
        assert torch.equal(parameter, torch.full_like(parameter, mean)), name
    else:
        error = 6 * std / parameter.numel() ** 0.5  # six standard errors of the mean, more than that of the deviation
        assert abs(parameter.mean().item()) < error and abs(parameter.std().item() - std) < error, name


def make(model_class, config_class, fields):
    torch.manual_seed(0)
    return model_class(config_class(**SIZES, **fields, num_classes=5, grid_size=4, initializer_range=STD))


@pytest.mark.parametrize(("model_class", "config_class", "fields"), MODELS)
def test_a_new_model_starts_as_the_published_one(model_class, config_class, fields):
    for name, parameter in make(model_class, config_class, fields).named_parameters():
        assert_initial(name, parameter, model_class is RARForCausalLM)


@pytest.mark.parametrize(("model_class", "config_class", "fields"), MODELS)
@pytest.mark.parametrize("missing", [r"(attn|embed).*weight", r"(mlp|norm|bias|start_token|head)", r"modulation"])
def test_what_a_file_does_not_hold_starts_as_the_published_one(model_class, config_class, fields, missing, tmp_path):
    model = make(model_class, config_class, fields)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    missing = {name for name in stored if re.search(missing, name)}
    kept = {name: tensor for name, tensor in stored.items() if name not in missing}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == missing
    for name, parameter in loaded.named_parameters():
        if name in missing:
            assert_initial(name, parameter, model_class is RARForCausalLM)
        else:
            assert (parameter == 7.0).all(), name
