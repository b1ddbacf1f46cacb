"""Where a module computes."""

import torch


def execution_device(module: torch.nn.Module) -> torch.device:
    """The device a module runs on, which differs from that of its weights while they are offloaded by `accelerate`."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return module.device if device is None else torch.device(device)
