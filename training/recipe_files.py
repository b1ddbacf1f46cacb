"""Recipes: YAML files with the settings of training commands, shipped with the package or one's own."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

from .tokenizer_training_config import TokenizerTrainingConfig
from .tokenizing_config import TokenizingConfig
from .training_config import TrainingConfig
from .validation import typed_value


# The settings of each training command, in the order in which the commands are run.
COMMANDS = {"train-tokenizer": TokenizerTrainingConfig, "tokenize": TokenizingConfig, "train": TrainingConfig}
FOLDER = Path(__file__).with_name("recipes")
KEYS = ("about", "based_on", *COMMANDS)


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
        if command not in self.sections:
            names = ", ".join(self.sections) or "none"
            raise ValueError(f"`recipe` must have a section {command!r}, got {self.name!r} with {names}")
        settings, hints = self.sections[command], get_type_hints(COMMANDS[command])
        known = {field.name for field in fields(COMMANDS[command])}
        if unknown := [name for name in settings if name not in known]:
            raise ValueError(f"`recipe` must hold settings of `{command}`, got {unknown[0]!r} in {self.name!r}")
        try:
            return {name: typed_value(name, hints[name], value) for name, value in settings.items()}
        except ValueError as error:
            raise ValueError(f"{error} in the `recipe` {self.name!r}") from None


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
        raise ValueError(f"`command` must be one of {', '.join(map(repr, COMMANDS))}, got {command!r}")
    return read_recipe(recipe).settings(command)


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
        raise FileNotFoundError(f"`recipe` must be a file or one of {', '.join(names)}, got {str(recipe)!r}")
    return path.resolve()


def _read(path: Path, above: tuple[Path, ...]) -> tuple[str, dict[str, dict]]:
    """Read `about` and the sections of the file of a recipe on which those `above` are based."""
    chain = (*above, path)
    if path in above:
        raise ValueError(f"`recipe` must not be based on itself, got {' based on '.join(str(file) for file in chain)}")
    content = _read_content(path)
    sections = _read(_find(content["based_on"], path.parent), chain)[1] if "based_on" in content else {}
    own = {command: content[command] for command in COMMANDS if command in content}
    return content["about"], sections | {name: sections.get(name, {}) | own[name] for name in own}


def _read_content(path: Path) -> dict:
    """The keys of one file; what a section holds is not looked at."""
    import yaml  # not before a recipe is read: help needs none

    class Loader(yaml.SafeLoader):
        """YAML 1.1, in which `4e-4` is a number all the same."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"`recipe` must be YAML, got {str(path)!r}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"`recipe` must hold keys of {', '.join(KEYS)}, got {type(content).__name__} in {str(path)!r}"
        )
    for key, value in content.items():
        if key not in KEYS:
            raise ValueError(f"`recipe` must hold keys of {', '.join(KEYS)}, got {key!r} in {str(path)!r}")
        expected, name = (dict, "a mapping of settings, or {}") if key in COMMANDS else (str, "a text")
        if not isinstance(value, expected):
            raise ValueError(f"`{key}` of a `recipe` must be {name}, got {value!r} in {str(path)!r}")
    if "about" not in content:
        raise ValueError(f"`recipe` must have an `about` that tells what it is for, got none in {str(path)!r}")
    return content
