"""Names of classes for checkpoints, which hold none."""

import json
import os
from functools import cache
from pathlib import Path

from randar_hf.checks import check_path


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet-1k by class id: WordNet's names of each, synonyms separated by commas."""
    return tuple(Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines())


def read_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """
    Class names from a file.

    Args:
        path (`str`): a text file with a name on each line, in the order of class ids, or a JSON file with a list of
            names or with an object from id to name.

    Returns:
        `tuple[str, ...]`: the names by class id.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no list of names, a name is empty, or ids do not count up from 0.
    """
    path = check_path("class_names", path)
    if not path.is_file():
        raise FileNotFoundError(f"`class_names` must be a file, found none at {str(path)!r}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.suffix == ".json" else text.splitlines()
        if isinstance(names, dict):
            names = [names[str(class_id)] for class_id in range(len(names))]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"`class_names` must be JSON or lines of UTF-8, got {str(path)!r}: {error}.") from error
    except KeyError as error:
        raise ValueError(f"`class_names` must count ids up from 0, got {str(path)!r} without {error}.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"`class_names` must hold one name for each class, got {str(path)!r}.")
    return tuple(name.strip() for name in names)


def check_class_names(names: tuple[str, ...], num_classes: int):
    """Raise a `ValueError` if there are not as many names as a checkpoint has classes."""
    if len(names) != num_classes:
        raise ValueError(f"`class_names` must hold {num_classes} names, one for each class, got {len(names)}.")
