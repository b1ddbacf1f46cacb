"""Sizes and refusals of the converter; that it is exact is shown by the parity cases."""

import pytest
import torch

from randar_hf import RARForCausalLM
from randar_hf.conversion import convert_model, convert_rar, convert_tokenizer


@pytest.fixture
def checkpoint(published):
    return published("rar")


def with_tokens(checkpoint, num_tokens):
    """The same checkpoint for images of another number of tokens."""
    for name, spare in (("pos_embed", 1024), ("target_aware_pos_embed", 1024), ("timesteps_embeddings", 100)):
        checkpoint[name] = torch.randn(1, num_tokens + spare, 64)
    return checkpoint


def test_sizes_are_read_from_shapes(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "rar.bin")
    model = convert_rar(tmp_path / "rar.bin", class_dropout=0.25)
    config = model.config
    assert (config.vocab_size, config.num_classes, config.grid, config.intermediate_size) == (96, 10, (4, 4), 256)
    assert (config.num_attention_heads, config.num_hidden_layers, config.class_dropout) == (4, 2, 0.25)
    assert not model.training and not config.merged_positions
    attention = model.model.layers[1].self_attn
    for part in ("weight", "bias"):
        rows = [getattr(getattr(attention, f"{name}_proj"), part) for name in "qkv"]
        assert torch.equal(torch.cat(rows), checkpoint[f"blocks.1.attn.qkv.{part}"])
    model.save_pretrained(tmp_path / "converted")
    again = RARForCausalLM.from_pretrained(tmp_path / "converted")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_the_type_is_that_of_the_file(checkpoint):
    model = convert_rar({name: tensor.bfloat16() for name, tensor in checkpoint.items()})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_kind_is_told_by_names(checkpoint):
    assert type(convert_model(checkpoint)) is RARForCausalLM
    with pytest.raises(ValueError, match="must be an image tokenizer, got a RAR model"):
        convert_tokenizer(checkpoint)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("cls_token", None, "must hold the tensor"),
        ("target_aware_pos_embed", None, "must hold the tensor"),
        ("pos_embed", None, "must hold the tensor"),
        ("blocks.0.attn.q_norm.weight", None, "must hold the tensor"),
        ("blocks.1.attn.qkv.bias", None, "must hold the tensor"),
        ("adaln_before_head.adaLN_modulation.1.bias", None, "must hold the tensor"),
        ("attn_mask", torch.zeros(2, 2), "of its kind alone"),
        ("blocks.1.attn.rotary", torch.zeros(2), "of its kind alone"),
        ("cls_token", torch.zeros(64), "must have"),
        ("cls_token", torch.zeros(1, 2, 64), "must have"),
        ("pos_embed", torch.zeros(1040, 64), "must have"),
        ("target_aware_pos_embed", torch.zeros(1, 1041, 64), "must have"),
        ("blocks.0.adaLN_modulation.1.weight", torch.zeros(384, 63), "must have"),
        ("blocks.1.attn.qkv.weight", torch.zeros(128, 64), "must have"),
        ("blocks.1.attn.k_norm.weight", torch.zeros(8), "must have"),
        ("blocks.0.attn.q_norm.weight", torch.zeros(15), "that divide its width"),
        ("embeddings.weight", torch.zeros(98, 64), "for 96 codes"),
        ("pos_embed", torch.zeros(1, 1024, 64), "over 1024 rows"),
        ("timesteps_embeddings", torch.zeros(1, 117, 64), "116 rows"),
        ("lm_head.bias", torch.zeros(96, dtype=torch.int8), "floating point"),
    ],
)
def test_other_tensors_are_refused_by_name(checkpoint, name, tensor, message):
    checkpoint.pop(name, None)
    if tensor is not None:
        checkpoint[name] = tensor
    with pytest.raises(ValueError, match=f"`checkpoint`.*{message}") as caught:
        convert_rar(checkpoint)
    assert repr(name) in str(caught.value)


def test_incomplete_layers(checkpoint):
    checkpoint["blocks.2.norm2.weight"] = torch.zeros(64)
    with pytest.raises(ValueError, match="`checkpoint` must hold the tensor 'blocks.2"):
        convert_rar(checkpoint)


def test_heads_that_contradict_the_file(checkpoint):
    assert convert_rar(checkpoint, num_attention_heads=4).config.num_attention_heads == 4
    for heads in (8, 0):
        with pytest.raises(ValueError, match=f"`num_attention_heads` must be 4.*q_norm.*got {heads}"):
            convert_rar(checkpoint, num_attention_heads=heads)


def test_grids_that_are_no_square(checkpoint):
    checkpoint = with_tokens(checkpoint, 6)
    with pytest.raises(ValueError, match="`grid_size` must make the 6 tokens.*got none"):
        convert_rar(checkpoint)
    with pytest.raises(ValueError, match="`grid_size` must make the 6 tokens.*got 4"):
        convert_rar(checkpoint, grid_size=4)
    model = convert_rar(checkpoint, grid_size=(3, 2))
    assert model.config.grid == (3, 2) and model.generate([0]).shape == (1, 6)
