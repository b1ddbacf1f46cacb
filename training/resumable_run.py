"""A run of optimizer steps of which nothing is lost: it logs, saves, stops at a signal and goes on where it was."""

import json
import logging
import math
import signal
import sys
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import tqdm
from PIL import Image

from .accelerator import endless_batches, start_trackers
from .checkpoints import (
    Checkpoint,
    Part,
    Progress,
    check_checkpoint,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from .failures import TrainingError
from .optimization import NonFiniteGuard
from .outputs import claim_output_dir, drop_later_lines
from .run_config import RunConfig
from .run_report import results_of, write_report
from .run_settings import check_resumed_settings
from .sharding import whole_tensor
from .signals import Interrupted, StopSignals
from .watching import LossWatch, StepTimes


logger = logging.getLogger(__name__)
IMAGE_TRACKERS = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}  # what they are told of images


def find_resumed(config: RunConfig, accelerator: Accelerator, command: str) -> Checkpoint | None:
    """The checkpoint that a run is to be continued from, whole and of the same settings; None for a new run.

    Raises:
        ValueError: there is no such checkpoint, it is damaged, or the settings differ.
    """
    if not config.resume:
        return None
    checkpoint = find_checkpoint(config.resume, Path(config.output_dir).expanduser())
    step = checkpoint.progress.step
    check_resumed_settings(checkpoint.folder, step, config, accelerator.num_processes, command)
    return checkpoint


