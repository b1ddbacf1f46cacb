"""AdamW groups and learning-rate schedules, counted in optimizer steps."""

import torch
from torch import nn
from transformers import get_scheduler


SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float, betas=(0.9, 0.95)):
    """AdamW that decays matrices (all tensors of two or more dimensions, embeddings too) and no vectors."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)


def make_schedule(name: str, optimizer, warmup_steps: int, max_steps: int):
    """Linear warm-up, then `"cosine"` or `"linear"` decay to 0, or `"constant"`.

    It is not to be handed to `accelerator.prepare`, which would step it once per process.
    """
    return get_scheduler(SCHEDULES[name], optimizer, num_warmup_steps=warmup_steps, num_training_steps=max_steps)
