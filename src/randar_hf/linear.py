"""Linear layers that infer quickly on a CPU, and those that start at zero."""

from typing import Any

import torch
from torch import nn


# oneDNN's product, which torch.compile also calls; missing from builds of torch without oneDNN.
_onednn_linear: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
)


class Linear(nn.Linear):
    """
    `nn.Linear` whose float32 products go through oneDNN on a CPU when no gradient is wanted.

    `nn.functional.linear` calls MKL there, which took 2.0 to 2.3 times as long on an AMD EPYC with AVX-512, for 24
    rows as for 512. Both round in float32 and differ in the last bits.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self._is_inferring_on_cpu(input):
            return _onednn_linear(input, self.weight, self.bias, "none", [], "")
        return super().forward(input)

    def _is_inferring_on_cpu(self, input: torch.Tensor) -> bool:
        return (
            _onednn_linear is not None
            and input.device.type == "cpu"
            and input.dtype == self.weight.dtype == torch.float32
            and type(self.weight) is nn.Parameter  # quantised weights are of other types
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


class ZeroLinear(Linear):
    """A [`Linear`] whose weight and bias are zero in a new model."""

    def reset_parameters(self):
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
