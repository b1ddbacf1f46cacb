"""Where a module computes."""

import torch


def execution_device(module: torch.nn.Module) -> torch.device:
    """The device a module runs on, which differs from that of its weights while they are offloaded by `accelerate`."""
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return module.device
