"""Published checkpoints of any kind, told apart by the names of their tensors."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import VQModel

from randar_hf import RandARForCausalLM, RARForCausalLM

from .checkpoint_files import read_checkpoint
from .convert_llamagen import convert_llamagen
from .convert_llamagen_vq import convert_llamagen_vq
from .convert_maskgit_vq import convert_maskgit_vq
from .convert_randar import convert_randar
from .convert_rar import convert_rar
from .state_dicts import KINDS, find_kind


MODELS = {"convert_randar": convert_randar, "convert_llamagen": convert_llamagen, "convert_rar": convert_rar}
TOKENIZERS = {"convert_llamagen_vq": convert_llamagen_vq, "convert_maskgit_vq": convert_maskgit_vq}


def convert_model(
    checkpoint: str | os.PathLike | Mapping[str, torch.Tensor],
    num_attention_heads: int | None = None,
    **overrides: Any,
) -> RandARForCausalLM | RARForCausalLM:
    """
    Turn a published checkpoint into a model, by [`convert_randar`], [`convert_llamagen`] or [`convert_rar`].

    Args:
        checkpoint (`str` or mapping): path of a file, or the state dict itself.
        num_attention_heads (`int`, *optional*): attention heads, which only the shapes of RAR tell.
        **overrides: fields of [`RandARConfig`] or [`RARConfig`] that no shape tells, such as `grid_size`.

    Returns:
        `RandARForCausalLM` or `RARForCausalLM`: the model in evaluation mode, in the type of the checkpoint.

    Raises:
        FileNotFoundError, TypeError, ValueError: as those do, and for a checkpoint that is no model.
    """
    tensors = read_checkpoint(checkpoint)
    return _find(MODELS, "a model", tensors)(tensors, num_attention_heads, **overrides)


def convert_tokenizer(checkpoint: str | os.PathLike | Mapping[str, torch.Tensor]) -> VQModel:
    """
    Turn a published tokenizer into a `diffusers.VQModel`, by [`convert_llamagen_vq`] or [`convert_maskgit_vq`].

    Args:
        checkpoint (`str` or mapping): path of a file, or the state dict itself.

    Returns:
        `diffusers.VQModel`: the tokenizer in evaluation mode.

    Raises:
        FileNotFoundError, TypeError, ValueError: as those two do, and for a checkpoint that is no tokenizer.
    """
    tensors = read_checkpoint(checkpoint)
    return _find(TOKENIZERS, "an image tokenizer", tensors)(tensors)


def _find(converters: Mapping, wanted: str, tensors: Mapping[str, torch.Tensor]):
    kind = find_kind(tensors)
    if kind is None:
        raise ValueError(
            f"`checkpoint` must be {wanted} in a published layout; its tensors have names of no such layout."
        )
    if kind not in converters:
        raise ValueError(f"`checkpoint` must be {wanted}, got {KINDS[kind][1]}.")
    return converters[kind]
