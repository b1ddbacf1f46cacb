"""What both trainers ask of `accelerate`, in one place."""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DataLoaderConfiguration, GradientAccumulationPlugin
from torch.utils.data import DataLoader


def make_accelerator(config, gradient_accumulation_steps: int = 1) -> Accelerator:
    """An accelerator with seeded shuffling, accumulation across epoch ends and the tracker that `config` names."""
    return Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=gradient_accumulation_steps, sync_with_dataloader=False
        ),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=config.seed),
        step_scheduler_with_optimizer=False,
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=config.output_dir,
    )


def start_trackers(accelerator: Accelerator, config, project: str) -> None:
    """Open the trackers and hand them the settings of the run."""
    settings = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in asdict(config).items()}
    accelerator.init_trackers(project, config=settings)


def make_loader(dataset, batch_size: int, num_workers: int = 0, shuffle: bool = False) -> DataLoader:
    """A loader of whole batches when it shuffles (training), and of all rows in order when not (validation)."""
    if shuffle and len(dataset) < batch_size:
        raise ValueError(f"`batch_size`: {batch_size} was given, but the training split has only {len(dataset)} rows")
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, drop_last=shuffle, num_workers=num_workers)


def endless_batches(loader, epoch: int = 0, batch: int = 0) -> Iterator[tuple[int, int, dict]]:
    """Walk a prepared loader epoch after epoch, from any place on.

    Yields:
        (epoch, number of the batch in it, batch)
    """
    while True:
        loader.set_epoch(epoch)
        rest = skip_first_batches(loader, batch) if batch else loader
        for batch, content in enumerate(rest, start=batch):  # noqa: B020
            yield epoch, batch, content
        epoch, batch = epoch + 1, 0


def reseed(*key: int) -> torch.Generator:
    """Seed torch's global generators (dropout) from `key`, and return a CPU generator seeded alike (orders)."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
