"""Linear layers that infer quickly on a CPU, and those that start at zero."""

from typing import Any

import torch
from torch import nn


# oneDNN's product, which torch.compile also calls; missing from builds of torch without oneDNN.
onednn_linear: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
)


class Linear(nn.Linear):
    """
    `nn.Linear` whose float32 products go through oneDNN on a CPU when no gradient is wanted.

    `nn.functional.linear` calls MKL there, which took 2.0 to 2.3 times as long on an AMD EPYC with AVX-512, for 24
    rows as for 512. Both round in float32 and differ in the last bits.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        # Quantised weights are of other types; torch.compile chooses a product itself.
        is_plain = self.weight.dtype == torch.float32 and type(self.weight) is nn.Parameter
        if is_plain and infers_on_cpu(input, self.weight) and not torch.compiler.is_compiling():
            return onednn_linear(input, self.weight, self.bias, "none", [], "")
        return super().forward(input)


class ZeroLinear(Linear):
    """A [`Linear`] whose weight and bias are zero in a new model."""

    def reset_parameters(self):
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class PackedLinear(nn.Module):
    """
    A [`Linear`] for inference on a CPU, whose weight lies in the blocks that oneDNN multiplies by.

    The weight keeps its name, shape, type and values; whoever saves, copies or pickles the layer gets it plain. It is
    frozen: where gradients are wanted, or under autocast, a call unpacks it for itself.

    Args:
        linear ([`Linear`]): the layer to take the place of.
    """

    def __init__(self, linear: Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.linear_class, self.was_trainable = type(linear), linear.weight.requires_grad
        self.weight, self.bias = pack(linear.weight), linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if infers_on_cpu(input, self.weight):
            return onednn_linear(input, self.weight, self.bias, "none", [], "")
        return nn.functional.linear(input, self.weight.to_dense(), self.bias)

    def unpack(self) -> Linear:
        """The layer that it took the place of."""
        linear = self.linear_class(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight, linear.bias = nn.Parameter(self.weight.to_dense(), self.was_trainable), self.bias
        return linear.train(self.training)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.detach().to_dense()

    def _load_from_state_dict(self, *args: Any):
        self.weight = nn.Parameter(self.weight.to_dense(), requires_grad=False)
        super()._load_from_state_dict(*args)
        self.weight = pack(self.weight)

    def __getstate__(self) -> dict[str, Any]:
        weight = nn.Parameter(self.weight.to_dense(), requires_grad=False)
        return {**self.__dict__, "_parameters": {**self._parameters, "weight": weight}}

    def __setstate__(self, state: dict[str, Any]):
        super().__setstate__(state)
        self.weight = pack(self.weight)


def pack(weight: torch.Tensor) -> nn.Parameter:
    """A frozen weight in the blocks that oneDNN multiplies by."""
    # Below 16 rows oneDNN would choose the plain layout; from there on the blocks are the same for any number.
    return nn.Parameter(torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 64), requires_grad=False)


def infers_on_cpu(input: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a product may be oneDNN's: on a CPU, with no gradient wanted, between numbers of one type."""
    return (
        onednn_linear is not None
        and input.device.type == "cpu"
        and input.dtype == weight.dtype
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )
