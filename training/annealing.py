"""The orders of training: permuted images that give way to one order (arXiv 2411.00776, section 3.3)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Annealing:
    """How the fraction of permuted images falls; steps are optimizer steps, counted from 0.

    Args:
        order: the order that training is annealed to, one of `randar_hf.orders.ORDER_NAMES`.
        start: up to this step each image is permuted at random.
        end: from this step on each image is read in `order`; 0 for a training without permuted images.
    """

    order: str
    start: int = 0
    end: int = 0

    @property
    def is_on(self) -> bool:
        """Whether there are steps of permuted images before those in `order`."""
        return self.end > 0

    def random_ratio(self, step: int) -> float:
        """The fraction of images that are permuted at `step`: 1 up to `start`, then linearly down to 0 at `end`."""
        if self.order == "random" or step < self.start:
            return 1.0
        if step >= self.end:
            return 0.0
        return 1 - (step - self.start) / (self.end - self.start)

    def choose_orders(self, step: int, orders: "torch.LongTensor", chances: "torch.Tensor") -> "torch.LongTensor":
        """The orders (B, N) that are trained at `step`: each image is permuted or not by a chance of its own.

        Args:
            step: optimizer step, counted from 0.
            orders: (B, 2, N), as `sample_orders` makes them.
            chances: (B,) uniform numbers in [0, 1).
        """
        is_permuted = chances < self.random_ratio(step)  # (B,)
        return orders[:, 0].where(is_permuted[:, None], orders[:, 1])
