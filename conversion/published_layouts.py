"""The way back: models in the layouts that authors published."""

import torch

from randar_hf import RandARForCausalLM, RARForCausalLM

from .convert_rar import RAR_LAYOUT
from .randar_layout import RANDAR_LAYOUT


def published_state_dict(model: RandARForCausalLM | RARForCausalLM) -> dict[str, torch.Tensor]:
    """
    The way back: a model's weights in the layout that its authors published.

    Args:
        model ([`RandARForCausalLM`] or [`RARForCausalLM`]): a RandAR model with `position_instruction="rope"`
            (RandAR's layout) or `"none"` (LlamaGen's), or a RAR model whose positions are not merged.

    Returns:
        `dict[str, torch.Tensor]`: tensors by published name, for `safetensors.torch.save_file` or, under the key
        "model" for LlamaGen and as they are for RAR, for `torch.save`. Those of a converted model equal the tensors
        of its file.

    Raises:
        TypeError: if `model` is neither.
        ValueError: for a `position_instruction` that was never published, and for merged positions.
    """
    if isinstance(model, RARForCausalLM):
        if model.config.merged_positions:
            raise ValueError(
                "`model` must have two tables of positions, got one with `merged_positions`: the published layout "
                "holds both, and a sum does not tell its parts."
            )
        return RAR_LAYOUT.tensors_of(model)
    if not isinstance(model, RandARForCausalLM):
        raise TypeError(f"`model` must be a RandARForCausalLM or RARForCausalLM, got {type(model).__name__}.")
    if model.config.position_instruction not in ("rope", "none"):
        raise ValueError(
            f"`model` must have the position instruction 'rope' or 'none', got {model.config.position_instruction!r}: "
            "no other layout was published."
        )
    return RANDAR_LAYOUT.tensors_of(model)
