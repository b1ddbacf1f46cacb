"""Activation checkpointing in blocks of images: the same gradients, from a few images at a time."""

import pytest
import torch

from randar_hf import activation_checkpointing
from randar_hf.orders import make_order


@pytest.fixture(params=["randar", "rar"])
def model(request, make_model, make_rar):
    return {"randar": make_model, "rar": make_rar}[request.param]().train()


@pytest.fixture
def blocks(monkeypatch):
    """Blocks of at most two images of a RandAR (32 slots), three of a RAR (17 slots)."""
    monkeypatch.setattr(activation_checkpointing, "CPU_BLOCK_SLOTS", 64)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(32, (5, 16), generator=generator)
    order = make_order("random", 4, 4, 5, generator)
    return {"input_ids": tokens, "class_labels": torch.tensor([0, 1, 2, 3, 5]), "order": order, "labels": tokens}


def loss_and_gradients(model, forward, batch):
    model.zero_grad()
    loss = forward(**batch).loss
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


def images_of_each_pass(model):
    """A list that grows by the number of images of each forward pass of the first layer's feed-forward block."""
    images = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda module, args: images.append(len(args[0])))
    return images


def test_blocks_have_the_same_gradients(model, blocks, batch):
    expected = loss_and_gradients(model, model, batch)
    model.activation_checkpointing_enable()
    images = images_of_each_pass(model)
    torch.testing.assert_close(loss_and_gradients(model, model, batch), expected, rtol=1e-4, atol=1e-6)
    sizes = [2, 2, 1] if model.config.model_type == "randar" else [3, 2]
    assert images[: len(sizes)] == sizes and sorted(images) == sorted(2 * sizes)  # forward, and again backward


def test_without_blocks_a_batch_goes_through_whole(model, batch):
    model.activation_checkpointing_enable()
    images = images_of_each_pass(model)
    loss_and_gradients(model, model, batch)
    assert images == [5, 5]


def test_hidden_states_are_of_all_images(model, blocks, batch):
    model.activation_checkpointing_enable()
    states = model(**batch, output_hidden_states=True).hidden_states
    model.activation_checkpointing_disable()
    expected = model(**batch, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_batch_with_an_attention_mask_is_not_cut(model, blocks, batch, attention):
    model.set_attn_implementation(attention)
    mask = torch.ones(5, 32 if model.config.model_type == "randar" else 17, dtype=torch.bool)
    mask[1, :3] = False
    expected = loss_and_gradients(model, model, {**batch, "attention_mask": mask})
    model.activation_checkpointing_enable()
    images = images_of_each_pass(model)
    found = loss_and_gradients(model, model, {**batch, "attention_mask": mask})
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert images == [5, 5]


def test_dropout_is_the_same_in_both_passes(make_model, blocks, batch):
    """A mask that was drawn anew in the backward pass would give another gradient than the finite difference."""
    model = make_model(residual_dropout=0.5, mlp_dropout=0.5).double().train()
    model.activation_checkpointing_enable()
    weight = model.model.layers[0].mlp.down_proj.weight
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss_at(step):
        torch.manual_seed(0)
        with torch.no_grad():
            weight.add_(step * direction)
        loss = model(**batch).loss
        with torch.no_grad():
            weight.sub_(step * direction)
        return loss

    loss_at(0.0).backward()
    slope = (weight.grad * direction).sum().item()
    with torch.no_grad():
        difference = (loss_at(1e-3) - loss_at(-1e-3)).item() / 2e-3
    assert slope == pytest.approx(difference, rel=1e-2)


def test_a_compiled_model_is_not_cut(model, blocks, batch):
    expected = loss_and_gradients(model, model, batch)
    model.activation_checkpointing_enable()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    try:
        torch.testing.assert_close(loss_and_gradients(model, compiled, batch), expected, rtol=1e-4, atol=1e-6)
    finally:
        torch._dynamo.reset()
