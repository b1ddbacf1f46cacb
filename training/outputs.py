"""Output folders: held by one process, never overwritten unless asked, and marked with the settings of their run."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from randar_hf.outputs import check_output_folder, files_of_runs

from .run_config import RunConfig
from .run_settings import RECIPE_FILE, RUN_FILE, recipe_text


LOCK_FILE = ".lock"
# What runs write, beside what any run of ours may.
FILES = (
    RECIPE_FILE,
    "metrics.json*",
    "skipped.jsonl",
    ".checkpoint-*",
    "generation_config.json",
    "previews",
    "pipeline",
    "adapter",
    "randar",  # and what trackers write
    "rar",
    "randar-tokenizer",
)
LOCK_SECONDS = 10.0  # what loader processes of a killed run may take to notice, who share its lock


@contextmanager
def hold_output_dir(accelerator: Accelerator, config: RunConfig) -> Iterator[Path]:
    """Check the output folder and keep other processes out of it for the block; called on every process.

    The system frees the lock when a process dies. A folder that did not exist, and to which the block wrote nothing,
    is taken away again.

    Raises:
        ValueError: as `check_output_dir`, or the folder is in use by another running process.
    """
    folder = Path(config.output_dir).expanduser()
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    lock = FileLock(folder / LOCK_FILE)
    refused = [None]
    if accelerator.is_main_process:
        try:
            check_output_folder("output_dir", folder)
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=LOCK_SECONDS)
            check_output_dir(folder, bool(config.resume), config.overwrite)
        except Timeout:
            refused = [f"`output_dir` must not be in use by another running process, got {str(folder)!r}"]
        except ValueError as error:
            refused = [str(error)]
    broadcast_object_list(refused)
    try:
        if refused[0] is not None:
            raise ValueError(refused[0])
        yield folder
    finally:
        if lock.is_locked:
            if made and all(path.name == LOCK_FILE for path in folder.iterdir()):
                (folder / LOCK_FILE).unlink()
                for path in made:
                    path.rmdir()
            lock.release()


def check_output_dir(folder: Path, resume: bool, overwrite: bool) -> None:
    """Raise a `ValueError` if a run cannot have a folder.

    It holds another run and `overwrite` is off, or what another command wrote, or there is no run to resume.
    """
    holds_run = (folder / RUN_FILE).is_file()
    if resume and not holds_run:
        raise ValueError(f"`output_dir` must hold the run to resume, got {str(folder)!r}")
    found = [] if resume else files_of_runs(folder, *FILES)
    if found and not holds_run:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"`output_dir` must hold no other files of runs, got {str(folder)!r} with {names}")
    if found and not overwrite:
        raise ValueError(
            f"`output_dir` must hold no other run, got {str(folder)!r}; resume it, overwrite it or choose another"
        )


def claim_output_dir(accelerator: Accelerator, config: RunConfig, command: str) -> None:
    """Delete the run in the folder that this process holds, and write the settings of the new one into it.

    Called on every process. Files that no run writes stay.

    Args:
        accelerator: of the run.
        config: its settings.
        command: name of the command, noted in `run.json` and `recipe.yaml`.
    """
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder = Path(config.output_dir).expanduser()
        for path in files_of_runs(folder, *FILES):
            if path.name != RUN_FILE:  # it goes last, so that half a deleted run is still known as one
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        settings = {"command": command, "num_processes": accelerator.num_processes, "config": asdict(config)}
        write_json(folder / RUN_FILE, settings)
        write_text(folder / RECIPE_FILE, recipe_text(config, command, accelerator.num_processes))
    accelerator.wait_for_everyone()


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
