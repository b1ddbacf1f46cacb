"""What a run notices by itself: a loss that explodes at the beginning, steps that others slow, a slow precision."""

import logging
import time
from collections import deque
from collections.abc import Callable

import torch
from accelerate import Accelerator

from .failures import TrainingError


# A loss explodes when its mean over `EVERY` steps is `GROWTH` times the first.
WATCHED_STEPS, EVERY, GROWTH = 100, 10, 3.0
TIMED_STEPS, SPREAD = 20, 10.0
TIMED_SECONDS = 10.0  # of passes in one precision
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

logger = logging.getLogger(__name__)


class LossWatch:
    """Ends a run whose loss explodes in the first hundred steps; the host waits for the device every tenth of them.

    Args:
        accelerator: of the run.
        learning_rate: of the run, for the message.
    """

    def __init__(self, accelerator: Accelerator, learning_rate: float):
        self.accelerator, self.learning_rate = accelerator, learning_rate
        self.first, self.recent = None, []

    def note(self, step: int, loss: torch.Tensor) -> None:
        """Note the loss of a step, counted from 1, as a scalar on the device.

        Raises:
            TrainingError: the loss has grown too much.
        """
        if step > WATCHED_STEPS:
            return
        self.first = loss if self.first is None else self.first
        self.recent.append(loss)
        if step % EVERY:
            return
        pair = torch.stack([self.first, torch.stack(self.recent).nanmean()])  # steps without a finite loss are skipped
        first, recent = self.accelerator.reduce(pair, "mean").tolist()
        self.recent.clear()
        if recent > GROWTH * first:
            raise TrainingError(
                f"`learning_rate` must be lower: in {step} steps the loss has grown from {first:.3g} to {recent:.3g}, "
                f"got {self.learning_rate:g}; try {self.learning_rate / 10:g}, or a longer `warmup_steps`"
            )


class StepTimes:
    """Times training steps on a CPU, and says once what to do where they vary tenfold.

    Args:
        device: of the run.
    """

    def __init__(self, device: torch.device):
        self.is_on = device.type == "cpu" and torch.get_num_threads() > 1
        self.seconds: deque[float] = deque(maxlen=TIMED_STEPS)
        self.is_first = True  # a first step takes longer

    def __enter__(self):
        self.started = time.perf_counter()

    def __exit__(self, *error):
        if not self.is_first:
            self.note(time.perf_counter() - self.started)
        self.is_first = False

    def note(self, seconds: float) -> None:
        """Note how long a step has taken."""
        self.seconds.append(seconds)
        least, most = min(self.seconds), max(self.seconds)
        if self.is_on and len(self.seconds) == TIMED_STEPS and most > SPREAD * least:
            self.is_on = False
            logger.warning(
                "steps take from %.2g to %.2g s: other processes hold the cores, for which %d threads wait; with the "
                "environment variable OMP_NUM_THREADS=1 they may be many times faster",
                least,
                most,
                torch.get_num_threads(),
            )


def compare_precision(accelerator: Accelerator, mixed_precision: str, loss: Callable[[], torch.Tensor]) -> None:
    """Say how long forward and backward pass take in mixed and in full precision on a CPU, where either may be faster.

    Args:
        accelerator: of the run.
        mixed_precision: of the run.
        loss: of a model that is not prepared; its gradients are the caller's to drop.
    """
    if accelerator.device.type != "cpu" or mixed_precision not in AUTOCAST or not accelerator.is_main_process:
        return
    seconds = {}
    for is_mixed in (True, False):
        autocast = torch.autocast("cpu", AUTOCAST[mixed_precision], enabled=is_mixed, cache_enabled=False)
        with torch.random.fork_rng([]), autocast:
            seconds[is_mixed] = _time(loss)
    logger.warning(
        "an image takes %.2g s in %s on this CPU and %.2g s in full precision; the faster is `mixed_precision` %s",
        seconds[True],
        mixed_precision,
        seconds[False],
        mixed_precision if seconds[True] < seconds[False] else "no",
    )


def _time(loss: Callable[[], torch.Tensor]) -> float:
    """Seconds of the fastest of three passes, or of as many as begin within `TIMED_SECONDS`."""
    seconds = []
    while len(seconds) < 3 and sum(seconds) < TIMED_SECONDS:
        started = time.perf_counter()
        loss().backward()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
