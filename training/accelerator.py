"""What both trainers ask of `accelerate`."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from traceback import clear_frames

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import AutocastKwargs, DataLoaderConfiguration, GradientAccumulationPlugin, LoggerType
from torch.utils.data import DataLoader

from .data.pixels import TooManyBadImages
from .failures import TrainingError
from .signals import outlive_signals


def make_accelerator(config, gradient_accumulation_steps: int = 1, compile: bool = False) -> Accelerator:
    """An accelerator with seeded shuffling, accumulation across epoch ends and the trackers that `config` names.

    Raises:
        ValueError: a tracker is unknown, or its package is not installed, or processes were started that are not
            connected.
    """
    return open_accelerator(
        mixed_precision=config.mixed_precision,
        dynamo_backend="inductor" if compile else None,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=gradient_accumulation_steps, sync_with_dataloader=False
        ),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=config.seed, non_blocking=True),
        step_scheduler_with_optimizer=False,
        log_with=tracker_names(config.report_to) or None,
        project_dir=config.output_dir,
        # a step reads each weight once: kept casts would only take memory, half of what the weights take
        kwargs_handlers=[AutocastKwargs(cache_enabled=False)],
    )


def open_accelerator(**settings) -> Accelerator:
    """An accelerator whose device computes, and that connects all processes.

    Raises:
        ValueError: the device that `ACCELERATE_TORCH_DEVICE` names is none that computes here, or processes were
            started that are not connected; the message says how to launch them.
    """
    device = os.environ.get("ACCELERATE_TORCH_DEVICE")
    try:
        accelerator = Accelerator(**settings)
        torch.zeros(1, device=accelerator.device).item()
    except (RuntimeError, AssertionError) as error:
        if device is None:
            raise
        reason = " ".join(str(error).split())
        raise ValueError(
            f"`ACCELERATE_TORCH_DEVICE` must be a device that computes here, got {device!r}: {reason}"
        ) from error
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != accelerator.num_processes:
        raise ValueError(
            f"{started} processes were started, but each runs alone: on a CPU they must be launched by "
            f"`ACCELERATE_USE_CPU=true torchrun --nproc-per-node {started} -m randar_hf ...`"
        )
    return accelerator


def tracker_names(report_to: str) -> list[str]:
    """The trackers of a setting: none for `"none"`, one, or several separated by commas.

    Raises:
        ValueError: a tracker is unknown, or its package is not installed; `accelerate` would leave it out.
    """
    names = [name.strip() for name in report_to.split(",")] if report_to != "none" else []
    if not set(names) <= set(LOGGER_TYPE_TO_CLASS):
        allowed = ", ".join(map(repr, LOGGER_TYPE_TO_CLASS))
        raise ValueError(
            f"`report_to` must be 'none', one of {allowed}, or several of these with commas between, got {report_to!r}"
        )
    installed = set(map(str, get_available_trackers()))
    missing = [name for name in names if name in LoggerType.list() and name not in installed]
    if missing:
        raise ValueError(f"`report_to` must be installed (pip install {' '.join(missing)}), got {report_to!r}")
    return names


def start_trackers(accelerator: Accelerator, config, project: str) -> None:
    """Open the trackers and hand them the settings of the run."""
    settings = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in asdict(config).items()}
    accelerator.init_trackers(project, config=settings)


def make_loader(
    dataset, batch_size: int, num_workers: int = 0, shuffle: bool = False, num_processes: int = 1, collate=None
) -> DataLoader:
    """A loader of whole batches when it shuffles (training), and of all rows in order when not (validation).

    Raises:
        ValueError: a loader that shuffles has too few rows for a batch on each of the processes.
    """
    if shuffle and len(dataset) < batch_size * num_processes:
        each = f" over {num_processes} processes" if num_processes > 1 else ""
        raise ValueError(
            f"`batch_size` must be at most the rows of the training split{each}, {len(dataset)}, got {batch_size}"
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=shuffle,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=outlive_signals,
    )


def endless_batches(loader, epoch: int = 0, batch: int = 0) -> Iterator[tuple[int, int, dict]]:
    """Walk a prepared loader epoch after epoch, from any batch on.

    Yields:
        (epoch, number of the batch in it, batch)

    Raises:
        TrainingError: a row cannot be read any more.
    """
    while True:
        rest = skip_first_batches(loader, batch) if batch else loader
        rest.set_epoch(epoch)
        if hasattr(loader.dataset, "set_epoch"):  # a prepared loader of several processes does not tell it
            loader.dataset.set_epoch(epoch)
        try:
            for batch, content in enumerate(rest, start=batch):  # noqa: B020
                yield epoch, batch, content
        except (OSError, TooManyBadImages) as error:
            clear_frames(error.__traceback__)  # they hold worker processes, which would not end
            cause = str(error).splitlines()[-1]  # of a worker process it is a whole traceback
            if isinstance(error, TooManyBadImages):
                raise TrainingError(cause.rpartition(f"{TooManyBadImages.__name__}: ")[2]) from error
            raise TrainingError(
                f"`dataset` must stay as it is, got a row that cannot be read any more: {cause}"
            ) from error
        epoch, batch = epoch + 1, 0
