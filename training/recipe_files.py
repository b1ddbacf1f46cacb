"""Recipes: YAML files with the settings of training commands, shipped with the package or one's own."""

import argparse
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from textwrap import fill
from typing import Any

import yaml
from transformers import HfArgumentParser

from randar_hf import training


# The settings of each training command by name, in the order in which the commands are run.
COMMANDS = {
    "train-tokenizer": "TokenizerTrainingConfig",
    "tokenize": "TokenizingConfig",
    "train": "TrainingConfig",
}
FOLDER = Path(__file__).with_name("recipes")
KEYS = ("about", "based_on", *COMMANDS)
NULL = "null"  # for None on the command line


@dataclass(frozen=True)
class Recipe:
    """A recipe with all that it is based on.

    Args:
        about: what it is for.
        sections: settings by command, as YAML reads them.
    """

    about: str
    sections: dict[str, dict]


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(recipe: str, command: str) -> dict:
    """The settings of one command in a recipe, for `TrainingConfig(**settings)` and its siblings.

    Args:
        recipe: the name of a recipe that is shipped, or the path of a YAML file.
        command: `"train-tokenizer"`, `"tokenize"` or `"train"`.

    Returns:
        Values by field name, with the types of the fields.

    Raises:
        FileNotFoundError: there is no such recipe, or none that it is based on.
        ValueError: there is no such command, the file is no recipe or has no section for the command, or a setting is
            unknown or of another type.
    """
    if command not in COMMANDS:
        raise ValueError(f"`command`: {command!r} was given; it must be one of {', '.join(map(repr, COMMANDS))}")
    sections = read_recipe(recipe).sections
    if command not in sections:
        raise ValueError(
            f"`recipe`: {str(recipe)!r} has no section {command!r}; it has {', '.join(sections) or 'none'}"
        )
    return _convert(recipe, command, sections[command])


def parse_settings(command: str, words: list[str]):
    """The settings that the words of a command line ask for, and those of its `--recipe` where they say nothing.

    Args:
        command: one of `COMMANDS`.
        words: what follows it.

    Returns:
        A `TokenizerTrainingConfig`, `TokenizingConfig` or `TrainingConfig`.

    Raises:
        FileNotFoundError, ValueError: as `load_recipe`, or a value makes no sense.
    """
    parser = SettingsParser(command)
    without_help = [word for word in words if word not in ("-h", "--help")]
    recipe = SettingsParser(command, demanding=False).parse_known_args(without_help)[0].recipe
    if recipe is not None:
        parser.start_from(recipe)
    settings, _ = parser.parse_args_into_dataclasses(words)
    return settings


def read_recipe(recipe: str) -> Recipe:
    """Read a recipe and those that it is based on; its settings win key by key.

    Raises:
        FileNotFoundError, ValueError: as `load_recipe`, but for the settings themselves.
    """
    return _read(_find(recipe, Path()), ())


def _find(recipe: str, folder: Path) -> Path:
    """The file of a shipped name, or of a path as seen from `folder`."""
    names = shipped_recipes()
    if recipe in names:
        return FOLDER / f"{recipe}.yaml"
    path = folder / Path(recipe).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"`recipe`: {str(recipe)!r} is no file, nor one of those shipped: {', '.join(names)}")
    return path.resolve()


def _read(path: Path, above: tuple[Path, ...]) -> Recipe:
    """Read the file of a recipe on which those `above` are based."""
    chain = (*above, path)
    if path in above:
        raise ValueError(f"`recipe`: {' is based on '.join(str(file) for file in chain)}, which is a loop")
    content = _read_content(path)
    sections = _read(_find(content["based_on"], path.parent), chain).sections if "based_on" in content else {}
    own = {command: content[command] for command in COMMANDS if command in content}
    return Recipe(content["about"], sections | {name: sections.get(name, {}) | own[name] for name in own})


def _read_content(path: Path) -> dict:
    """The keys of one file; what a section holds is not looked at."""
    place = f"`recipe`: {str(path)!r}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{place} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{place} holds {type(content).__name__}; it must hold keys of {', '.join(KEYS)}")
    for key, value in content.items():
        if key not in KEYS:
            raise ValueError(f"{place} has the key {key!r}; it must be one of {', '.join(KEYS)}")
        expected, name = (dict, "a mapping of settings, or {}") if key in COMMANDS else (str, "a text")
        if not isinstance(value, expected):
            raise ValueError(f"{place} has {value!r} for `{key}`; it must be {name}")
    if "about" not in content:
        raise ValueError(f"{place} has no `about`; it must tell what it is for")
    return content


def _convert(recipe: str, command: str, settings: dict) -> dict:
    """The settings with the types that the command line would give them."""
    place = f"`recipe`: `{command}` of {str(recipe)!r}"
    parser = SettingsParser(command, demanding=False)
    known = {field.name: field for field in fields(parser.settings_class)}
    words = []
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{place} has {name!r}, but there is no such setting")
        if value is None and known[name].default is not None:
            raise ValueError(f"{place} has null for `{name}`; it must have a value")
        if isinstance(value, bool | int | float) and inspect.unwrap(parser.options[name].type) is str:
            raise ValueError(f"{place} has {value!r} for `{name}`; it must be a text, in quotes")
        words += _as_words(parser.options[name], value)

    def fail(message: str):
        raise ValueError(f"{place}: {message}")

    parser.error = fail
    converted = parser.parse_args(words)
    return {name: getattr(converted, name) for name in settings}


def _as_words(option: argparse.Action, value) -> list[str]:
    """An option as on the command line."""
    name = option.option_strings[0]
    if option.nargs == "+" and isinstance(value, list):
        return [name, *map(str, value)]
    return [f"{name}={NULL if value is None else value}"]


def _or_null(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type of an option that understands `null` too."""

    @wraps(convert, updated=())
    def convert_or_null(word: str):
        return None if word == NULL else convert(word)

    return convert_or_null


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and texts before and after the options as they are written."""


class SettingsParser(HfArgumentParser):
    """The options of a training command: one for each field of its settings, and `--recipe`.

    An option that is None by default understands `null`, which undoes what a recipe says.

    Args:
        command: one of `COMMANDS`.
        demanding: whether fields without a default must be given.
    """

    def __init__(self, command: str, demanding: bool = True):
        self.command, self.demanding = command, demanding
        self.settings_class = getattr(training, COMMANDS[command])
        self.options = {}
        super().__init__(self.settings_class, prog=f"randar-hf {command}", formatter_class=HelpFormatter)
        text = "settings to start from: a YAML file, or one of the recipes that are named below"
        self.add_argument("--recipe", metavar="NAME|FILE", help=text)
        self.epilog = fill(f"recipes: {', '.join(shipped_recipes())}", break_on_hyphens=False)

    def add_argument(self, *names, **settings) -> argparse.Action:
        """Add an option and remember it."""
        if "type" in settings and settings.get("default", ...) is None:
            settings["type"] = _or_null(settings["type"])
        if not self.demanding:
            settings.pop("required", None)
        option = super().add_argument(*names, **settings)
        self.options[option.dest] = option
        return option

    def start_from(self, recipe: str) -> None:
        """Take the defaults from a recipe, and the description from what it is for."""
        settings = load_recipe(recipe, self.command)
        self.set_defaults(**settings)
        for name in settings:
            self.options[name].required = False
        self.description = read_recipe(recipe).about

    def error(self, message: str):
        """Answer wrong input with one line and exit code 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")
