"""Linear probing of a model's features on a labelled data set (paper, Table 5), with the recipe of MAE."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from randar_hf.checks import check_int, is_finite

from .images import ImageSet


@dataclass(frozen=True)
class ProbeRecipe:
    """
    How the head is trained: MAE's linear probing (arXiv 2111.06377, Table 10) on features that are stored.

    Attributes:
        epochs (`int`), warmup_epochs (`int`): of a cosine schedule.
        batch_size (`int`): images of a training step; at most all.
        learning_rate (`float`): for a batch of 256; scaled by the batch.
        seed (`int`): of the order of the images, of the weights and of the crops.
        crops (`int`): random crops of each training image, which the epochs take in turn: one an epoch is MAE's; 0 for
            the centred square in all epochs.
    """

    epochs: int = 90
    warmup_epochs: int = 10
    batch_size: int = 16_384
    learning_rate: float = 0.1
    seed: int = 0
    crops: int = 0

    def __post_init__(self):
        for name, least in (("epochs", 1), ("warmup_epochs", 0), ("batch_size", 2), ("seed", 0), ("crops", 0)):
            check_int(name, getattr(self, name), least)
        if not is_finite(self.learning_rate) or self.learning_rate <= 0:
            raise ValueError(f"`learning_rate` must be above 0, got {self.learning_rate!r}.")


class Lars(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled to the norm of each weight (arXiv 1708.03888), without weight decay."""

    def __init__(self, parameters, lr: float, momentum: float = 0.9, trust_coefficient: float = 0.001):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "trust_coefficient": trust_coefficient})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                update = parameter.grad
                if parameter.ndim > 1:
                    norms = parameter.norm(), update.norm()
                    ratio = group["trust_coefficient"] * norms[0] / norms[1]
                    update = update * torch.where((norms[0] > 0) & (norms[1] > 0), ratio, torch.ones_like(ratio))
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.mul_(group["momentum"]).add_(update)
                parameter.add_(momentum, alpha=-group["lr"])


def check_labels(images: ImageSet, num_classes: int | None = None) -> np.ndarray:
    """
    The class ids (n,) of a labelled set.

    Raises:
        ValueError: if images have no classes, or an id lies outside 0 to `num_classes` - 1.
    """
    if images.labels is None:
        raise ValueError(f"`{images.argument}` must have classes, sub-folders or a column of labels, got none.")
    labels = np.asarray(images.labels)
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"`{images.argument}` must have whole numbers from 0 as classes, got {labels.dtype}.")
    if num_classes is not None and labels.max() >= num_classes:
        raise ValueError(f"`{images.argument}` must have classes below {num_classes}, got {labels.max()}.")
    return labels


def train_probe(
    features: np.ndarray, labels: np.ndarray, num_classes: int, recipe: ProbeRecipe, device: str = "cpu"
) -> nn.Module:
    """
    A linear head behind a batch normalisation without weights, trained on features that need not fit in memory.

    Args:
        features (`numpy.ndarray` of shape (c n, d)): of the training images, or of c crops of each as
            [`random_crops`] lists them, which the epochs take in turn.
        labels (`numpy.ndarray` of shape (n,)): their class ids.
        num_classes (`int`): C.
        recipe ([`ProbeRecipe`]): how it is trained.
        device (`str`): where.

    Returns:
        `torch.nn.Module`: from features (b, d) to logits (b, C).
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    linear = nn.Linear(features.shape[1], num_classes)
    nn.init.normal_(linear.weight, std=0.01, generator=generator)
    nn.init.zeros_(linear.bias)
    head = nn.Sequential(nn.BatchNorm1d(features.shape[1], affine=False, eps=1e-6), linear).to(device).train()
    batch_size = min(recipe.batch_size, len(labels))
    batches = len(labels) // batch_size  # what is left over comes in another epoch
    optimizer = Lars(head.parameters(), lr=0.0)
    for step in range(recipe.epochs * batches):
        if step % batches == 0:
            order = torch.randperm(len(labels), generator=generator).numpy()
            start = step // batches * len(labels) % len(features)  # of this epoch's crops
        rows = np.sort(order[step % batches * batch_size :][:batch_size])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step / batches, recipe) * batch_size / 256
        batch = torch.from_numpy(np.array(features[start + rows])).to(device)
        loss = nn.functional.cross_entropy(head(batch), torch.from_numpy(labels[rows]).long().to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


def learning_rate(epoch: float, recipe: ProbeRecipe) -> float:
    """The rate for a batch of 256 at a point in training: grows evenly, then falls as a cosine to 0."""
    if epoch < recipe.warmup_epochs:
        return recipe.learning_rate * epoch / recipe.warmup_epochs
    fraction = (epoch - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * fraction))


@torch.no_grad()
def probe_accuracy(head: nn.Module, features: np.ndarray, labels: np.ndarray, device: str = "cpu") -> dict[str, float]:
    """Fractions of images whose class is the likeliest, `top_1`, or among the five likeliest, `top_5`."""
    hits = torch.zeros(2, dtype=torch.long)
    for start in range(0, len(features), 4096):
        logits = head(torch.from_numpy(np.array(features[start : start + 4096])).to(device)).cpu()  # (b, C)
        truth = torch.from_numpy(labels[start : start + 4096]).long()[:, None]
        found = logits.topk(min(5, logits.shape[1]), dim=1).indices == truth  # (b, 5)
        hits += torch.stack([found[:, 0].sum(), found.any(dim=1).sum()])
    return {"top_1": hits[0].item() / len(labels), "top_5": hits[1].item() / len(labels)}
