"""The settings of a run in effect: written into its folder, and what a run that is resumed must keep."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from textwrap import indent

import torch
import yaml

import randar_hf

from .run_config import RunConfig
from .training_config import MODEL_FIELDS, TrainingConfig, model_class


RUN_FILE = "run.json"
RECIPE_FILE = "recipe.yaml"
# Settings that say where a run writes, and what it does with what is there.
PLACES = {"output_dir", "push_to_hub", "resume", "overwrite", "dry_run"}
# Settings that do not change what is trained.
FREE = PLACES | {
    "preset",
    "tokenizer",
    "validation_split",
    "num_workers",
    "logging_steps",
    "validation_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "keep_best",
    "patience",
    "max_skipped_steps",
    "max_bad_images",
    "report_to",
}


def effective_settings(config) -> dict:
    """The fields of a command's settings by name, with what those of `train` leave to the model or to other fields."""
    settings = asdict(config)
    if not isinstance(config, TrainingConfig):
        return settings
    defaults = model_class(config.model_type).config_class()
    for name in MODEL_FIELDS:
        if settings[name] is None:
            settings[name] = getattr(defaults, name, None)
    annealing = config.annealing
    settings["order"] = annealing.order
    if annealing.is_on:
        settings |= {"annealing_start": annealing.start, "annealing_end": annealing.end}
    return settings


def recipe_text(config, command: str, num_processes: int) -> str:
    """The text of a recipe with which `command` does the same again.

    Args:
        config: the settings of the command.
        command: its name.
        num_processes: that share the work; `batch_size` is for each of them.
    """
    settings = {name: value for name, value in effective_settings(config).items() if name not in PLACES}
    processes = f"{num_processes} process{'es' * (num_processes > 1)}"
    about = (
        f"All settings of a run of `randar-hf {command}` by {processes}, with what was left to defaults.\n"
        f"Written by randar_hf {randar_hf.__version__} with torch {torch.__version__}.\n"
    )
    section = yaml.safe_dump({command: settings}, sort_keys=False, allow_unicode=True)
    return f"about: |\n{indent(about, '  ')}\n{section}"


def stored_settings(config_class: type[RunConfig], values: dict) -> RunConfig:
    """The settings that a `run.json` holds, without fields of another version."""
    known = {field.name for field in fields(config_class)}
    return config_class(**{name: value for name, value in values.items() if name in known})


def lasting_settings(config: RunConfig, num_processes: int) -> dict:
    """The settings in effect that decide what is trained, by name.

    The batch size is that of all processes, since the data is the same however they share it.
    """
    settings = {name: value for name, value in effective_settings(config).items() if name not in FREE}
    if isinstance(config, TrainingConfig):
        settings |= {"annealing_start": config.annealing.start, "annealing_end": config.annealing.end}
    settings["batch_size"] *= num_processes
    return settings


def check_resumed_settings(checkpoint: Path, step: int, config: RunConfig, num_processes: int, command: str) -> None:
    """Compare the settings of a run with those in the `run.json` that belongs to the checkpoint it is to continue.

    The length of a run of `train` may change as long as its learning rate has not begun to depend on it.

    Args:
        checkpoint: folder of a checked one.
        step: of the checkpoint.
        config: of the run.
        num_processes: of the run.
        command: of the run.

    Raises:
        ValueError: it is the run of another command, or some settings differ; the message lists them with what is
            stored and what was given.
    """
    files = [folder / RUN_FILE for folder in (checkpoint.parent, Path(config.output_dir).expanduser())]
    run = json.loads(next(file for file in files if file.is_file()).read_text())
    if run["command"] != command:
        raise ValueError(
            f"`resume` must be a checkpoint of `randar-hf {command}`, got {str(checkpoint)!r} of "
            f"`randar-hf {run['command']}`"
        )
    stored = stored_settings(type(config), run["config"])
    is_open = all(isinstance(each, TrainingConfig) and step <= each.constant_until for each in (stored, config))
    stored, given = lasting_settings(stored, run.get("num_processes", 1)), lasting_settings(config, num_processes)
    free = {"max_steps", "decay_start"} if is_open else set()
    differing = [name for name in given if name not in free and given[name] != stored[name]]
    if differing:
        parts = (f"`{name}` must be {stored[name]!r}, got {given[name]!r}" for name in differing)
        processes = ", of all processes together" if num_processes > 1 and "batch_size" in differing else ""
        raise ValueError(f"{'; '.join(parts)}: as in {str(checkpoint)!r}, to resume{processes}")
