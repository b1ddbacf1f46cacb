"""Folders of parquet files or tars: which split each file belongs to."""

import re
from pathlib import Path


# Names of splits, and what they are called elsewhere.
SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_NAMES |= dict.fromkeys(("validation", "valid", "val", "dev", "eval", "evaluation"), "validation")


def archive_splits(root: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The files of each split.

    A file is of the split that it, or a folder above it, is named after: `train.parquet`, `train-0-of-9.parquet` or
    `train/0.parquet`. Where no name tells of a split, all files are the split `train`.

    Args:
        root: their folder.
        files: below `root`, sorted.

    Raises:
        ValueError: names tell of splits in another way, so that it is not clear which files are read.
    """
    by_name = {}
    for file in files:
        by_name.setdefault(_name(root, file), []).append(file)
    written = {name for name in by_name if (root / f".{name}" / "state.json").is_file()}  # by `tokenize`
    if all(name in SPLIT_NAMES or name in written for name in by_name):
        splits = {}
        for name, part in by_name.items():
            splits.setdefault(name if name in written else SPLIT_NAMES[name], []).extend(part)
        return splits
    telling = [name for name in by_name if _words(name) & (SPLIT_NAMES.keys() | written)]
    if telling and len(by_name) > 1:
        other = next(name for name in by_name if name != telling[0])
        raise ValueError(
            f"{by_name[telling[0]][0].name!r} tells of a split, but {by_name[other][0].name!r} lies beside it; name "
            "the files after their splits alone (train-0, validation-0), or give a pattern of those that are meant"
        )
    return {"train": files}


def _name(root: Path, file: Path) -> str:
    """What a file is named after: the nearest folder that is a split, or its own name without the number of a part."""
    folders = [part.lower() for part in file.relative_to(root).parts[:-1] if part.lower() in SPLIT_NAMES]
    return folders[-1] if folders else re.sub(r"[-_.]?\d+(-of-\d+)?$", "", file.stem)


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))
