"""Models whose weights lie as the matrix products of a CPU read them."""

from typing import TYPE_CHECKING, Self, cast

import torch
from torch import nn

from .devices import execution_device
from .linear import Linear, PackedLinear, onednn_linear


if TYPE_CHECKING:
    from transformers import PreTrainedModel as Model
else:
    Model = object


class PackingMixin(Model):
    """Packing of the linear layers' weights, for faster inference on a CPU."""

    @property
    def is_packed(self) -> bool:
        """Whether weights of linear layers are packed."""
        return any(isinstance(module, PackedLinear) for module in self.modules())

    def pack_weights(self) -> Self:
        """
        Lay the weights of all linear layers out, once, in the blocks that oneDNN multiplies by on a CPU.

        They take the place of the plain ones, under the same names; tokens stay the same up to rounding. `state_dict`,
        `save_pretrained` and pickles give them plain; moving or converting the model unpacks them; training and
        adapters need [`~PackingMixin.unpack_weights`] first.

        Returns:
            `PreTrainedModel`: the model itself, packed.

        Raises:
            ValueError: for a model that is training, has an adapter, is quantised, does not compute on the CPU, or is
                of a type that oneDNN does not multiply there: float32 it does, bfloat16 with AVX-512 or AMX.
        """
        self._check_packable()
        for name in [name for name, module in self.named_modules() if isinstance(module, Linear)]:
            # One after another: no second copy of the model.
            self.set_submodule(name, PackedLinear(cast(Linear, self.get_submodule(name))))
        return self

    def _check_packable(self):
        """Raise a `ValueError` if the linear layers cannot be packed."""
        linear = {name: module for name, module in self.named_modules() if isinstance(module, Linear)}
        about = "The model of `pack_weights` must"
        if self.training:
            raise ValueError(f"{about} be in evaluation mode, got one that is training: call `eval()` first.")
        if any(name.endswith("base_layer") for name in linear):
            raise ValueError(f"{about} have no adapter, got one with an adapter: merge or unload it first.")
        weights, device = [module.weight for module in linear.values()], execution_device(self)
        if hasattr(self, "hf_quantizer") or any(type(weight) is not nn.Parameter for weight in weights):
            raise ValueError(f"{about} have plain weights, got quantised ones.")
        if device.type != "cpu" or any(weight.is_meta for weight in weights):
            raise ValueError(f"{about} compute on the CPU with weights in memory, got one on {device}.")
        if onednn_linear is None:
            raise ValueError("`pack_weights` must have oneDNN, got a torch that is built without it.")
        types = [torch.float32] + [torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if wrong := {weight.dtype for weight in weights}.difference(types):
            allowed = " or ".join(map(str, types))
            raise ValueError(f"{about} be of {allowed} on this CPU, got {', '.join(map(str, wrong))}.")

    def unpack_weights(self) -> Self:
        """Lay packed weights out plain again; make an optimizer only then. Returns the model."""
        for name in [name for name, module in self.named_modules() if isinstance(module, PackedLinear)]:
            self.set_submodule(name, cast(PackedLinear, self.get_submodule(name)).unpack())
        return self

    def train(self, mode: bool = True):
        """Set the mode; a `ValueError` for training with packed weights."""
        if mode and self.is_packed:
            raise ValueError("Packed weights cannot be trained: call `unpack_weights()` before `train()`.")
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self.unpack_weights()  # where they go, others may be needed
        return super()._apply(fn, recurse)


__all__ = ["PackingMixin"]
