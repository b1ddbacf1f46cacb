"""Linear layers that decode quickly on a CPU."""

import torch
from torch import nn


# oneDNN's product, which torch.compile also calls; missing from builds of torch without oneDNN.
_onednn_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None

MAX_ROWS = 32


class Linear(nn.Linear):
    """
    `nn.Linear` whose float32 products of few rows, those of a decoding step, go through oneDNN on a CPU.

    Decoding reads every weight for a handful of rows, so it is bound by memory, which `nn.functional.linear` uses at
    half of oneDNN's rate or less. Both round in float32; they differ in the last bits.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self._is_decoding_on_cpu(input):
            return _onednn_linear(input, self.weight, self.bias, "none", [], "")
        return super().forward(input)

    def _is_decoding_on_cpu(self, input: torch.Tensor) -> bool:
        return (
            _onednn_linear is not None
            and input.device.type == "cpu"
            and input.numel() <= MAX_ROWS * self.in_features
            and input.dtype == self.weight.dtype == torch.float32
            and type(self.weight) is nn.Parameter  # quantised weights are of other types
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
        )
