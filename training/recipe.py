"""What a run that is resumed must keep."""

import json
from dataclasses import fields
from pathlib import Path

from .effective_recipe import effective_settings
from .outputs import RUN_FILE
from .training_config import TrainingConfig


# Settings that do not change what is trained.
FREE = {
    "output_dir",
    "tokenizer",
    "validation_split",
    "num_workers",
    "logging_steps",
    "validation_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "max_skipped_steps",
    "report_to",
    "push_to_hub",
    "resume",
    "overwrite",
}


def make_recipe(config, num_processes: int) -> dict:
    """The settings that decide what is trained, by name, as they are in effect.

    The batch size is that of all processes, since the data is the same however they share it. The steps of a schedule
    that does not look at their number are left out of those of `train`.
    """
    recipe = {name: value for name, value in effective_settings(config).items() if name not in FREE}
    if isinstance(config, TrainingConfig):
        recipe |= {"annealing_start": config.annealing.start, "annealing_end": config.annealing.end}
        if config.lr_schedule == "constant":
            del recipe["max_steps"]
    recipe["batch_size"] *= num_processes
    return recipe


def check_recipe(checkpoint: Path, config, num_processes: int, command: str) -> None:
    """Compare the settings of a run with those in the `run.json` that belongs to the checkpoint it is to continue.

    Args:
        checkpoint: a checked one.
        config: of the run.
        num_processes: of the run.
        command: of the run.

    Raises:
        ValueError: it is the run of another command, or some settings differ; the message lists them with what was
            given and what is stored.
    """
    files = [folder / RUN_FILE for folder in (checkpoint.parent, Path(config.output_dir).expanduser())]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ValueError(f"`output_dir`: {config.output_dir!r} holds no run to resume")
    run = json.loads(file.read_text())
    if run["command"] != command:
        raise ValueError(f"`resume`: {str(checkpoint)!r} is a run of `randar-hf {run['command']}`")
    known = {field.name for field in fields(config)}
    stored = type(config)(**{name: value for name, value in run["config"].items() if name in known})
    stored, given = make_recipe(stored, run.get("num_processes", 1)), make_recipe(config, num_processes)
    differing = [name for name in given if name in stored and given[name] != stored[name]]
    if differing:
        parts = (f"`{name}`: {given[name]!r} was given; it must be {stored[name]!r}" for name in differing)
        processes = ", of all processes together" if num_processes > 1 and "batch_size" in differing else ""
        raise ValueError(f"{'; '.join(parts)}, as in {str(checkpoint)!r}, to resume{processes}")
