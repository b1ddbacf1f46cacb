"""The linear layer that takes the fast way on a CPU."""

import pytest
import torch

from randar_hf.linear import Linear


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_fast_linear_is_a_linear(rows, bias):
    torch.manual_seed(0)
    layer, states = Linear(48, 40, bias=bias), torch.randn(rows, 1, 48)
    exact = torch.nn.functional.linear(states.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with torch.no_grad():
        torch.testing.assert_close(layer(states).double(), exact, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer(states.transpose(0, 1)).double(), exact.transpose(0, 1), atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(states).dtype == torch.bfloat16
    assert layer(states).requires_grad  # training goes the ordinary way
