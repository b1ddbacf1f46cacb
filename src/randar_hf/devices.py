"""Where modules compute."""

from typing import Any

import torch
from torch import nn

from .hosts import ModelHost


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


class DeviceMapMixin(ModelHost):
    """Device maps that divide the decoder: `accelerate` brings modules to where they compute, no bare parameters."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As any model of transformers is loaded; the decoder's own parameters, its tables, stay where it computes."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        hook = getattr(model.base_model, "_hf_hook", None)
        if getattr(model, "hf_device_map", None) and not getattr(hook, "offload", False):
            _place_parameters(model)
        return loaded


def _place_parameters(model: Any):
    """Bring the bare parameters of a model's decoder to where it computes, from the disk if they are there."""
    decoder, device = model.base_model, execution_device(model)
    prefix = "" if decoder is model else f"{model.base_model_prefix}."
    maps = (getattr(getattr(part, "_hf_hook", None), "weights_map", None) for part in model.modules())
    stored: dict[str, Any] = next((weights.dataset for weights in maps if weights is not None), {})
    for name, parameter in list(decoder.named_parameters(recurse=False)):
        if parameter.is_meta and prefix + name not in stored:
            raise ValueError(f"`device_map` must put layers on the disk if {prefix + name!r} is to be there.")
        value = stored[prefix + name] if parameter.is_meta else parameter.data
        setattr(decoder, name, nn.Parameter(value.to(device), parameter.requires_grad))
