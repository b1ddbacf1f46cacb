"""State dicts in published layouts: their kinds, their sizes, and the strict check of their tensors."""

from collections.abc import Mapping

import torch


# By converter: how names begin that only its files have, and what such a file is. The first that fits decides.
KINDS = {
    "convert_randar": ("pos_instruct_embeddings", "a RandAR model"),
    "convert_rar": ("target_aware_pos_embed", "a RAR model"),
    "convert_llamagen": ("layers.", "a LlamaGen model, without 'pos_instruct_embeddings'"),
    "convert_llamagen_vq": ("encoder.conv_blocks.", "LlamaGen's image tokenizer"),
    "convert_maskgit_vq": ("encoder.down.", "MaskGIT's image tokenizer"),
}


def find_kind(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The converter that reads a checkpoint, told by the names of its tensors, or `None` if no kind is known."""
    for converter, (beginning, _) in KINDS.items():
        if any(name.startswith(beginning) for name in tensors):
            return converter
    return None


def refuse_other_kinds(tensors: Mapping[str, torch.Tensor], converter: str):
    """Raise a `ValueError` that names the right converter, if a checkpoint is of a kind that another one reads."""
    other = find_kind(tensors)
    if other not in (None, converter):
        raise ValueError(f"`checkpoint` must be what `{converter}` reads, got {KINDS[other][1]}: `{other}` reads it.")


def count(tensors: Mapping[str, torch.Tensor], beginning: str) -> int:
    """The number of parts that follow a beginning of names, such as the layers after "layers."."""
    return len({name.removeprefix(beginning).split(".")[0] for name in tensors if name.startswith(beginning)})


def shape_of(tensors: Mapping[str, torch.Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that sizes are read from; a `ValueError` names it if there is none or it cannot be one."""
    if name not in tensors:
        raise ValueError(f"`checkpoint` must hold the tensor {name!r}, got none.")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"`checkpoint` must have {dimensions} dimensions in {name!r}, got the shape {shape}.")
    return shape


def check_tensors(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]):
    """
    Check that a checkpoint has the tensors of a layout, and no others.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): the checkpoint.
        shapes (`Mapping[str, tuple[int, ...]]`): what is expected, by published name.

    Raises:
        ValueError: naming the first tensor that is missing, misshapen, no floating point tensor or unexpected.
    """
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"`checkpoint` must hold the tensor {name!r}, got none.")
        found = tensors[name]
        if tuple(found.shape) != tuple(shape):
            raise ValueError(f"`checkpoint` must have the shape {tuple(shape)} in {name!r}, got {tuple(found.shape)}.")
        if not found.is_floating_point():
            raise ValueError(f"`checkpoint` must have floating point numbers in {name!r}, got {found.dtype}.")
    for name in tensors:
        if name not in shapes:
            raise ValueError(f"`checkpoint` must hold the tensors of its kind alone, got {name!r}.")
