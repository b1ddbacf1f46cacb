"""AdamW groups and learning-rate schedules, counted in optimizer steps."""

import torch
from torch import nn
from transformers import get_scheduler

from .run_config import ALL_SCHEDULES


def make_optimizer(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.95),
    decay_embeddings: bool = True,
):
    """AdamW that decays matrices (all tensors of two or more dimensions, embeddings if asked to) and no vectors."""
    groups = [{"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and (decay_embeddings or "embed" not in name)
            groups[0 if decays else 1]["params"].append(parameter)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


def make_schedule(
    name: str,
    optimizer,
    warmup_steps: int,
    max_steps: int,
    final_learning_rate: float = 0.0,
    decay_start: int | None = None,
):
    """A linear warm-up, and then one of `ALL_SCHEDULES`, counted in optimizer steps.

    It is not to be handed to `accelerator.prepare`, which would step it once per process.

    Args:
        name: `"cosine"`, `"linear"` (to 0), `"constant"` or `"constant_linear"`.
        optimizer: whose learning rate is the highest one.
        warmup_steps: steps of warm-up.
        max_steps: steps in all.
        final_learning_rate: where `"cosine"` and `"constant_linear"` end.
        decay_start: step from which `"constant_linear"` decays.
    """
    settings = {}
    if name == "cosine":
        settings = {"min_lr": final_learning_rate}
    elif name == "constant_linear":
        settings = {
            "num_decay_steps": max_steps - decay_start,
            "decay_type": "linear",
            "min_lr_ratio": final_learning_rate / optimizer.defaults["lr"],
        }
    return get_scheduler(
        ALL_SCHEDULES[name],
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=max_steps,
        scheduler_specific_kwargs=settings,
    )


class NonFiniteGuard:
    """Lets a fused optimizer skip steps whose gradient is not finite, and counts them; all of it on the device.

    Args:
        optimizer: AdamW with `fused=True`, whose kernel skips the update where `found_inf` is 1.
        device: of the gradients.
        skipped: steps skipped before.
        in_a_row: how many of them came last, one after another.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, skipped: int = 0, in_a_row: int = 0):
        self.optimizer = optimizer
        self.skipped, self.in_a_row = (torch.tensor(float(count), device=device) for count in (skipped, in_a_row))

    def check(self, gradient_norm: torch.Tensor) -> None:
        """Decide whether the next step of the optimizer is skipped."""
        is_bad = (~gradient_norm.isfinite()).float()
        self.optimizer.found_inf = is_bad
        self.skipped += is_bad
        self.in_a_row = (self.in_a_row + 1) * is_bad

    def read(self) -> tuple[int, int]:
        """Steps skipped in all and, last, one after another; waits for the device."""
        return int(self.skipped), int(self.in_a_row)
