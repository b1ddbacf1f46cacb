"""Reading rows: a data set's Hub name, folders or files of images, with one set of error messages."""

import glob
import json
import os
from pathlib import Path

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Image,
    IterableDataset,
    Value,
    get_dataset_split_names,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetNotFoundError

from randar_hf.checks import is_path

from .archives import archive_splits
from .image_folders import is_image_name, load_image_folder, slice_rows, split_folders, split_name, walk


KINDS = {".parquet": "parquet", ".tar": "webdataset"}
PACKED = (".zip", ".tgz", ".gz", ".7z", ".rar")


class MissingDataError(FileNotFoundError, ValueError):
    """The data that an argument names is not there."""


def load_rows(
    dataset: str,
    split: str,
    dataset_config: str | None = None,
    streaming: bool = False,
    label_column: str | None = None,
) -> Dataset | IterableDataset:
    """Load one split of a data set.

    Args:
        dataset: a folder of images (one sub-folder per class), of parquet files or of webdataset tars; a parquet or
            tar file, or a pattern of such, as `"shards/*.tar"`; a folder that `Dataset.save_to_disk` wrote; or any
            name that `datasets.load_dataset` knows.
        split: name of the split; a lone folder or file is the split `"train"`.
        dataset_config: name of a configuration of a data set on the Hub.
        streaming: read the rows one after another, without preparing or downloading the data set before.
        label_column: a column that a folder of images must have.

    Returns:
        The rows, memory-mapped, or an `IterableDataset` for `streaming`.

    Raises:
        MissingDataError: (a `FileNotFoundError` and a `ValueError`) there is no such folder, file or data set.
        ValueError: the data set has no such split, or its tokens are not complete.
    """
    path = Path(dataset).expanduser()
    try:
        if path.is_dir():
            _check_complete(path, split)
            return _load_folder(path, split, streaming, label_column)
        if path.is_file() or "*" in dataset:
            pattern = glob.escape(str(path)) if path.is_file() else os.path.expanduser(dataset)
            kind = KINDS.get(path.suffix, "parquet")
            return load_dataset(kind, data_files=pattern, split=split, streaming=streaming)
        if is_path(dataset) or dataset.endswith((".parquet", ".tar")):
            raise MissingDataError(f"`dataset` must be a folder or file, found none at {dataset!r}")
        return load_dataset(dataset, dataset_config, split=split, streaming=streaming)
    except MissingDataError:
        raise
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise MissingDataError(
            f"`dataset` must be a folder or file with data, or the name of a data set, got {dataset!r}: {error}"
        ) from error
    except Exception as error:  # the readers of formats raise errors of many kinds
        reason = error.__cause__ or error
        raise ValueError(
            f"`dataset` must be data that can be loaded, got {dataset!r} with split {split!r}: {reason}"
        ) from error


def _load_folder(path: Path, split: str, streaming: bool, label_column: str | None) -> Dataset | IterableDataset:
    if _is_saved(path):
        splits = _load_saved(path)
        if split_name(split) not in splits:
            raise ValueError(f"its splits are {', '.join(splits)}")
        return slice_rows(splits[split_name(split)], split)
    archives = _archives(path)
    if not archives:
        return load_image_folder(path, split, label_column)
    splits = archive_splits(path, archives)
    if split_name(split) not in splits:
        raise ValueError(f"its splits are {', '.join(splits)}")
    files = [glob.escape(str(file)) for file in splits[split_name(split)]]
    kind = KINDS[archives[0].suffix]
    return load_dataset(kind, data_files={split_name(split): files}, split=split, streaming=streaming)


def split_names(dataset: str, dataset_config: str | None = None) -> list[str]:
    """The splits of a data set that `load_rows` loads; a lone file or pattern is the split `"train"`."""
    path = Path(dataset).expanduser()
    if not path.is_dir():
        is_file = path.is_file() or "*" in dataset
        return ["train"] if is_file else get_dataset_split_names(dataset, dataset_config)
    if _is_saved(path):
        return list(_load_saved(path))
    archives = _archives(path)
    return list(archive_splits(path, archives) if archives else split_folders(path))


