"""What the published image tokenizers share: sizes read from shapes, and an empty `diffusers.VQModel` of them."""

from collections.abc import Mapping

import torch
from diffusers import VQModel

from .state_dicts import count, shape_of


NORM_GROUPS = 32
SAMPLE_SIZE = 256  # pixels per side that all of them were trained for


def empty_tokenizer(
    tensors: Mapping[str, torch.Tensor], levels: str, layers: str, embed_dim: int | None, attention: bool
) -> VQModel:
    """
    A tokenizer without weights, on the meta device, as large as the shapes of a published one tell.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): the published tensors.
        levels (`str`): how the names of the encoder's levels begin.
        layers (`str`): what comes between a level and the number of its residual blocks.
        embed_dim (`int` or `None`): width of the codebook, by default that of the latents.
        attention (`bool`): whether there is attention at the coarsest level and in the middle.

    Returns:
        `diffusers.VQModel`: the tokenizer in evaluation mode.

    Raises:
        ValueError: naming a tensor that sizes are read from, if it is missing or misshapen.
    """
    first_convs = [f"{levels}{i}{layers}0.conv1.weight" for i in range(count(tensors, levels))]
    if not first_convs:
        raise ValueError(f"`checkpoint` must hold the tensor '{levels}0{layers}0.conv1.weight', got none.")
    widths = [shape_of(tensors, name, 4)[0] for name in first_convs]
    for name, width in zip(first_convs, widths, strict=True):
        if width % NORM_GROUPS:
            raise ValueError(f"`checkpoint` must have a multiple of {NORM_GROUPS} channels in {name!r}, got {width}.")
    plain = len(widths) - attention  # levels without attention
    with torch.device("meta"):
        vqvae = VQModel(
            in_channels=shape_of(tensors, "encoder.conv_in.weight", 4)[1],
            out_channels=shape_of(tensors, "decoder.conv_out.weight", 4)[0],
            down_block_types=["DownEncoderBlock2D"] * plain + ["AttnDownEncoderBlock2D"] * attention,
            up_block_types=["AttnUpDecoderBlock2D"] * attention + ["UpDecoderBlock2D"] * plain,
            block_out_channels=widths,
            layers_per_block=count(tensors, f"{levels}0{layers}"),
            latent_channels=shape_of(tensors, "encoder.conv_out.weight", 4)[0],
            num_vq_embeddings=shape_of(tensors, "quantize.embedding.weight", 2)[0],
            norm_num_groups=NORM_GROUPS,
            vq_embed_dim=embed_dim,
            sample_size=SAMPLE_SIZE,
            scaling_factor=1.0,
            mid_block_add_attention=attention,
            lookup_from_codebook=True,
        )
    return vqvae.eval()
