"""Files of published checkpoints, read without running what may be hidden in them."""

import argparse
import os
import pickle
import re
import zipfile
from collections.abc import Mapping

import torch
from safetensors.torch import load_file


WRAPPERS = ("model", "module", "state_dict")
PARALLEL = "module."  # before every name, from training on several devices
COMPILED = "_orig_mod."  # before the names of whatever was compiled, the whole or its parts


def read_checkpoint(checkpoint: str | os.PathLike | Mapping) -> dict[str, torch.Tensor]:
    """
    The tensors of a published checkpoint by name.

    Args:
        checkpoint (`str` or mapping): path of a safetensors file or torch pickle, told apart by content, or the state
            dict itself. A state dict under the key "model", "module" or "state_dict" is taken out. The "module." that
            training on several devices puts before every name is dropped, and the "_orig_mod." of compiled modules.

    Returns:
        `dict[str, torch.Tensor]`: a new mapping of the tensors, on the CPU if they come from a file.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if `checkpoint` is neither a path nor a mapping.
        ValueError: if the file is damaged, of another kind or would run code, or holds no state dict.
    """
    if not isinstance(checkpoint, Mapping | str | os.PathLike):
        raise TypeError(f"`checkpoint` must be a path or a state dict, got {type(checkpoint).__name__}.")
    content = checkpoint if isinstance(checkpoint, Mapping) else _read_file(os.fspath(checkpoint))
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"`checkpoint` must hold a state dict, got {type(content).__name__}.")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"`checkpoint` must map names to tensors, got {type(tensor).__name__} for {name!r}.")
    return {name: tensor.detach() for name, tensor in _plain_names(content).items()}


def _plain_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors by their names in the model itself, without what wrappers of it put before them."""
    plain = {}
    for name, tensor in tensors.items():
        if plain.setdefault(name.replace(COMPILED, ""), tensor) is not tensor:
            raise ValueError(f"`checkpoint` must hold each tensor once, got {name!r} with and without {COMPILED!r}.")
    while plain and all(name.startswith(PARALLEL) for name in plain):
        plain = {name.removeprefix(PARALLEL): tensor for name, tensor in plain.items()}
    return plain


def _read_file(path: str):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"`checkpoint` must be a file, found none at {path!r}.")
    with open(path, "rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"  # eight bytes of length, then a header in JSON
    try:
        return load_file(path) if is_safetensors else _read_pickle(path)
    except Exception as error:  # damaged bytes raise nearly anything
        function = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if function:
            reason = f"would run code, {function[1]!r}; only tensors and plain values are read"
        else:
            reason = "cannot be read: it is damaged, cut short or of another kind; no code in it was run"
        raise ValueError(f"`checkpoint` must be a file of weights, got {path!r}, which {reason}.") from error


def _read_pickle(path: str):
    mapped = zipfile.is_zipfile(path)  # what torch wrote before 1.6 cannot be mapped into memory
    with torch.serialization.safe_globals([argparse.Namespace]):  # the training arguments beside the weights
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
