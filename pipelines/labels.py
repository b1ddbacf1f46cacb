"""Class names to class ids."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch


def list_labels(labels: Any) -> list[Any]:
    """A flat list of the labels given as one id or name, a (nested) list of them, a tensor or an array."""
    if isinstance(labels, torch.Tensor | np.ndarray | np.generic):
        labels = labels.tolist()
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        return [labels]
    return [entry for label in labels for entry in list_labels(label)]


def check_names(id2label: Any):
    """Raise a `ValueError` for class names that are no mapping of ids to names; there may be none."""
    if id2label is None:
        return
    is_mapping = isinstance(id2label, Mapping)
    if not is_mapping or not all(str(key).isdecimal() and isinstance(id2label[key], str) for key in id2label):
        advice = ": `dict(enumerate(names))` makes one of a list" if isinstance(id2label, list | tuple) else ""
        raise ValueError(f"`id2label` must map class ids to names, got {type(id2label).__name__}{advice}.")


def read_names(id2label: Mapping | None) -> dict[int, str]:
    """Class names by class id, in the ids' order; none for those that transformers makes up, `LABEL_0` and so on."""
    names = dict(sorted((int(class_id), name) for class_id, name in (id2label or {}).items()))
    return {} if all(name == f"LABEL_{class_id}" for class_id, name in names.items()) else names


def find_label_id(label: Any, id2label: Mapping[int, str]) -> int:
    """
    The class id of an id or a name.

    Args:
        label (`int` or `str`): an id, returned as it is, or a class name; where a class has several names separated by
            commas, any of them or the whole. Case does not matter where it makes no difference between classes.
        id2label (`Mapping[int, str]`): the names.

    Returns:
        `int`: the class id.

    Raises:
        ValueError: for a name that is unknown, with the nearest ones, or that several classes share.
        TypeError: for anything but an id or a name.
    """
    if isinstance(label, int) and not isinstance(label, bool):
        return label
    if not isinstance(label, str):
        raise TypeError(f"`class_labels` must be class ids or names, got {label!r}.")
    if not id2label:
        raise ValueError(
            f"`class_labels` must be class ids for a pipeline that has no `id2label`, got the name {label!r}."
        )
    found = class_ids_of(label, id2label)
    if not found:
        raise ValueError(f"`class_labels` holds the unknown name {label!r}; {_advice(label, id2label)}.")
    if len(found) > 1:
        raise ValueError(f"`class_labels` holds {label!r}, the name of the classes {found}: give the id.")
    return found[0]


def class_ids_of(name: str, id2label: Mapping[int, str]) -> list[int]:
    """The classes of a name: the exact ones, whose whole name goes before a synonym, or those but for the case."""
    for fold in (str, str.casefold):
        for parts in (_whole, _synonyms):
            found = [i for i, names in id2label.items() if fold(name.strip()) in map(fold, parts(names))]
            if found:
                return found
    return []


def _whole(names: str) -> list[str]:
    return [names.strip()]


def _synonyms(names: str) -> list[str]:
    return [part.strip() for part in names.split(",")]


def _advice(label: str, id2label: Mapping[int, str]) -> str:
    """What an unknown name may have meant: names that share a word with it, names spelled alike, or an id."""
    if label.strip().isdecimal() and int(label) in id2label:
        return f"{label.strip()} is the id of {id2label[int(label)]!r}: give it as a number"
    names = [name for whole in id2label.values() for name in _synonyms(whole)]
    words = set(label.casefold().split())
    sharing = sorted(names, key=lambda name: -len(words & set(name.casefold().split())))
    near = [name for name in sharing if words & set(name.casefold().split())][:3]
    if not near:
        folded = {name.casefold(): name for name in names}
        close = difflib.get_close_matches(label.casefold(), folded, n=3, cutoff=0.5)
        near = [folded[name] for name in close]
    return f"near it are {', '.join(map(repr, near))}" if near else f"none of the {len(id2label)} names is near it"
