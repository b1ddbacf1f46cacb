"""RAR checkpoints in the layout their authors published."""

import math
import os
from collections.abc import Mapping
from typing import Any

import torch

from randar_hf import RARConfig, RARForCausalLM
from randar_hf.modeling_rar import NUM_SPARE_POSITIONS, NUM_SPARE_STEPS

from .checkpoint_files import read_checkpoint
from .decoders import DecoderLayout
from .state_dicts import count, refuse_other_kinds, shape_of


RAR_LAYOUT = DecoderLayout(
    modules={
        "model.embed_tokens": "embeddings",
        "model.start_token": "cls_token",
        "model.position_embeddings": "pos_embed",
        "model.target_embeddings": "target_aware_pos_embed",
        "model.step_embeddings": "timesteps_embeddings",
        "model.norm_modulation": "adaln_before_head.adaLN_modulation.1",
        "lm_head": "lm_head",
    },
    in_layer={
        "self_attn.q_proj": "attn.qkv",
        "self_attn.k_proj": "attn.qkv",
        "self_attn.v_proj": "attn.qkv",
        "self_attn.o_proj": "attn.proj",
        "self_attn.q_norm": "attn.q_norm",
        "self_attn.k_norm": "attn.k_norm",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
        "input_layernorm": "norm1",
        "post_attention_layernorm": "norm2",
        "modulation": "adaLN_modulation.1",
    },
    layers="blocks",
    dimensions={"cls_token": 3, "pos_embed": 3, "target_aware_pos_embed": 3, "timesteps_embeddings": 3},
)
NUM_OTHER_EMBEDDINGS = 2  # a mask token and the null class, beside codes and classes


def convert_rar(
    checkpoint: str | os.PathLike | Mapping[str, torch.Tensor],
    num_attention_heads: int | None = None,
    **overrides: Any,
) -> RARForCausalLM:
    """
    Turn a published RAR checkpoint into the same model for transformers, bit for bit.

    By default it is generated with the guidance and temperature that its authors measured it with.

    Args:
        checkpoint (`str` or mapping): path of a torch pickle or safetensors file, or the state dict itself.
        num_attention_heads (`int`, *optional*): attention heads; the shapes tell them, so that others are refused.
        **overrides: fields of [`RARConfig`]; what the shapes tell is read from them. `grid_size` is needed for a
            number of tokens that is no square.

    Returns:
        `RARForCausalLM`: the model in evaluation mode, in the type of the checkpoint.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if `checkpoint` is neither a path nor a state dict.
        ValueError: for a file that cannot be read or is of another kind, arguments that contradict its shapes, or
            naming the first tensor that is missing, misshapen or unexpected.
    """
    tensors = read_checkpoint(checkpoint)
    refuse_other_kinds(tensors, "convert_rar")
    config = _read_config(tensors, num_attention_heads, overrides)
    with torch.device("meta"):
        model = RARForCausalLM(config)
    RAR_LAYOUT.fill(model, tensors)
    return model.eval()


def _read_config(tensors: Mapping[str, torch.Tensor], num_attention_heads: int | None, overrides) -> RARConfig:
    rows, hidden_size = shape_of(tensors, "embeddings.weight", 2)
    vocab_size, _ = shape_of(tensors, "lm_head.weight", 2)
    intermediate_size, _ = shape_of(tensors, "blocks.0.mlp.fc1.weight", 2)
    if rows <= vocab_size + NUM_OTHER_EMBEDDINGS:
        raise ValueError(
            f"`checkpoint` must have rows in 'embeddings.weight' for {vocab_size} codes, a mask token, classes and a "
            f"null class, got {rows}."
        )
    num_tokens = _read_num_tokens(tensors)
    config = RARConfig(
        **{
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": count(tensors, "blocks."),
            "num_attention_heads": _read_heads(tensors, hidden_size, num_attention_heads),
            "num_classes": rows - vocab_size - NUM_OTHER_EMBEDDINGS,
            "grid_size": math.isqrt(num_tokens),
            **overrides,
        }
    )
    if config.num_tokens != num_tokens:
        given = overrides.get("grid_size")
        raise ValueError(
            f"`grid_size` must make the {num_tokens} tokens that 'pos_embed' is for, "
            f"got {given if given is not None else 'none, and they are no square'}."
        )
    return config


def _read_num_tokens(tensors: Mapping[str, torch.Tensor]) -> int:
    """Tokens of one image, of which both tables of the sequence tell."""
    _, positions, _ = shape_of(tensors, "pos_embed", 3)
    _, steps, _ = shape_of(tensors, "timesteps_embeddings", 3)
    num_tokens = positions - NUM_SPARE_POSITIONS
    if num_tokens < 1:
        raise ValueError(f"`checkpoint` must have over {NUM_SPARE_POSITIONS} rows in 'pos_embed', got {positions}.")
    if steps - NUM_SPARE_STEPS != num_tokens:
        raise ValueError(
            f"`checkpoint` must have {num_tokens + NUM_SPARE_STEPS} rows in 'timesteps_embeddings' for the "
            f"{num_tokens} tokens that 'pos_embed' is for, got {steps}."
        )
    return num_tokens


def _read_heads(tensors: Mapping[str, torch.Tensor], hidden_size: int, given: int | None) -> int:
    (head_dim,) = shape_of(tensors, "blocks.0.attn.q_norm.weight", 1)
    heads, rest = divmod(hidden_size, head_dim)
    if rest:
        raise ValueError(
            f"`checkpoint` must have channels in 'blocks.0.attn.q_norm.weight' that divide its width of "
            f"{hidden_size}, got {head_dim}."
        )
    if given not in (None, heads):
        raise ValueError(
            f"`num_attention_heads` must be {heads}, as 'blocks.0.attn.q_norm.weight' tells, got {given}."
        )
    return heads
