"""Commands whose options may come from a recipe, in which one can say `null`, `false` and lists."""

from collections.abc import Iterator
from copy import copy
from dataclasses import Field
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand

from randar_hf.training.recipe_files import read_recipe, shipped_recipes


NULL, BOOLEAN = "null", "[true|false]"


class RecipeCommand(TyperCommand):
    """A command with `--recipe`, whose options take `--list 1 2`, and `--switch` as `--switch true`."""

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        """Parse the words of the command line."""
        return super().parse_args(context, list(self._spell_out(words)))

    def _spell_out(self, words: list[str]) -> Iterator[str]:
        lists = {name for option in self.params if option.multiple for name in option.opts}
        switches = {name for option in self.params if option.metavar == BOOLEAN for name in option.opts}
        current, is_first = None, True  # the list whose entries are read
        for word, following in pairwise([*words, "--"]):
            if word.startswith("--"):
                current, is_first = word if word in lists else None, True
            elif current is not None:
                yield from [] if is_first else [current]
                is_first = False
            yield word
            if word in switches and following.startswith("--"):
                yield "true"

    def format_help(self, context: Any, formatter: Any):
        """Write the help, with what the recipe is for if one was given before."""
        shown = copy(self)
        if recipe := context.params.get("recipe"):
            shown.help = read_recipe(recipe).about.replace("\n  ", " ").replace("\n", "\n\n")
            shown.rich_markup_mode = "markdown"
        super(RecipeCommand, shown).format_help(context, formatter)


def recipe_option(setting: Field, kind: type) -> Any:
    """The annotation of an option by the field of a dataclass, in which `null` and `false` undo what a recipe says."""
    options = {"help": setting.metadata["help"], "rich_help_panel": setting.metadata["panel"]}
    if kind is bool:
        return Annotated[str, typer.Option(**options, parser=_read_boolean, metavar=BOOLEAN)]
    if type(None) in get_args(kind) and get_origin(get_args(kind)[0]) is not list:
        options |= {"parser": partial(_read_optional, get_args(kind)[0])}
    return Annotated[kind, typer.Option(**options)]


def _read_boolean(word: str | bool) -> bool:
    if str(word).lower() not in ("true", "false"):
        raise typer.BadParameter(f"must be true or false, got {word!r}")
    return str(word).lower() == "true"


def _read_optional(kind: type, word: Any) -> Any:
    try:
        return None if word in (None, NULL) else kind(word)
    except ValueError:
        raise typer.BadParameter(f"must be of the type {kind.__name__} or {NULL}, got {word!r}") from None


def _start_from(context: typer.Context, recipe: str | None) -> str | None:
    """Take the defaults of the command's options from a recipe."""
    if recipe is not None:
        try:
            context.default_map = read_recipe(recipe).settings(context.info_name)
        except (ValueError, OSError) as error:
            context.fail(str(error))
    return recipe


# Read before the other options, whose defaults it tells.
Recipe = Annotated[
    str | None,
    typer.Option(
        help=f"settings to start from: a YAML file, or one of {', '.join(shipped_recipes())}",
        metavar="NAME|FILE",
        show_default=False,
        is_eager=True,
        callback=_start_from,
    ),
]
