"""Sizes and refusals; that it is exact is shown by the parity cases."""

import argparse

import pytest
import torch

from randar_hf.conversion import convert_llamagen, convert_randar


@pytest.fixture
def checkpoint(published):
    return published("llamagen")


def test_files_with_arguments(checkpoint, tmp_path):
    torch.save({"model": checkpoint, "args": argparse.Namespace(gpt_model="GPT-B")}, tmp_path / "c2i.pt")
    model = convert_llamagen(tmp_path / "c2i.pt", num_attention_heads=4, grid_size=4, token_dropout=0.0)
    config = model.config
    assert (config.position_instruction, config.num_classes, config.token_dropout) == ("none", 10, 0.0)
    assert model.model.position_instruction is None and not model.training
    assert torch.equal(model.lm_head.weight, checkpoint["output.weight"])
    model.save_pretrained(tmp_path / "converted")
    again = type(model).from_pretrained(tmp_path / "converted")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("width", "heads"), [(64, 1), (1024, 16), (3200, 32), (4096, 32)])
def test_heads_are_as_wide_as_published(width, heads):
    shapes = {
        "cls_embedding.embedding_table.weight": (3, width),
        "tok_embeddings.weight": (4, width),
        "norm.weight": (width,),
        "output.weight": (4, width),
        "layers.0.attention.wqkv.weight": (3 * width, width),
        "layers.0.attention.wo.weight": (width, width),
        "layers.0.feed_forward.w1.weight": (8, width),
        "layers.0.feed_forward.w3.weight": (8, width),
        "layers.0.feed_forward.w2.weight": (width, 8),
        "layers.0.attention_norm.weight": (width,),
        "layers.0.ffn_norm.weight": (width,),
    }
    config = convert_llamagen({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}).config
    assert (config.num_attention_heads, config.num_key_value_heads) == (heads, heads)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("layers.0.attention.wqkv.weight", None, "must hold the tensor"),
        ("layers.1.attention_norm.weight", None, "must hold the tensor"),
        ("cls_embedding.embedding_table.weight", None, "must hold the tensor"),
        ("freqs_cis", torch.zeros(17, 8, 2), "of its kind alone"),
        ("output.weight", torch.zeros(96, 32), "must have"),
        ("tok_embeddings.weight", torch.zeros(96), "must have"),
        ("layers.0.attention.wqkv.weight", torch.zeros(64, 64), "must have"),
        ("norm.weight", torch.zeros(64, dtype=torch.int8), "floating point"),
    ],
)
def test_other_tensors_are_refused_by_name(checkpoint, name, tensor, message):
    checkpoint.pop(name, None)
    if tensor is not None:
        checkpoint[name] = tensor
    with pytest.raises(ValueError, match=f"`checkpoint`.*{message}") as caught:
        convert_llamagen(checkpoint, num_attention_heads=4)
    assert repr(name) in str(caught.value)


def test_incomplete_layers(checkpoint):
    checkpoint["layers.2.ffn_norm.weight"] = torch.zeros(64)
    with pytest.raises(ValueError, match="`checkpoint` must hold the tensor 'layers.2.attention"):
        convert_llamagen(checkpoint, num_attention_heads=4)


@pytest.mark.parametrize("name", ["cls_embedding.cap_proj.fc1.weight", "cls_embedding.uncond_embedding"])
@pytest.mark.parametrize("convert", [convert_llamagen, convert_randar])
def test_text_conditional_models_are_refused(checkpoint, name, convert):
    del checkpoint["cls_embedding.embedding_table.weight"]
    checkpoint[name] = torch.zeros(120, 64)
    with pytest.raises(ValueError, match=f"class-conditional.*text-conditional.*'{name}'"):
        convert(checkpoint)


def test_sizes_that_contradict_the_file(checkpoint):
    with pytest.raises(ValueError, match="`checkpoint`.* \\(1001, 64\\) in 'cls_embedding.embedding_table.weight'"):
        convert_llamagen(checkpoint, num_attention_heads=4, num_classes=1000)
    with pytest.raises(ValueError, match="num_attention_heads"):
        convert_llamagen(checkpoint, num_attention_heads=0)
