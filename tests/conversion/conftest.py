"""Small checkpoints in the published layouts."""

import json
from pathlib import Path

import pytest
import torch


FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def published():
    """`published("llamagen")` gives the tensors of that parity case with random numbers."""

    def make(case: str) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = json.loads((FIXTURES / case / "case.json").read_text())["checkpoint"]
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    return make
