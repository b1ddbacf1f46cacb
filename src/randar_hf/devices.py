"""Where modules compute."""

from typing import Any

import torch


def execution_device(module: Any) -> torch.device:
    """The device a module runs on; that of its weights is another while `accelerate` or diffusers offloads them."""
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
        if hasattr(part, "_diffusers_hook"):
            group = part._diffusers_hook.get_hook("group_offloading")
            if group is not None:
                return group.config.onload_device
    return module.device


def check_device(device: str):
    """Raise a `ValueError` that names `device` if torch has no such device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises differs by kind of device
        raise ValueError(f"`device` must be one that torch has here, got {device!r}.") from error
