"""Where modules compute."""

import torch


def execution_device(module: torch.nn.Module) -> torch.device:
    """The device a module runs on, which differs from that of its weights while they are offloaded by `accelerate`."""
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return module.device


def check_device(device: str):
    """Raise a `ValueError` that names `device` if torch has no such device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises differs by kind of device
        raise ValueError(f"`device` must be one that torch has here, got {device!r}.") from error
