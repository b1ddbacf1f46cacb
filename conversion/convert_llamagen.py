"""Class-conditional LlamaGen checkpoints in the layout their authors published."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from randar_hf import RandARForCausalLM

from .randar_layout import convert_decoder


def convert_llamagen(
    checkpoint: str | os.PathLike | Mapping[str, torch.Tensor],
    num_attention_heads: int | None = None,
    **overrides: Any,
) -> RandARForCausalLM:
    """
    Turn a published LlamaGen checkpoint into the same raster-order model for transformers, bit for bit.

    The model has `position_instruction="none"`: it is generated in raster order, one token a step, by default with the
    constant guidance that its authors found best.

    Args:
        checkpoint (`str` or mapping): path of a torch pickle or safetensors file, or the state dict itself, with or
            without the key "model" around the weights.
        num_attention_heads (`int`, *optional*): attention heads, which no shape tells; by default heads are as wide as
            in the published models: 64, but 100 in 3B and 128 in 7B.
        **overrides: fields of [`RandARConfig`]; what the shapes tell is read from them. `grid_size` is 16 by default;
            files for images of 384 pixels need 24.

    Returns:
        `RandARForCausalLM`: the model in evaluation mode, in the type of the checkpoint.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if `checkpoint` is neither a path nor a state dict.
        ValueError: for a file that cannot be read, is text-conditional or of another kind, or naming the first tensor
            that is missing, misshapen or unexpected.
    """
    return convert_decoder(
        checkpoint, "convert_llamagen", num_attention_heads, {"position_instruction": "none", **overrides}
    )
