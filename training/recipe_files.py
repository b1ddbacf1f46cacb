"""Recipes: YAML files with the settings of training commands, shipped with the package or one's own."""

import argparse
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from pathlib import Path
from textwrap import fill
from typing import Any, get_type_hints

import yaml
from transformers import HfArgumentParser

from randar_hf import training

from .validation import typed_value


# The settings of each training command by name, in the order in which the commands are run.
COMMANDS = {
    "train-tokenizer": "TokenizerTrainingConfig",
    "tokenize": "TokenizingConfig",
    "train": "TrainingConfig",
}
FOLDER = Path(__file__).with_name("recipes")
KEYS = ("about", "based_on", *COMMANDS)
NULL = "null"  # for None on the command line


class Loader(yaml.SafeLoader):
    """YAML 1.1, in which `4e-4` is a number all the same."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


@dataclass(frozen=True)
class Recipe:
    """A recipe with all that it is based on.

    Args:
        name: as it was asked for.
        about: what it is for.
        sections: settings by command, as YAML reads them.
    """

    name: str
    about: str
    sections: dict[str, dict]

    def settings(self, command: str) -> dict:
        """The settings of one command, values of the fields' types by field name.

        Raises:
            ValueError: there is no such command or section, or a setting is unknown or of another type.
        """
        hints = get_type_hints(settings_class(command))
        if command not in self.sections:
            raise ValueError(
                f"`recipe`: {self.name!r} has no section {command!r}; it has {', '.join(self.sections) or 'none'}"
            )
        place = f"`recipe`: `{command}` of {self.name!r}"
        settings = self.sections[command]
        for name in settings:
            if name not in field_names(command):
                raise ValueError(f"{place} has {name!r}, but there is no such setting")
        try:
            return {name: typed_value(name, hints[name], value) for name, value in settings.items()}
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def settings_class(command: str) -> type:
    """The dataclass with the settings of a training command.

    Raises:
        ValueError: there is no such command.
    """
    if command not in COMMANDS:
        raise ValueError(f"`command` must be one of {', '.join(map(repr, COMMANDS))}, got {command!r}")
    return getattr(training, COMMANDS[command])


def field_names(command: str) -> list[str]:
    """The names of the settings of a training command."""
    return [field.name for field in fields(settings_class(command))]


def build_settings(command: str, given: dict, recipe: Recipe | None = None):
    """The settings of a command: those that were given, and those of a recipe where they say nothing.

    Args:
        command: one of `COMMANDS`.
        given: values by field name.
        recipe: of `read_recipe`.

    Returns:
        A `TokenizerTrainingConfig`, `TokenizingConfig` or `TrainingConfig`.

    Raises:
        ValueError: a setting that has no default is missing, or a value makes no sense.
    """
    values = (recipe.settings(command) if recipe is not None else {}) | given
    for field in fields(settings_class(command)):
        if field.default is MISSING and field.default_factory is MISSING and field.name not in values:
            raise ValueError(f"`{field.name}` must be given, to `randar-hf {command}` or by its recipe")
    return settings_class(command)(**values)


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
    settings_class(command)
    return read_recipe(recipe).settings(command)


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
        parser.start_from(read_recipe(recipe))
    settings, _ = parser.parse_args_into_dataclasses(words)
    return settings


def read_recipe(recipe: str) -> Recipe:
    """Read a recipe and those that it is based on; its settings win key by key.

    Raises:
        FileNotFoundError, ValueError: as `load_recipe`, but for the settings themselves.
    """
    about, sections = _read(_find(recipe, Path()), ())
    return Recipe(str(recipe), about, sections)


def _find(recipe: str, folder: Path) -> Path:
    """The file of a shipped name, or of a path as seen from `folder`."""
    names = shipped_recipes()
    if recipe in names:
        return FOLDER / f"{recipe}.yaml"
    path = folder / Path(recipe).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"`recipe`: {str(recipe)!r} is no file, nor one of those shipped: {', '.join(names)}")
    return path.resolve()


def _read(path: Path, above: tuple[Path, ...]) -> tuple[str, dict[str, dict]]:
    """Read `about` and the sections of the file of a recipe on which those `above` are based."""
    chain = (*above, path)
    if path in above:
        raise ValueError(f"`recipe`: {' is based on '.join(str(file) for file in chain)}, which is a loop")
    content = _read_content(path)
    sections = _read(_find(content["based_on"], path.parent), chain)[1] if "based_on" in content else {}
    own = {command: content[command] for command in COMMANDS if command in content}
    return content["about"], sections | {name: sections.get(name, {}) | own[name] for name in own}


def _read_content(path: Path) -> dict:
    """The keys of one file; what a section holds is not looked at."""
    place = f"`recipe`: {str(path)!r}"
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
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
        self.options = {}
        super().__init__(settings_class(command), prog=f"randar-hf {command}", formatter_class=HelpFormatter)
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

    def start_from(self, recipe: Recipe) -> None:
        """Take the defaults from a recipe, and the description from what it is for."""
        settings = recipe.settings(self.command)
        self.set_defaults(**settings)
        for name in settings:
            self.options[name].required = False
        self.description = recipe.about

    def error(self, message: str):
        """Answer wrong input with one line and exit code 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")