class ResumableRun(ABC):
    """Model, optimizer, schedule, data and progress, and the steps that move them on.

    A subclass names its `command` and the `project` of its trackers, sets `loader`, adds to `parts` what else a
    checkpoint has to hold, and has `training_step`, `after_step` and `describe`.

    Args:
        config: the settings of the run.
        accelerator: that prepared what follows.
        model: prepared.
        optimizer: of `make_optimizer`, prepared.
        schedule: not prepared, since it counts optimizer steps whatever the number of processes.
    """

    command: str
    project: str

    def __init__(self, config: RunConfig, accelerator: Accelerator, model, optimizer, schedule):
        self.config, self.accelerator = config, accelerator
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.folder = Path(config.output_dir).expanduser()
        self.progress = Progress()
        self.saved_step = None
        self.losses = []  # of the training steps since the last log line; they stay on the device
        self.guard = NonFiniteGuard(optimizer.optimizer, accelerator.device)
        self.loss_watch, self.step_times = LossWatch(accelerator, config.learning_rate), StepTimes(accelerator.device)
        self.parts: dict[str, Part] = {"schedule": schedule}  # of a checkpoint, beside what accelerate keeps

    @abstractmethod
    def training_step(self, batch: dict, epoch: int) -> torch.Tensor | None:
        """Train on one batch.

        Returns:
            The norm of the gradient before clipping, when the optimizer stepped.
        """

    @abstractmethod
    def after_step(self, gradient_norm: torch.Tensor, bar) -> None:
        """Log and save when it is time."""

    @abstractmethod
    def describe(self, folder: Path) -> None:
        """Write the configuration of the model into a checkpoint, so that it can be loaded by itself."""

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or the validation loss has not fallen for too long."""
        patience = self.config.patience
        is_spent = patience is not None and self.progress.validations_since_best >= patience
        return is_spent or self.progress.step >= self.config.max_steps

    def run(self, checkpoint: Checkpoint | None) -> None:
        """Take all steps, from the first one in a folder of its own or from those of a checkpoint on, and go back to
        the best one."""
        if checkpoint is None:
            claim_output_dir(self.accelerator, self.config, self.command)
        start_trackers(self.accelerator, self.config, self.project)
        if checkpoint is not None:
            self.load(checkpoint)
        self.fit()
        if self.config.keep_best:
            self.take_best()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take the state of a checkpoint."""
        self.progress = checkpoint.progress
        load_checkpoint(self.accelerator, checkpoint, self.parts)

    def take_best(self) -> None:
        """Take the state of the checkpoint of the lowest validation loss, unless it is gone, which a warning says."""
        if (best := self.progress.best_step) in (None, self.progress.step):
            return
        try:
            checkpoint = check_checkpoint(self.folder / f"checkpoint-{best}")
        except ValueError as error:
            logger.warning("the best checkpoint is gone, the last one is taken: %s", error)
        else:
            self.restore(checkpoint)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.restore(checkpoint)
        progress = self.progress
        self.saved_step = progress.step
        self.guard = NonFiniteGuard(
            self.optimizer.optimizer, self.accelerator.device, progress.skipped_steps, progress.skipped_in_a_row
        )
        for group in self.optimizer.param_groups:
            group["fused"] = True  # older checkpoints say otherwise
        if self.accelerator.is_main_process:
            drop_later_lines(self.folder / "metrics.jsonl", progress.step)

    def fit(self) -> None:
        """Take steps until the run is over, or until a signal asks to stop."""
        config, progress = self.config, self.progress
        if self.is_over:
            return
        self.model.train()
        bar = tqdm(total=config.max_steps, initial=progress.step, desc=self.command)
        walk = endless_batches(self.loader, progress.epoch, progress.batch)
        with bar, StopSignals(self.accelerator) as signals, closing(walk) as batches:
            for epoch, number, batch in batches:
                with self.step_times:
                    gradient_norm = self.training_step(batch, epoch)
                progress.epoch, progress.batch = epoch, number + 1
                if not self.accelerator.sync_gradients:
                    continue
                progress.step += 1
                self.loss_watch.note(progress.step, self.losses[-1].flatten()[0])
                bar.update()
                self.after_step(gradient_norm, bar)
                if self.is_over:
                    break
                if stopped_by := signals.agreed(progress.step):
                    bar.close()
                    self.stop(stopped_by)

    def update(self, loss: torch.Tensor) -> torch.Tensor | None:
        """The gradient of a loss and, when enough are summed, a step of the optimizer and the schedule.

        Returns:
            The norm of the gradient before clipping, when the optimizer stepped.
        """
        accelerator = self.accelerator
        accelerator.backward(loss)
        gradient_norm = None
        if accelerator.sync_gradients:
            gradient_norm = accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
            gradient_norm = whole_tensor(gradient_norm)
            self.guard.check(gradient_norm)
        self.optimizer.step()
        if accelerator.sync_gradients:
            self.schedule.step()
        self.optimizer.zero_grad()
        return gradient_norm

    def is_time(self, steps: int) -> bool:
        """Whether something is due that is done every so many steps, and after the last one."""
        return self.progress.step % steps == 0 or self.is_over

    def mean_losses(self) -> torch.Tensor:
        """The mean of the finite ones among the `losses` of all processes, which are then forgotten."""
        losses = torch.stack(self.losses)  # (M, ...)
        self.losses.clear()
        is_finite = losses.isfinite()
        return self.accelerator.reduce(losses.where(is_finite, 0).sum(0) / is_finite.sum(0), "mean")

    def log_training(self, losses: dict[str, float], gradient_norm: torch.Tensor, **values: float) -> None:
        """Log losses and what the last step was taken with.

        Raises:
            TrainingError: too many steps were skipped, one after another.
        """
        skipped, in_a_row = self.guard.read()
        rates = {"gradient_norm": gradient_norm.item(), "learning_rate": self.schedule.get_last_lr()[0]}
        self.log({**losses, **rates, "skipped_steps": skipped, **values})
        if in_a_row > self.config.max_skipped_steps:
            raise TrainingError(
                f"`max_skipped_steps` must be at least the steps without a finite gradient, one after another, got "
                f"{self.config.max_skipped_steps} and {in_a_row} of them; a lower `learning_rate` or a longer warm-up "
                "may help"
            )

    def log(self, values: dict) -> None:
        """Hand `values` to the tracker and append them to `metrics.jsonl`, null for those that are not finite."""
        self.accelerator.log(values, step=self.progress.step)
        if self.accelerator.is_main_process:
            line = {"step": self.progress.step, "epoch": self.progress.epoch, **values}
            line = {name: value if math.isfinite(value) else None for name, value in line.items()}
            with open(self.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")

    def show(self, image: Image.Image) -> None:
        """Save an image of the present step in the folder and hand it to the trackers that take images."""
        path = self.folder / "previews" / f"step-{self.progress.step}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        for tracker in self.accelerator.trackers:
            if tracker.name in IMAGE_TRACKERS:
                pixels = np.asarray(image)[None]  # (1, H, W, 3)
                tracker.log_images({"previews": pixels}, step=self.progress.step, **IMAGE_TRACKERS[tracker.name])

    def report(self, kind: str, result: Path, card: str, command: str) -> None:
        """Write the run's `README.md`, and print its last line: what was made, how good, where, and what is next."""
        write_report(self.folder, card, command)
        print(f"{kind} in {str(result)!r}. {results_of(self.folder, self.progress)} Next: {command}")

    def note_validation(self, loss: float) -> None:
        """Keep the present step as the best one if its validation loss, the same on every process, is the lowest."""
        if self.progress.note_validation(loss) and self.config.keep_best:
            self.save()

    def save(self) -> None:
        """Save a checkpoint, unless that of the present step is saved."""
        config, progress = self.config, self.progress
        if self.saved_step == progress.step:
            return
        progress.skipped_steps, progress.skipped_in_a_row = self.guard.read()
        save_checkpoint(
            self.accelerator,
            self.folder,
            progress,
            config.checkpoints_total_limit,
            self.parts,
            self.describe,
            config.keep_best,
        )
        self.saved_step = progress.step

    def stop(self, number: int) -> None:
        """Save a checkpoint, say how to go on, and leave."""
        self.save()
        if self.accelerator.is_main_process:
            name, output_dir = signal.Signals(number).name, self.config.output_dir
            print(
                f"randar-hf {self.command}: stopped by {name} with checkpoint-{self.progress.step} in {output_dir!r}; "
                "give the same command with `--resume latest` to go on",
                file=sys.stderr,
            )
        self.accelerator.end_training()
        raise Interrupted(number)
