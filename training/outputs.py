"""Output folders: never overwritten unless asked, and marked with the settings of the run that owns them."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator


RUN_FILE = "run.json"


def claim_output_dir(accelerator: Accelerator, config, command: str, resume: bool = False) -> Path:
    """Make `config.output_dir` this run's own and write its settings to `run.json`; called on every process.

    Args:
        config: a dataclass with `output_dir` and `overwrite`.
        command: name of the command, noted in `run.json`.
        resume: continue the run that the folder holds.

    Raises:
        ValueError: the folder holds another run or foreign files and `overwrite` was not asked for, or `overwrite`
            would delete files that no run of ours wrote, or there is no run to resume.
    """
    folder = Path(config.output_dir).expanduser()
    holds_run, in_use = (folder / RUN_FILE).is_file(), folder.is_dir() and any(folder.iterdir())
    if resume and not holds_run:
        raise ValueError(f"`output_dir`: {str(folder)!r} holds no run to resume")
    if in_use and not resume:
        if not holds_run:
            raise ValueError(f"`output_dir`: {str(folder)!r} holds other files; choose an empty or new folder")
        if not config.overwrite:
            raise ValueError(
                f"`output_dir`: {str(folder)!r} holds another run; resume it, overwrite it or choose another"
            )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not resume:
        if in_use:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN_FILE, {"command": command, "config": asdict(config)})
    accelerator.wait_for_everyone()
    return folder


def write_json(path: Path, content: dict) -> None:
    """Write `content` beside `path` and rename, so that no reader ever sees half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)
