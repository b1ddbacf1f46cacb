"""The settings in effect, and the recipe with them that repeats a run."""

import json
from dataclasses import asdict
from textwrap import indent

import torch
import yaml

import randar_hf

from .training_config import MODEL_FIELDS, MODELS, TrainingConfig


RECIPE_FILE = "recipe.yaml"
# Settings that say where a run writes, and what it does with what is there.
PLACES = {"output_dir", "push_to_hub", "resume", "overwrite"}


def effective_settings(config) -> dict:
    """The fields of a command's settings by name, with what those of `train` leave to the model or to other fields."""
    settings = asdict(config)
    if not isinstance(config, TrainingConfig):
        return settings
    defaults = MODELS[config.model_type].config_class()
    for name in MODEL_FIELDS:
        if settings[name] is None:
            settings[name] = getattr(defaults, name, None)
    annealing = config.annealing
    settings["order"] = annealing.order
    if annealing.is_on:
        settings |= {"annealing_start": annealing.start, "annealing_end": annealing.end}
    return settings


def effective_recipe(config, command: str, num_processes: int) -> str:
    """A recipe, as the text of its file, with which `command` does the same again.

    Args:
        config: the settings of the command.
        command: its name.
        num_processes: that share the work; `batch_size` is for each of them.
    """
    settings = {name: value for name, value in effective_settings(config).items() if name not in PLACES}
    settings = json.loads(json.dumps(settings))  # plain types, as in the file of settings
    processes = f"{num_processes} process{'es' * (num_processes > 1)}"
    about = (
        f"All settings of a run of `randar-hf {command}` by {processes}, with what was left to defaults.\n"
        f"Written by randar_hf {randar_hf.__version__} with torch {torch.__version__}.\n"
    )
    section = yaml.safe_dump({command: settings}, sort_keys=False, allow_unicode=True)
    return f"about: |\n{indent(about, '  ')}\n{section}"
