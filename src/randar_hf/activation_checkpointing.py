"""Activation checkpointing that holds the activations of one layer for a few images at a time. B images, S slots."""

import math
from collections.abc import Callable
from functools import partial
from itertools import repeat

import torch
from torch.utils.checkpoint import checkpoint


# Slots that a layer computes again at once: enough to keep the device busy, few enough to take little memory.
BLOCK_SLOTS, CPU_BLOCK_SLOTS = 8192, 2048


class BlockCheckpointingMixin:
    """For a `PreTrainedModel`: layers are checkpointed in blocks of images, see [`checkpoint_in_blocks`]."""

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable = checkpoint, **kwargs
    ):
        in_blocks = partial(checkpoint_in_blocks, gradient_checkpointing_func)
        super()._set_gradient_checkpointing(enable, in_blocks, **kwargs)


def checkpoint_in_blocks(checkpoint: Callable, layer: partial, *inputs: torch.Tensor | None) -> torch.Tensor:
    """
    Checkpoint a layer for a few images after another, since each image is computed by itself.

    The numbers are the same up to rounding, though dropout draws other masks. A batch goes through whole where its
    images share an attention mask, and under `torch.compile`, which plans the memory itself.

    Args:
        checkpoint (`Callable`): computes a function of tensors now, and again in the backward pass.
        layer (`functools.partial`): the layer with its keyword arguments, as `GradientCheckpointingLayer` gives it.
        inputs (`torch.Tensor` of shape (B, S, ...) or `None`): its positional arguments, hidden states first.

    Returns:
        `torch.Tensor` of shape (B, S, D): what the layer gives.
    """
    batch_size, num_slots = inputs[0].shape[:2]
    block_slots = CPU_BLOCK_SLOTS if inputs[0].device.type == "cpu" else BLOCK_SLOTS
    num_blocks = math.ceil(batch_size / max(1, block_slots // num_slots))
    if num_blocks == 1 or layer.keywords.get("attention_mask") is not None or torch.compiler.is_compiling():
        return checkpoint(layer, *inputs)
    images = math.ceil(batch_size / num_blocks)
    parts = [repeat(None) if tensor is None else tensor.split(images) for tensor in inputs]
    return torch.cat([checkpoint(layer, *block) for block in zip(*parts)])


__all__ = ["BlockCheckpointingMixin", "checkpoint_in_blocks"]
