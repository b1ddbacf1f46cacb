"""Output folders: held by one process, never overwritten unless asked, and marked with the settings of their run."""

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from randar_hf.files import hold_folder, write_text
from randar_hf.outputs import check_no_links, files_of_runs

from .run_config import RunConfig
from .run_settings import RECIPE_FILE, RUN_FILE, recipe_text


# What runs write, beside what any run of ours may.
FILES = (
    RECIPE_FILE,
    "metrics.json*",
    "skipped.jsonl",
    ".checkpoint-*",
    "generation_config.json",
    "previews",
    "validation.png",
    "README.md",
    "pipeline",
    "adapter",
    "tokenizer",
    "randar",  # and what trackers write
    "rar",
    "randar-tokenizer",
)


def hold_run_dir(accelerator: Accelerator, config: RunConfig) -> AbstractContextManager[Path]:
    """Keep other processes out of the output folder of a run, if it can have it; see `hold_folder`."""
    folder = Path(config.output_dir).expanduser()
    check = partial(check_output_dir, folder, bool(config.resume), config.overwrite)
    return hold_folder(accelerator, "output_dir", folder, check)


def check_output_dir(folder: Path, resume: bool, overwrite: bool) -> None:
    """Raise a `ValueError` if a run cannot have a folder.

    It holds another run and `overwrite` is off, or what another command wrote, or links where a run
    writes, or there is no run to resume.
    """
    holds_run = (folder / RUN_FILE).is_file()
    if resume and not holds_run:
        raise ValueError(f"`output_dir` must hold the run to resume, got {str(folder)!r}")
    check_no_links("output_dir", *files_of_runs(folder, *FILES, broken=True))
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


def drop_later_lines(path: Path, step: int) -> None:
    """Keep the lines of `metrics.jsonl` up to a step: those of later steps, and half a line that a killed process may
    have left, are written again."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        write_text(path, "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step))
