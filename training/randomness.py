"""Randomness keyed by sample: it depends on the seed, the epoch and the image's index in the data."""

import numpy as np
import torch
from torch.utils.data import default_collate

from randar_hf.orders import make_order
from randar_hf.randomness import uniform

from .annealing import Annealing


SAMPLES, MASKS, CODES = 1, 2, 3  # the last number of a key: what it is for


class KeyedSamples(torch.utils.data.Dataset):
    """Token rows, each with what training samples for it, whatever process or batch reads it.

    Worker processes see an epoch that was set before they were started.

    Args:
        rows: with the columns `tokens`, (N,), and `label`.
        seed: of the run.
        annealing: the orders to sample.
        grid: rows and columns of the tokens.
    """

    def __init__(self, rows, seed: int, annealing: Annealing, grid: tuple[int, int]):
        self.rows, self.seed, self.annealing, self.grid = rows, seed, annealing, grid
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sample for another pass over the data, also the crops where the rows have several."""
        self.epoch = epoch
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """Several rows at once, as a loader asks for them.

        Returns:
            For each the columns of `rows`, its `index`, its `orders` (2, N), one of which is trained, and `chances`
            (2,), uniform numbers: for the choice of the order and for the dropout of the class.
        """
        seeds = [key_seed(self.seed, self.epoch, index, SAMPLES) for index in indices]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        orders = sample_orders(self.annealing.order, *self.grid, generators)  # (B, 2, N)
        chances = uniform((2,), len(indices), generators)  # (B, 2)
        columns = (self.rows.__getitems__(indices), indices, orders, chances)
        return [
            {**row, "index": index, "orders": order, "chances": chance}
            for row, index, order, chance in zip(*columns, strict=True)
        ]


def sample_orders(order: str, height: int, width: int, generators: list[torch.Generator]) -> torch.LongTensor:
    """Two orders for each image, (B, 2, N), sampled by its own generator: a permutation, and one in `order`."""
    size = (height, width, len(generators), generators)
    return torch.stack([make_order("random", *size), make_order(order, *size)], dim=1)


def collate(samples: list[dict]) -> dict:
    """A batch of `KeyedSamples`; each `index` stays a number on the host, so that a seed of it needs no device."""
    indices = [sample.pop("index") for sample in samples]
    return {**default_collate(samples), "index": indices}


def key_seed(*key: int) -> int:
    """A seed of 63 bits made of `key`; keys that differ in anything give unrelated ones."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def seed_masks(seed: int, epoch: int, index: int) -> None:
    """Seed torch's global generators, which sample dropout masks, for the batch that starts with this sample."""
    torch.manual_seed(key_seed(seed, epoch, index, MASKS))
