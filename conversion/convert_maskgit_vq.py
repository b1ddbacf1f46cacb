"""MaskGIT's image tokenizer in the layout that RandAR and RAR use."""

import os
import re
from collections.abc import Mapping

import torch
from diffusers import VQModel
from torch.nn import functional

from .checkpoint_files import read_checkpoint
from .state_dicts import check_tensors, refuse_other_kinds
from .tokenizers import empty_tokenizer


# Parts of names here and in a published file.
PUBLISHED = {
    "mid_block.resnets": "mid",
    "down_blocks": "down",
    "up_blocks": "up",
    "resnets": "block",
    "conv_shortcut": "nin_shortcut",
    "upsamplers.0.conv": "upsample_conv",
    "conv_norm_out": "norm_out",
}
PIXEL_RANGE = (0.0, 1.0)
UNPUBLISHED = re.compile(r"conv[12]\.bias|conv_shortcut\.bias|encoder\.conv_in\.bias|downsamplers|quant_conv")


def convert_maskgit_vq(checkpoint: str | os.PathLike | Mapping[str, torch.Tensor]) -> VQModel:
    """
    Turn MaskGIT's image tokenizer into a `diffusers.VQModel` that computes the same; pixels lie in [0, 1].

    The range is noted in the configuration, so that [`randar_hf.vq.encode_images`] and the pipelines know it. The
    architecture differs, so weights are folded, which cannot be undone: average pooling becomes a convolution, the
    shortcuts, which act on the output of a residual block, go into its second convolution, and what MaskGIT lacks is
    zero or the identity. The range stays MaskGIT's own: [-1, 1] cannot be folded into the first convolution,
    whose padding with zeros would mean grey instead of black.

    Args:
        checkpoint (`str` or mapping): path of a torch pickle or safetensors file, or the state dict itself, with or
            without the key "model" around the weights.

    Returns:
        `diffusers.VQModel`: the tokenizer in evaluation mode, for [`randar_hf.vq`].

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if `checkpoint` is neither a path nor a state dict.
        ValueError: for a file that cannot be read or is of another kind, or naming the first tensor that is missing,
            misshapen or unexpected.
    """
    tensors = read_checkpoint(checkpoint)
    refuse_other_kinds(tensors, "convert_maskgit_vq")
    vqvae = empty_tokenizer(tensors, "encoder.down.", ".block.", None, attention=False)
    targets = vqvae.state_dict()
    published = _published_names(vqvae)
    check_tensors(tensors, {published[name]: _published_shape(name, targets[name]) for name in published})
    vqvae.load_state_dict(_fold(tensors, published, targets), assign=True)
    vqvae.register_to_config(_pixel_range=PIXEL_RANGE)
    return vqvae


def _published_names(vqvae: VQModel) -> dict[str, str]:
    """Published names by the names here, for what is published: not the last residual block of a decoder's level."""
    last_block = re.compile(rf"decoder\.up_blocks\.\d+\.resnets\.{vqvae.config.layers_per_block}\.")
    last_level = len(vqvae.config.block_out_channels) - 1
    names = {}
    for name in vqvae.state_dict():
        if UNPUBLISHED.search(name) or last_block.match(name):
            continue
        # Levels of the decoder are counted from the finest there.
        published = re.sub(r"(?<=up_blocks\.)\d+", lambda level: str(last_level - int(level[0])), name)
        for part, replacement in PUBLISHED.items():
            published = published.replace(part, replacement)
        names[name] = published
    return names


def _published_shape(name: str, target: torch.Tensor) -> tuple[int, ...]:
    if name.endswith("conv_shortcut.weight"):
        return (len(target), len(target), 1, 1)
    if name == "encoder.conv_out.weight":
        return (*target.shape[:2], 1, 1)
    return tuple(target.shape)


def _fold(
    tensors: Mapping[str, torch.Tensor], published: Mapping[str, str], targets: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Weights for a `VQModel`: what is published, pooling and the identity as convolutions, and zero elsewhere."""
    dtype = tensors["quantize.embedding.weight"].dtype
    weights = {name: torch.zeros(target.shape, dtype=dtype) for name, target in targets.items()}
    for name, weight in weights.items():
        if name.endswith("downsamplers.0.conv.weight"):
            weight[:, :, :2, :2] = torch.eye(len(weight), dtype=dtype)[:, :, None, None] / 4
        elif name.endswith("quant_conv.weight"):
            weight[:, :, 0, 0] = torch.eye(len(weight), dtype=dtype)
    shortcuts = [name for name in published if name.endswith("conv_shortcut.weight")]
    weights.update({name: tensors[published[name]] for name in published if name not in shortcuts})
    for name in shortcuts:
        conv = name.replace("conv_shortcut", "conv2")
        weights[conv] = _with_shortcut(weights[conv], tensors[published[name]])
    weights["encoder.conv_out.weight"] = functional.pad(weights["encoder.conv_out.weight"], (1, 1, 1, 1))
    return weights


def _with_shortcut(conv: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
    """The weight of a convolution h(x) whose output goes on as h + W h."""
    mixing = shortcut[:, :, 0, 0].double()
    mixing = mixing + torch.eye(len(mixing), dtype=torch.double)
    return torch.einsum("oc,cihw->oihw", mixing, conv.double()).to(conv.dtype)