def _is_saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _load_saved(path: Path) -> DatasetDict:
    saved = load_from_disk(str(path))
    return saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved)


def _archives(path: Path) -> list[Path]:
    """The files of rows in a folder, all of them parquet files or all tars; none in a folder of images.

    Raises:
        ValueError: files of several kinds lie in it.
    """
    kinds = {}
    for file in walk(path):
        kind = file.suffix if file.suffix in KINDS or file.suffix in PACKED else "images" * is_image_name(file)
        if not file.name.startswith("metadata."):
            kinds.setdefault(kind, []).append(file)
    kinds.pop("", None)
    packed = [kind for kind in kinds if kind in PACKED]
    if packed:
        raise ValueError(f"it holds {str(kinds[packed[0]][0])!r}, which is not read; unpack it, or move it elsewhere")
    if len(kinds) > 1:
        first, second = (files[0] for files in list(kinds.values())[:2])
        raise ValueError(f"it holds {str(first)!r} beside {str(second)!r}; move those that are not meant elsewhere")
    return [] if "images" in kinds or not kinds else next(iter(kinds.values()))


def work_folder(folder: Path, split: str) -> Path:
    """Where the tokens of a split are written before they are complete, and where their state is noted."""
    return folder / f".{split_name(split)}"


def _check_complete(path: Path, split: str) -> None:
    state = work_folder(path, split) / "state.json"
    if state.is_file() and not json.loads(state.read_text())["finished"]:
        raise ValueError("the tokens are not complete; give the `tokenize` command again, which goes on with them")


def check_column(rows: Dataset, argument: str, column: str) -> None:
    """Raise a `ValueError` that names `argument`, the column asked for and those that exist, if it is not there."""
    if column not in rows.column_names:
        raise ValueError(f"`{argument}` must be one of {', '.join(rows.column_names)}, got {column!r}")


def class_feature(rows: Dataset | IterableDataset, column: str) -> ClassLabel | Value | None:
    """What the labels of a column are as numbers: a `ClassLabel`, or numbers as they are; None for texts.

    Raises:
        ValueError: the column is not there, or holds something else, or texts that are streamed.
    """
    check_column(rows, "label_column", column)
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        return feature
    if is_whole(feature):
        return Value("int64")
    if not (isinstance(feature, Value) and "string" in feature.dtype):
        raise ValueError(f"`label_column` must hold whole numbers, texts or a ClassLabel, got {feature} in {column!r}")
    if isinstance(rows, IterableDataset):
        raise ValueError(
            f"`label_column` must hold numbers to be streamed, got texts in {column!r}, which are numbered when all "
            "are known; do not stream them"
        )
    return None


def is_whole(feature) -> bool:
    """Whether a column holds whole numbers."""
    return isinstance(feature, Value) and "int" in feature.dtype


def number_texts(dataset: str, dataset_config: str | None, column: str) -> ClassLabel:
    """The numbers of labels that are texts, the same for all splits of a data set: sorted by name.

    Raises:
        ValueError: a row has no label, or a split has no such column.
    """
    names = set()
    for split in split_names(dataset, dataset_config):
        rows = load_rows(dataset, split, dataset_config)
        check_column(rows, "label_column", column)
        names |= set(rows.unique(column))
    if None in names:
        raise ValueError(f"`label_column` must have a label in every row, got none in a row of {column!r}")
    return ClassLabel(names=sorted(names))


def undecoded(rows: Dataset | IterableDataset, image_column: str, *others: str):
    """The columns that are needed, with images as bytes or paths.

    Raises:
        ValueError: the column is not there or holds no images.
    """
    check_column(rows, "image_column", image_column)
    feature = rows.features[image_column]
    rows = rows.select_columns([name for name in (image_column, *others) if name in rows.column_names])
    if isinstance(feature, Image):
        return rows.cast_column(image_column, Image(decode=False))
    is_struct = isinstance(feature, dict) and "bytes" in feature
    if not is_struct and not (isinstance(feature, Value) and ("binary" in feature.dtype or "string" in feature.dtype)):
        raise ValueError(f"`image_column` must hold images, got {feature} in {image_column!r}")
    return rows
