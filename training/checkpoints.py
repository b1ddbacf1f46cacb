"""Checkpoints: written beside and renamed, complete or not there, and checked before they are read.

Nothing in them is executed: weights are safetensors, and all other files are read by torch's loader of plain tensors,
numbers, lists and dictionaries.
"""

import hashlib
import json
import math
import os
import pickle
import secrets
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from .failures import TrainingError, first_line
from .outputs import write_json


STATE_FILE = "trainer_state.json"
PARTS_FILE = "parts.bin"


class Part(Protocol):
    """What a checkpoint holds beside weights, optimizer and random numbers; its state is tensors and plain values."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class Progress:
    """Where a run stands: optimizer steps done, the epoch and the batch in it that come next, and steps skipped; the
    step with the lowest validation loss, that loss, and the validations since."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    validations_since_best: int = 0

    def note_validation(self, loss: float) -> bool:
        """Count a validation of the present step; whether its loss is the lowest so far."""
        is_best = math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss)
        if is_best:
            self.best_step, self.best_loss = self.step, loss
        self.validations_since_best = 0 if is_best else self.validations_since_best + 1
        return is_best


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    folder: Path
    progress: Progress


def save_checkpoint(
    accelerator: Accelerator,
    folder: Path,
    progress: Progress,
    total_limit: int,
    parts: Mapping[str, Part],
    describe: Callable[[Path], None],
    keep_best: bool,
) -> None:
    """Write `checkpoint-<step>` under `folder` and then delete the oldest beyond `total_limit`; on every process.

    Checkpoints of later steps, which a run has that was resumed from an earlier one, are left alone.

    Args:
        accelerator: of the run.
        folder: of the run.
        progress: where it stands.
        total_limit: checkpoints that are kept.
        parts: what the checkpoint holds beside what accelerate keeps.
        describe: writes what the weights are those of into a folder; called on the main process.
        keep_best: whether the checkpoint of the lowest validation loss is kept beside the newest ones.

    Raises:
        TrainingError: it could not be written, for example to a full disk; nothing else was deleted.
    """
    final = folder / f"checkpoint-{progress.step}"
    (partial,) = broadcast_object_list([folder / f".{final.name}.{secrets.token_hex(8)}.partial"])
    try:
        if accelerator.is_main_process:
            for left in folder.glob(".checkpoint-*.partial"):  # of runs that were killed
                shutil.rmtree(left)
            partial.mkdir()  # a new one: what has that name, be it a link, is an error
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        states = {name: part.state_dict() for name, part in parts.items()}
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            torch.save(states, partial / PARTS_FILE)
            describe(partial)
            _complete(partial, final, progress)
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(folder).free // 2**20
        shutil.rmtree(partial, ignore_errors=True)
        raise TrainingError(
            f"`output_dir` must take {final.name}, got an error with {free} MiB free: {first_line(error)}"
        ) from error
    if accelerator.is_main_process:
        older = [path for path in list_checkpoints(folder) if _step(path) <= progress.step]
        for path in older[:-total_limit]:
            if not (keep_best and _step(path) == progress.best_step):
                shutil.rmtree(path)
    accelerator.wait_for_everyone()


def _complete(partial: Path, final: Path, progress: Progress) -> None:
    """Note what a written checkpoint consists of, and give it its name."""
    files = {str(file.relative_to(partial)): file for file in sorted(partial.rglob("*")) if file.is_file()}
    state = {
        "progress": asdict(progress),
        "sizes": {name: file.stat().st_size for name, file in files.items()},
        "sha256": {name: _digest(file) for name, file in files.items()},
    }
    write_json(partial / STATE_FILE, {**state, "state_sha256": _digest_of_state(state)})
    for path in (*partial.rglob("*"), partial):
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _digest_of_state(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def load_checkpoint(accelerator: Accelerator, checkpoint: Checkpoint, parts: Mapping[str, Part]) -> None:
    """Give a run the state of a checkpoint that was found whole; on every process.

    Raises:
        ValueError: a file of it holds anything but tensors and plain values, or is none of this run.
    """
    try:
        states = torch.load(checkpoint.folder / PARTS_FILE, map_location="cpu", weights_only=True)
        accelerator.load_state(str(checkpoint.folder))
        for name, part in parts.items():
            part.load_state_dict(states[name])
    except (pickle.UnpicklingError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`resume` must be a checkpoint of these settings, got another one in {str(checkpoint.folder)!r}: "
            f"{first_line(error)}"
        ) from error


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under `folder`, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def last_checkpoint(folder: Path) -> str:
    """What a run can be resumed from, in words."""
    found = list_checkpoints(folder)
    return f"the last good checkpoint is {found[-1].name}" if found else "there is no checkpoint yet"


def find_checkpoint(resume: str, folder: Path) -> Checkpoint:
    """The checkpoint that `resume` means, found whole.

    Args:
        resume: `"latest"` in `folder`, which passes over broken ones with a warning; the name of a checkpoint in it;
            or a path.
        folder: the run's output folder.

    Raises:
        ValueError: there is none, or one of its files is missing or cut off.
    """
    if resume == "latest":
        return _latest_whole(folder)
    inside = folder / resume
    checkpoint = inside if inside.is_dir() else Path(resume).expanduser()
    if not checkpoint.is_dir():
        raise ValueError(f"`resume` must be latest or a checkpoint, got {resume!r}")
    return check_checkpoint(checkpoint)


def _latest_whole(folder: Path) -> Checkpoint:
    found = list_checkpoints(folder)
    for checkpoint in reversed(found):
        try:
            return check_checkpoint(checkpoint)
        except ValueError as error:
            if checkpoint == found[0]:
                raise
            warnings.warn(f"{error}; the checkpoint before it is taken", stacklevel=2)
    raise ValueError(f"`resume` must find a checkpoint, got none in {str(folder)!r}")


def check_checkpoint(folder: Path, argument: str = "resume") -> Checkpoint:
    """Compare the files of a checkpoint with the list written when it was complete.

    Args:
        folder: of the checkpoint.
        argument: what gives it, for messages.

    Raises:
        ValueError: a file is missing, cut off, changed or unreadable, or one that could execute code when it is read;
            the message names it.
    """
    if pickled := sorted(folder.glob("custom_checkpoint_*.pkl")):
        raise ValueError(
            f"`{argument}` must hold no file that could execute code, got {str(pickled[0])!r} of an earlier version; "
            "go on with the version that wrote it, or start anew"
        )

    def damaged(file: Path, reason: str) -> ValueError:
        return ValueError(f"`{argument}` must be a whole checkpoint, got a damaged {str(file)!r}: {reason}")

    try:
        state = json.loads((folder / STATE_FILE).read_text())
        claimed = state.pop("state_sha256")
        progress, sizes, digests = Progress(**state["progress"]), state["sizes"], state["sha256"]
        if claimed != _digest_of_state(state):
            raise ValueError("its content is not what was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder / STATE_FILE, str(error)) from error
    for name, size in sizes.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else 0
        if found != size:
            raise damaged(file, f"{found} of {size} bytes are there")
        if digests.get(name) != _digest(file):
            raise damaged(file, "its content is not what was written")
    return Checkpoint(folder, progress)
