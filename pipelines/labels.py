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


def find_label_id(label: Any, id2label: Mapping[int, str]) -> int:
    """
    The class id of an id or a name.

    Args:
        label (`int` or `str`): an id, returned as it is, or a class name; where a class has several names separated by
            commas, any of them or the whole.
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
    ids: dict[str, list[int]] = {}
    for class_id, names in id2label.items():
        for name in {names.strip(), *(part.strip() for part in names.split(","))}:
            ids.setdefault(name, []).append(class_id)
    if not ids:
        raise ValueError(
            f"`class_labels` holds the name {label!r}, but this pipeline has no `id2label`: give class ids."
        )
    found = ids.get(label.strip(), [])
    if not found:
        near = difflib.get_close_matches(label, ids, n=3, cutoff=0.5) or sorted(ids)[:3]
        raise ValueError(f"`class_labels` holds the unknown name {label!r}; near it are {', '.join(map(repr, near))}.")
    if len(found) > 1:
        raise ValueError(f"`class_labels` holds {label!r}, the name of the classes {found}: give the id.")
    return found[0]
