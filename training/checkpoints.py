"""Checkpoints: written beside and renamed, complete or not there, and checked before they are read."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator

from .outputs import write_json


STATE_FILE = "trainer_state.json"


@dataclass
class Progress:
    """Where a run stands: optimizer steps done, and the epoch and the batch in it that come next."""

    step: int = 0
    epoch: int = 0
    batch: int = 0


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: Progress, total_limit: int) -> None:
    """Write `checkpoint-<step>` under `folder` and then delete the oldest beyond `total_limit`; on every process."""
    final = folder / f"checkpoint-{progress.step}"
    partial = folder / f".{final.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        sizes = {str(file.relative_to(partial)): file.stat().st_size for file in partial.rglob("*") if file.is_file()}
        write_json(partial / STATE_FILE, {"progress": asdict(progress), "sizes": sizes})
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in list_checkpoints(folder)[:-total_limit]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> Progress:
    """Put the state of a checked checkpoint back into everything that `accelerator` holds; on every process."""
    accelerator.load_state(str(checkpoint))
    return check_checkpoint(checkpoint)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under `folder`, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def find_checkpoint(resume: str, folder: Path) -> Path:
    """The checkpoint that `resume` means, found whole.

    Args:
        resume: `"latest"` in `folder`, the name of a checkpoint in it, or a path.
        folder: the run's output folder.

    Raises:
        ValueError: there is none, or one of its files is missing or cut off.
    """
    if resume == "latest":
        found = list_checkpoints(folder)
        if not found:
            raise ValueError(f"`resume`: there is no checkpoint in {str(folder)!r}")
        checkpoint = found[-1]
    else:
        inside = folder / resume
        checkpoint = inside if inside.is_dir() else Path(resume).expanduser()
        if not checkpoint.is_dir():
            raise ValueError(f"`resume`: there is no checkpoint {resume!r}")
    check_checkpoint(checkpoint)
    return checkpoint


def check_checkpoint(checkpoint: Path) -> Progress:
    """Compare the files of a checkpoint with the list written when it was complete.

    Returns:
        The progress it stores.

    Raises:
        ValueError: a file is missing, cut off or unreadable; the message names it.
    """
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text())
        progress, sizes = Progress(**state["progress"]), state["sizes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"`resume`: {str(checkpoint / STATE_FILE)!r} is missing or damaged: {error}") from error
    for name, size in sizes.items():
        file = checkpoint / name
        found = file.stat().st_size if file.is_file() else 0
        if found != size:
            raise ValueError(f"`resume`: {str(file)!r} is damaged: {found} of {size} bytes are there")
    return progress
