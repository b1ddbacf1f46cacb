"""Models are asked in evaluation mode, also in the midst of training."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps

import torch
from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into its own mode afterwards."""
    training = [module for module in model.modules() if module.training] if model.training else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def inference(method):
    """A method of a model that runs in evaluation mode and without gradients: no dropout, no checkpointed layers."""

    @wraps(method)
    def run(self, *args, **kwargs):
        with torch.no_grad(), evaluation_mode(self):
            return method(self, *args, **kwargs)

    return run


__all__ = ["evaluation_mode", "inference"]
