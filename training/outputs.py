"""Output folders: held by one process, never overwritten unless asked, and marked with the settings of their run."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from .effective_recipe import RECIPE_FILE, effective_recipe


RUN_FILE = "run.json"
LOCK_FILE = ".lock"
LOCK_SECONDS = 10.0  # what loader processes of a killed run may take to notice, who share its lock


@contextmanager
def hold_output_dir(accelerator: Accelerator, config, command: str, resume: bool = False) -> Iterator[Path]:
    """`claim_output_dir`, and keep other processes out of the folder for the block; called on every process.

    The system frees the lock when a process dies.

    Raises:
        ValueError: as `claim_output_dir`, or the folder is in use by another running process.
    """
    folder = check_output_dir(config, resume)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    refused = [False]
    if accelerator.is_main_process:
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            refused = [True]
    broadcast_object_list(refused)
    if refused[0]:
        raise ValueError(f"`output_dir`: {str(folder)!r} is in use by another running process")
    try:
        yield claim_output_dir(accelerator, config, command, resume)
    finally:
        lock.release()


def check_output_dir(config, resume: bool = False) -> Path:
    """Raise the errors of `claim_output_dir` without writing anything, and return the folder."""
    folder = Path(config.output_dir).expanduser()
    holds_run = (folder / RUN_FILE).is_file()
    if resume and not holds_run:
        raise ValueError(f"`output_dir`: {str(folder)!r} holds no run to resume")
    if _contents(folder) and not resume:
        if not holds_run:
            raise ValueError(f"`output_dir`: {str(folder)!r} holds other files; choose an empty or new folder")
        if not config.overwrite:
            raise ValueError(
                f"`output_dir`: {str(folder)!r} holds another run; resume it, overwrite it or choose another"
            )
    return folder


def claim_output_dir(accelerator: Accelerator, config, command: str, resume: bool = False) -> Path:
    """Make `config.output_dir` this run's own and write its settings into it; called on every process.

    Args:
        accelerator: of the run.
        config: a dataclass with `output_dir` and `overwrite`.
        command: name of the command, noted in `run.json` and `recipe.yaml`.
        resume: continue the run that the folder holds.

    Raises:
        ValueError: the folder holds another run or foreign files and `overwrite` was not asked for, or `overwrite`
            would delete files that no run of ours wrote, or there is no run to resume.
    """
    folder = check_output_dir(config, resume)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not resume:
        folder.mkdir(parents=True, exist_ok=True)
        for path in _contents(folder):
            if path.name != RUN_FILE:  # it goes last, so that half a deleted run is still known as one
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        settings = {"command": command, "num_processes": accelerator.num_processes, "config": asdict(config)}
        write_json(folder / RUN_FILE, settings)
        write_text(folder / RECIPE_FILE, effective_recipe(config, command, accelerator.num_processes))
    accelerator.wait_for_everyone()
    return folder


def _contents(folder: Path) -> list[Path]:
    """What lies in the folder, apart from the lock and from settings that were not written to the end."""
    ours = {LOCK_FILE, RUN_FILE + ".partial"}
    return [path for path in folder.iterdir() if path.name not in ours] if folder.is_dir() else []


def write_json(path: Path, content: dict) -> None:
    """`write_text` of `content` as JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write `content` beside `path` and rename, so that no reader ever sees half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)


def drop_torn_line(path: Path) -> None:
    """Cut what follows the last end of a line, which a killed process may have left in a file of lines."""
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
