"""Guidance: several predictions of the same tokens, combined. B images, G tokens, V codebook entries."""

from dataclasses import dataclass

import torch

from .checks import check_number, plain
from .schedules import guidance_weight


@dataclass
class Guidance:
    """
    The sequences that are decoded side by side, and how their predictions are combined.

    Attributes:
        scale (`float`): classifier-free guidance; 1 for none.
        schedule (`str`): how it grows, see [`~randar_hf.schedules.guidance_weight`].
        spatial_scale (`float`): spatial contextual guidance (Sec. F); 1 for none.
        power (`float`): of the schedule `"power_cosine"`.
    """

    scale: float
    schedule: str
    spatial_scale: float = 1.0
    power: float = 1.0

    @property
    def uses_class(self) -> bool:
        """Whether there is a sequence without the class."""
        return self.scale != 1

    @property
    def uses_spatial_guidance(self) -> bool:
        """Whether there is a sequence that drops tokens."""
        return self.spatial_scale != 1

    @property
    def branches(self) -> int:
        """Sequences for each image: its own, one of the null class if guided by class, one that drops tokens."""
        return 1 + self.uses_class + self.uses_spatial_guidance

    def null_labels(self, class_labels: torch.Tensor, null_class: int) -> torch.Tensor:
        """Classes (B * branches,) of all sequences for those of the images (B,)."""
        null = torch.full_like(class_labels, null_class) if self.uses_class else class_labels
        return torch.cat([class_labels, *[null] * (self.branches - 1)])

    def dropped_tokens(self, dropped: torch.Tensor) -> torch.Tensor:
        """Which tokens (B * branches, N) each sequence drops, given those (B, N) that the last one drops."""
        return torch.cat([*[torch.zeros_like(dropped)] * (self.branches - 1), dropped])

    def combine(self, logits: torch.Tensor, scale: float, known_fraction: torch.Tensor) -> torch.Tensor:
        """
        One prediction from those of all sequences.

        Args:
            logits (`torch.Tensor` of shape (B * branches, G, V)): predictions, sequence after sequence.
            scale (`float`): the scale of guidance by class for this step.
            known_fraction (`torch.Tensor` of shape (B, 1) or (B, G)): fraction of the tokens that are known.

        Returns:
            `torch.Tensor` of shape (B, G, V): with u the prediction without the class, d that without some tokens, w
            and s the weights: `u + w (c - u)`; `d + s (c - d)` (Eq. A); or `d + s (u - d) + w (c - u)` (Eq. B).
        """
        conditional, *others = logits.chunk(self.branches)
        if not self.uses_class:
            return others[0] + self.spatial_scale * (conditional - others[0]) if others else conditional
        unconditional = others[0]
        weight = guidance_weight(self.schedule, scale, known_fraction, self.power)[..., None]  # (B, 1 or G, 1)
        guided = weight * (conditional - unconditional)
        if self.uses_spatial_guidance:
            return others[1] + self.spatial_scale * (unconditional - others[1]) + guided
        return unconditional + guided


def check_spatial_guidance(
    scale: float, dropout: float | torch.Tensor, shape: tuple[int, int]
) -> tuple[float, float | torch.Tensor]:
    """Scale and dropout; a `ValueError` for a scale below 0, a fraction outside [0, 1) or a mask of another kind."""
    scale, dropout = check_number("spatial_guidance_scale", scale), plain(dropout)
    if isinstance(dropout, torch.Tensor):
        if dropout.dtype != torch.bool or dropout.shape != shape:
            raise ValueError(
                f"`spatial_dropout` must be a number in [0, 1) or a boolean mask of the shape {shape}, "
                f"got {dropout.dtype} of {tuple(dropout.shape)}."
            )
        return scale, dropout
    return scale, check_number("spatial_dropout", dropout, "[0, 1)")


def check_scale(guidance: Guidance, scale: float):
    """Raise a `ValueError` for a scale set during generation that began without a sequence of the null class."""
    if not guidance.uses_class and scale != 1:
        raise ValueError(f"`guidance_scale` must stay 1 where generation started without guidance, got {scale}.")
