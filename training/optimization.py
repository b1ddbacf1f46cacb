"""Optimizers, and learning-rate schedules counted in optimizer steps."""

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
    optimizer: str = "adamw",
) -> torch.optim.Optimizer:
    """AdamW that decays matrices (all tensors of two or more dimensions, embeddings if asked to) and no vectors.

    With `optimizer="muon"` the matrices of the layers are Muon's.
    """
    groups = [{"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
    matrices = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and (decay_embeddings or "embed" not in name)
            is_matrix = optimizer == "muon" and parameter.ndim == 2 and ".layers." in name
            (matrices if is_matrix else groups[0 if decays else 1]["params"]).append(parameter)
    adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    if optimizer == "adamw":
        return adamw
    # The update is as large as AdamW's, so that one learning rate serves both.
    muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
    return MuonWithAdamW(muon, adamw)


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for matrices and AdamW for everything else, as one optimizer with one state.

    Args:
        muon: of one group of parameters.
        adamw: with `fused=True`, of the other ones.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW):
        self.muon, self.adamw = muon, adamw
        super().__init__([*muon.param_groups, *adamw.param_groups], {"lr": adamw.defaults["lr"]})

    @torch.no_grad()
    def step(self, closure=None):
        """Take a step of both, or of neither where `found_inf` is 1, which waits for the device: Muon cannot skip."""
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and found_inf.item():
            return
        for part, groups in ((self.muon, self.param_groups[:1]), (self.adamw, self.param_groups[1:])):
            part.param_groups, part.state = groups, self.state  # they are others once a state is loaded
            part.step()


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
    """Lets an optimizer skip steps whose gradient is not finite, and counts them; all of it on the device.

    Args:
        optimizer: of `make_optimizer`, which skips the update where `found_inf` is 1; AdamW does so in its kernel.
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
