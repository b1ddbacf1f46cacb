"""RandAR checkpoints in the layout their authors published."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from randar_hf import RandARForCausalLM

from .randar_layout import convert_decoder


def convert_randar(
    checkpoint: str | os.PathLike | Mapping[str, torch.Tensor],
    num_attention_heads: int | None = None,
    **overrides: Any,
) -> RandARForCausalLM:
    """
    Turn a published RandAR checkpoint into the same model for transformers, bit for bit.

    By default it is generated with the guidance that its authors found best, which grows linearly.

    Args:
        checkpoint (`str` or mapping): path of a safetensors file or torch pickle, or the state dict itself.
        num_attention_heads (`int`, *optional*): attention heads, which no shape tells; by default heads are 64 wide,
            as in all published models.
        **overrides: fields of [`RandARConfig`]; what the shapes tell is read from them. `grid_size` is 16 by default.

    Returns:
        `RandARForCausalLM`: the model in evaluation mode, in the type of the checkpoint.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if `checkpoint` is neither a path nor a state dict.
        ValueError: for a file that cannot be read or is of another kind, or naming the first tensor that is missing,
            misshapen or unexpected.
    """
    return convert_decoder(checkpoint, "convert_randar", num_attention_heads, overrides)
