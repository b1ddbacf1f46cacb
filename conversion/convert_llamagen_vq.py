"""LlamaGen's image tokenizer in the layout its authors published."""

import os
from collections.abc import Mapping

import torch
from diffusers import VQModel
from torch.nn import functional

from .checkpoint_files import read_checkpoint
from .state_dicts import check_tensors, refuse_other_kinds, shape_of
from .tokenizers import empty_tokenizer


USAGE_COUNTER = "quantize.codebook_used"

# Parts of names here and in a published file, replaced in this order.
PUBLISHED = {
    "mid_block.resnets.1": "mid.2",
    "mid_block.attentions.0": "mid.1",
    "mid_block.resnets.0": "mid.0",
    "down_blocks": "conv_blocks",
    "up_blocks": "conv_blocks",
    "resnets": "res",
    "attentions": "attn",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "conv_shortcut": "nin_shortcut",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "conv_norm_out": "norm_out",
}


def convert_llamagen_vq(checkpoint: str | os.PathLike | Mapping[str, torch.Tensor]) -> VQModel:
    """
    Turn LlamaGen's published image tokenizer into the same tokenizer for diffusers; pixels lie in [-1, 1].

    LlamaGen scales latents and codes to length one on every use. Here the codes are scaled once; of codes of one
    length, the nearest to a latent is the nearest to the scaled latent too.

    Args:
        checkpoint (`str` or mapping): path of a torch pickle or safetensors file, or the state dict itself, with or
            without the key "model" around the weights. The counter `quantize.codebook_used` is dropped.

    Returns:
        `diffusers.VQModel`: the tokenizer in evaluation mode, for [`randar_hf.vq`].

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if `checkpoint` is neither a path nor a state dict.
        ValueError: for a file that cannot be read or is of another kind, or naming the first tensor that is missing,
            misshapen or unexpected.
    """
    tensors = read_checkpoint(checkpoint)
    refuse_other_kinds(tensors, "convert_llamagen_vq")
    tensors.pop(USAGE_COUNTER, None)
    embed_dim = shape_of(tensors, "quantize.embedding.weight", 2)[1]
    vqvae = empty_tokenizer(tensors, "encoder.conv_blocks.", ".res.", embed_dim, attention=True)
    targets = vqvae.state_dict()
    check_tensors(tensors, {_published_name(name): _published_shape(name, targets[name]) for name in targets})
    renamed = {name: tensors[_published_name(name)].reshape(targets[name].shape) for name in targets}
    codebook = renamed["quantize.embedding.weight"]  # (V, C)
    renamed["quantize.embedding.weight"] = functional.normalize(codebook.float(), dim=1).to(codebook.dtype)
    vqvae.load_state_dict(renamed, assign=True)
    return vqvae


def _published_name(name: str) -> str:
    for part, published in PUBLISHED.items():
        name = name.replace(part, published)
    return name


def _published_shape(name: str, target: torch.Tensor) -> tuple[int, ...]:
    """The linear maps of attention are convolutions of one pixel there."""
    is_linear = ".to_" in name and target.ndim == 2
    return (*target.shape, 1, 1) if is_linear else tuple(target.shape)
