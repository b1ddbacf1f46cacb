"""Checks of settings whose messages name the argument, what is allowed and what was given."""

import math
import os
from dataclasses import MISSING, field, fields
from numbers import Integral, Real
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints


KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text in quotes"}


def setting(panel: str, help: str, default: Any = MISSING) -> Any:
    """A field of a settings class, with what `--help` tells of it and the group in which it does."""
    return field(default=default, metadata={"help": help, "panel": panel})


def check_fields(config) -> None:
    """Give each field of a dataclass a value of its annotated type, or raise a `ValueError` that names it.

    numpy's numbers become Python's, whole numbers become floats where a float is annotated, and paths texts.
    """
    hints = get_type_hints(type(config))
    for each in fields(config):
        setattr(config, each.name, typed_value(each.name, hints[each.name], getattr(config, each.name)))


def typed_value(name: str, hint: Any, value: Any) -> Any:
    """`value` as `hint` annotates it: bool, int, float, str or a list of one of them, or None where it is optional.

    Raises:
        ValueError: it is of another type, or a number that is not finite.
    """
    kinds = get_args(hint) if NoneType in get_args(hint) else (hint,)
    if value is None and NoneType in kinds:
        return None
    kind = kinds[0]
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        if not isinstance(value, list | tuple):
            raise ValueError(f"`{name}` must be a list, each entry {KINDS[item]}, got {value!r}")
        return [typed_value(name, item, entry) for entry in value]
    if getattr(value, "shape", None) == ():  # numpy's numbers
        value = value.item()
    is_bool = isinstance(value, bool)
    if kind is bool and is_bool:
        return value
    if kind is int and isinstance(value, Integral) and not is_bool:
        return int(value)
    if kind is float and isinstance(value, Real) and not is_bool and math.isfinite(value):
        return float(value)
    if kind is str and isinstance(value, str | os.PathLike):
        return os.fspath(value)
    optional = " or null" if NoneType in kinds else ""
    raise ValueError(f"`{name}` must be {KINDS[kind]}{optional}, got {value!r}")


def check_given(config, *names: str) -> None:
    """Raise a `ValueError` for the first of the named paths of `config` that is an empty text."""
    for name in names:
        if not getattr(config, name):
            raise ValueError(f"`{name}` must be a path, got an empty text; '.' is the working folder")


def check_positive(config, *names: str) -> None:
    """Raise a `ValueError` for the first of the named fields of `config` that is given and not above 0."""
    for name in names:
        if (value := getattr(config, name)) is not None and not value > 0:
            raise ValueError(f"`{name}` must be above 0, got {value}")


def check_not_negative(config, *names: str) -> None:
    """Raise a `ValueError` for the first of the named fields of `config` that is given and below 0."""
    for name in names:
        if (value := getattr(config, name)) is not None and not value >= 0:
            raise ValueError(f"`{name}` must be at least 0, got {value}")


def check_fraction(config, *names: str) -> None:
    """Raise a `ValueError` for the first of the named fields of `config` that is given and outside [0, 1)."""
    for name in names:
        if (value := getattr(config, name)) is not None and not 0 <= value < 1:
            raise ValueError(f"`{name}` must be at least 0 and below 1, got {value}")


def check_choice(config, name: str, allowed: tuple) -> None:
    """Raise a `ValueError` if the named field of `config` is given and not one of `allowed`."""
    if (value := getattr(config, name)) is not None and value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}")
