"""A small RAR model and its pipeline."""

import pytest
import torch

from randar_hf import RARConfig, RARForCausalLM
from randar_hf.pipelines import RARPipeline


def build_rar(**overrides) -> RARForCausalLM:
    """A model of two layers on a 4 x 4 grid, all of whose weights are random, also those that start at zero."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": 32,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_classes": 5,
        "grid_size": 4,
    }
    model = RARForCausalLM(RARConfig(**{**settings, **overrides})).eval()
    for name, weights in model.named_parameters():
        if weights.ndim > 1 or name == "model.start_token":
            torch.nn.init.normal_(weights, std=0.3)
    return model


@pytest.fixture
def make_rar():
    return build_rar


@pytest.fixture
def rar():
    return build_rar()


@pytest.fixture
def rar_pipe(rar, vqvae, class_names):
    pipe = RARPipeline(transformer=rar, vqvae=vqvae, id2label=class_names)
    pipe.set_progress_bar_config(disable=True)
    return pipe
