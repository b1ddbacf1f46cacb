"""A pipeline of this package from a folder or the Hub, whichever class it names."""

import os
import warnings

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError

from randar_hf.checks import is_path

from .registration import PIPELINES


KINDS = {kind.__name__: kind for kind in PIPELINES}


def load_pipeline(
    name: str, folder: str | os.PathLike, kind: str | None = None, dtype: torch.dtype | None = None
) -> DiffusionPipeline:
    """
    The pipeline in a folder or a repository of the Hub.

    Args:
        name (`str`): the argument that gives it, for messages.
        folder (`str`): the folder, or the name on the Hub.
        kind (`str`, *optional*): name of the class, such as `"RandARInpaintPipeline"`; by default the stored one. What
            only generates is loaded as the pipeline for its kind of model.
        dtype (`torch.dtype`, *optional*): of the weights; by default float32.

    Raises:
        FileNotFoundError: for a path where no folder is; the Hub is not asked then.
        ValueError: for a folder that holds none, or whose files are damaged.
    """
    if is_path(os.fspath(folder)) and not os.path.isdir(folder):
        raise FileNotFoundError(f"`{name}` must be the folder of a pipeline, found none at {str(folder)!r}.")
    try:
        with warnings.catch_warnings(action="ignore"):  # diffusers asks the Hub in a way that is deprecated
            index = DiffusionPipeline.load_config(folder)
        stored = index.get("_class_name") if isinstance(index, dict) else None
        if stored not in tuple(KINDS):  # a list, where the class has code of its own
            raise ValueError(f"it must be a {' or '.join(KINDS)}, got {stored!r}.")
        if kind is None or kind == "RandARPipeline" and stored == "RARPipeline":
            kind = stored
        return KINDS[kind].from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"`{name}` must be a pipeline that can be loaded, got {str(folder)!r}: {error}") from error
