"""Random numbers that depend on the given generators only, one generator per image where asked for.

Shapes: B batch.
"""

from collections.abc import Sequence

import torch

from .checks import is_int


def check_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, batch_size: int
) -> list[torch.Generator | None]:
    """Give every row of a batch its generator.

    Args:
        generator: None (torch's default CPU generator), one generator that all rows share, or one per row.
        batch_size: number of rows, B.

    Returns:
        A list of length B; None stands for torch's default generator.

    Raises:
        TypeError: if `generator` is or holds anything else.
        ValueError: if a list of generators does not hold one per row.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * batch_size
    if not isinstance(generator, list | tuple) or not all(isinstance(entry, torch.Generator) for entry in generator):
        seed = f": for a seed give `torch.Generator().manual_seed({generator})`" if is_int(generator) else ""
        raise TypeError(f"`generator` must be None, a torch.Generator or a list of them, got {generator!r}{seed}.")
    if len(generator) != batch_size:
        raise ValueError(
            f"`generator` holds {len(generator)} generators for a batch of {batch_size}: "
            "give one for all images or a list with one per image."
        )
    return list(generator)


def uniform(
    shape: Sequence[int],
    batch_size: int,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Sample uniform numbers row after row, so that a row's numbers depend on its own generator alone.

    Args:
        shape: shape of one row.
        batch_size: number of rows, B.
        generator: as `check_generators` takes it; each row is sampled on its generator's device.
        dtype: floating point type of the numbers.

    Returns:
        (B, *shape) tensor on the CPU with values in [0, 1).

    Raises:
        TypeError, ValueError: as `check_generators` does.
    """
    rows = []
    for row_generator in check_generators(generator, batch_size):
        device = "cpu" if row_generator is None else row_generator.device
        rows.append(torch.rand(tuple(shape), generator=row_generator, device=device, dtype=dtype).cpu())
    return torch.stack(rows)


def image_seeds(batch_size: int, generator: torch.Generator | Sequence[torch.Generator] | None = None) -> torch.Tensor:
    """Sample a seed of 63 bits for each image, from its own generator alone; returns (B,) on the CPU."""
    seeds = []
    for row_generator in check_generators(generator, batch_size):
        device = "cpu" if row_generator is None else row_generator.device
        seeds.append(torch.randint(2**63 - 1, (1,), generator=row_generator, device=device).cpu())
    return torch.cat(seeds)
