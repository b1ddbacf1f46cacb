"""Folders of image files: which files are read, of which split, and which class each of them has."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, ReadInstruction
from PIL import Image as PILImage
from pyarrow import csv, json, parquet


SPLITS = ("train", "validation", "test")
# What folders of splits are called elsewhere; with classes below them they are no classes themselves.
OTHER_SPLITS = {"training", "valid", "val", "dev", "testing", "eval", "evaluation"}
SYSTEM_NAMES = {"__MACOSX", "Thumbs.db", "desktop.ini"}
ONLY_CLASS = "image"  # of a folder without classes, where labels are asked for
METADATA = {"metadata.csv": csv.read_csv, "metadata.jsonl": json.read_json, "metadata.parquet": parquet.read_table}


def load_image_folder(root: Path, split: str, label_column: str | None = None) -> Dataset:
    """The rows of a folder of image files, with `image` and, where there are classes, `label`.

    The sub-folders `train`, `validation` and `test` are splits where there are no others; a folder without them is
    the split `train`. In a split, the sub-folders are the classes, and all files below one are of that class; without
    sub-folders all files are of the class `"image"` where a label is asked for. A file
    `metadata.csv`, `.jsonl` or `.parquet` with the columns `file_name` and others is read instead.

    Args:
        root: the folder.
        split: name of the split, or a slice of it as in `"train[:90%]"`.
        label_column: a column that must be there.

    Raises:
        ValueError: there is no such split, file or column, or it is not clear what the folders mean.
    """
    folders = split_folders(root)
    name = split_name(split)
    if name not in folders:
        raise ValueError(f"its splits are {', '.join(folders)}")
    metadata = [folders[name] / file for file in METADATA if (folders[name] / file).is_file()]
    rows = _read_metadata(metadata[0], label_column) if metadata else _read_classes(folders, name, label_column)
    return slice_rows(rows, split)


def split_name(split: str) -> str:
    """The name of a split without what is cut from it, as in `"train[:90%]"`."""
    return split.split("[")[0]


def slice_rows(rows: Dataset, split: str) -> Dataset:
    """The rows of a slice such as `"train[10%:20%]"`; all of them for a name."""
    if "[" not in split:
        return rows
    (part,) = ReadInstruction.from_spec(split).to_absolute({split_name(split): len(rows)})
    return rows.select(range(part.from_ or 0, len(rows) if part.to is None else part.to))


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split: `train`, `validation` and `test` below `root`, or `root` itself as `train`.

    Raises:
        ValueError: there are other folders or images beside those of splits, or folders that may be either.
    """
    entries = visible(root)
    folders = [entry for entry in entries if entry.is_dir()]
    splits = {folder.name: folder for folder in folders if folder.name in SPLITS}
    others = [entry for entry in entries if entry.name not in splits and (entry.is_dir() or is_image_name(entry))]
    if splits and others:
        raise ValueError(
            f"{list(splits)[0]!r} would be a split, but {others[0].name!r} lies beside it; only folders named "
            f"{', '.join(SPLITS)} may lie beside one another as splits, each with the classes inside: rename it, or "
            "put all classes into a folder `train`"
        )
    for folder in folders:
        is_other = folder.name.lower() in OTHER_SPLITS or folder.name.lower() in SPLITS and folder.name not in SPLITS
        if is_other and any(entry.is_dir() for entry in visible(folder)):
            raise ValueError(
                f"{folder.name!r} may be a split or a class; name folders of splits {', '.join(SPLITS)}, or put all "
                "classes into a folder `train`"
            )
    return {name: splits[name] for name in SPLITS if name in splits} or {"train": root}


def walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """All visible files below a folder, sorted, following links but not in circles."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in visible(folder):
        if entry.is_dir():
            yield from walk(entry, (*above, real))
        else:
            yield entry


def visible(folder: Path) -> list[Path]:
    """The sorted entries of a folder without those that systems hide or leave behind."""
    entries = (entry for entry in folder.iterdir() if entry.name not in SYSTEM_NAMES)
    return sorted(entry for entry in entries if not entry.name.startswith("."))


def is_image_name(path: Path) -> bool:
    """Whether a name has a suffix of images."""
    return path.suffix.lower() in PILImage.registered_extensions()


def _read_classes(folders: dict[str, Path], split: str, label_column: str | None) -> Dataset:
    """The rows of the files of a split, whose classes are numbered alike in all splits."""
    classes = {name: [entry for entry in visible(folder) if entry.is_dir()] for name, folder in folders.items()}
    names = sorted({folder.name for part in classes.values() for folder in part})
    loose = [entry for entry in visible(folders[split]) if not entry.is_dir() and (not names or is_image_name(entry))]
    if names and loose:
        raise ValueError(f"{str(loose[0])!r} lies beside the folders of classes; move it into one, or elsewhere")
    files = [(file, folder.name) for folder in classes[split] for file in walk(folder)]
    files += [(file, ONLY_CLASS) for file in loose]
    if not files:
        raise ValueError(f"{str(folders[split])!r} holds no files")
    columns, features = {"image": [str(file) for file, _ in files]}, {"image": Image()}
    if names or label_column is not None:
        features["label"] = ClassLabel(names=names or [ONLY_CLASS])
        columns["label"] = [features["label"].str2int(name) for _, name in files]
    return Dataset.from_dict(columns, features=Features(features))


def _read_metadata(file: Path, label_column: str | None) -> Dataset:
    """The rows that a file of metadata lists, whose `file_name` is seen from its folder."""
    try:
        table = METADATA[file.name](file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{str(file)!r} cannot be read: {error}") from error
    for column in ("file_name", label_column):
        if column is not None and column not in table.column_names:
            raise ValueError(
                f"{str(file)!r} has no column {column!r}, but {', '.join(table.column_names)}; add it, or move the "
                "file elsewhere, so that the sub-folders are the classes"
            )
    paths = [file.parent / str(name) for name in table["file_name"].to_pylist()]
    listed = {os.path.realpath(path) for path in paths}
    for path in walk(file.parent):
        if is_image_name(path) and os.path.realpath(path) not in listed:
            raise ValueError(f"{str(path)!r} is not listed in {str(file)!r}; list it, or move it elsewhere")
    table = table.drop_columns("file_name").append_column("image", pa.array(map(str, paths), pa.string()))
    return Dataset(table).cast_column("image", Image())
