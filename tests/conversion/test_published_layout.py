"""The way back to the published layout."""

import pytest
import torch

from randar_hf import conversion
from randar_hf.conversion import published_state_dict


@pytest.mark.parametrize("case", ["randar", "llamagen", "rar"])
def test_converted_models_go_back_tensor_for_tensor(published, case):
    checkpoint = published(case)
    model = getattr(conversion, f"convert_{case}")(checkpoint, num_attention_heads=4, grid_size=4)
    back = published_state_dict(model)
    assert back.keys() == checkpoint.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in checkpoint.items())


def test_grouped_heads_go_back(make_model):
    model = make_model(num_key_value_heads=2)
    again = conversion.convert_randar(published_state_dict(model), num_attention_heads=4, grid_size=4)
    assert again.config.num_key_value_heads == 2
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_a_rar_model_of_a_rectangular_grid_goes_back(make_rar):
    model = make_rar(grid_size=(2, 3))
    published = published_state_dict(model)
    assert published["cls_token"].shape == (1, 1, 32) and published["pos_embed"].shape == (1, 1024 + 6, 32)
    again = conversion.convert_rar(published, grid_size=(2, 3))
    assert again.config.num_classes == 5
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="`model` must have two tables of positions.*`merged_positions`"):
        published_state_dict(model.merge_positions())


def test_what_was_never_published(make_model, vqvae):
    with pytest.raises(ValueError, match="`model` must have the position instruction.*'dense'"):
        published_state_dict(make_model(position_instruction="dense"))
    with pytest.raises(TypeError, match="`model` must be a RandARForCausalLM or RARForCausalLM, got VQModel"):
        published_state_dict(vqvae)
