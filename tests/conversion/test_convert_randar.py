"""Refusals of the converter; that it is exact is shown by the parity cases."""

import pytest
import torch

from randar_hf.conversion import convert_randar


@pytest.fixture
def checkpoint():
    """A published layout with grouped heads: 2 layers, width 32, 4 heads of 8, 2 of them for keys and values."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "pos_instruct_embeddings": (1, 32),
        "cls_embedding.embedding_table.weight": (6, 32),
        "tok_embeddings.weight": (20, 32),
        "norm.weight": (32,),
        "output.weight": (20, 32),
    }
    for i in range(2):
        shapes |= {
            f"layers.{i}.attention.wqkv.weight": (64, 32),
            f"layers.{i}.attention.wo.weight": (32, 32),
            f"layers.{i}.feed_forward.w1.weight": (64, 32),
            f"layers.{i}.feed_forward.w3.weight": (64, 32),
            f"layers.{i}.feed_forward.w2.weight": (32, 64),
            f"layers.{i}.attention_norm.weight": (32,),
            f"layers.{i}.ffn_norm.weight": (32,),
        }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_sizes_are_read_from_shapes(checkpoint, tmp_path):
    from safetensors.torch import save_file

    save_file(checkpoint, tmp_path / "model.safetensors")
    model = convert_randar(tmp_path / "model.safetensors", num_attention_heads=4, grid_size=(2, 3))
    config = model.config
    assert (config.vocab_size, config.num_classes, config.num_key_value_heads, config.grid) == (20, 5, 2, (2, 3))
    wqkv = checkpoint["layers.1.attention.wqkv.weight"]
    attention = model.model.layers[1].self_attn
    assert torch.equal(torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]), wqkv)
    assert model.generate([0]).shape == (1, 6)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("layers.1.attention.wo.weight", None, "must hold the tensor"),
        ("tok_embeddings.weight", None, "must hold the tensor"),
        ("layers.1.ffn_norm.bias", (32,), "of its kind alone"),
        ("layers.1.feed_forward.w2.weight", (32, 63), "must have"),
        ("layers.1.attention.wqkv.weight", (60, 32), "must have"),
    ],
)
def test_other_layouts_are_refused_by_name(checkpoint, name, shape, message):
    checkpoint.pop(name, None)
    if shape is not None:
        checkpoint[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"`checkpoint`.*{message}") as caught:
        convert_randar(checkpoint, num_attention_heads=4)
    assert repr(name) in str(caught.value)


def test_heads_that_no_shape_tells_are_asked_for(checkpoint):
    with pytest.raises(ValueError, match="`num_attention_heads`.*width 32"):
        convert_randar(checkpoint)
