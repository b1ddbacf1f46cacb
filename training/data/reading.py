"""Reading rows: a data set's Hub name, folders or files of images, with one set of error messages."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import torch
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Image,
    IterableDataset,
    Value,
    load_dataset,
    load_from_disk,
)
from datasets.data_files import SPLIT_KEYWORDS
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from PIL import Image as PILImage

from randar_hf.checks import is_path
from randar_hf.crops import centre_square


SPLIT_FOLDERS = {word for words in SPLIT_KEYWORDS.values() for word in words}


class MissingDataError(FileNotFoundError, ValueError):
    """The data that an argument names is not there."""


def load_rows(
    dataset: str,
    split: str,
    dataset_config: str | None = None,
    argument: str = "dataset",
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Load one split of a data set.

    Args:
        dataset: a folder of images (one sub-folder per class), of parquet files or of webdataset tars; a parquet or
            tar file, or a pattern of such, as `"shards/*.tar"`; a folder that `Dataset.save_to_disk` wrote; or any
            name that `datasets.load_dataset` knows.
        split: name of the split; a lone folder or file is the split `"train"`.
        dataset_config: name of a configuration of a data set on the Hub.
        argument: what the caller calls `dataset`, for messages.
        streaming: read the rows one after another, without preparing or downloading the data set before.

    Returns:
        The rows, memory-mapped, or an `IterableDataset` for `streaming`.

    Raises:
        MissingDataError: (a `FileNotFoundError` and a `ValueError`) there is no such folder, file or data set.
        ValueError: the data set has no such split, or its tokens are not complete.
    """
    path = Path(dataset).expanduser()
    try:
        if path.is_dir():
            _check_complete(path, split, argument)
            return _load_folder(path, split, streaming)
        if path.is_file() or "*" in dataset:
            kind = "webdataset" if path.suffix == ".tar" else "parquet"
            return load_dataset(kind, data_files=os.path.expanduser(dataset), split=split, streaming=streaming)
        if is_path(dataset) or dataset.endswith((".parquet", ".tar")):
            raise MissingDataError(f"`{argument}`: there is no folder or file {dataset!r}")
        return load_dataset(dataset, dataset_config, split=split, streaming=streaming)
    except MissingDataError:
        raise
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise MissingDataError(
            f"`{argument}`: {dataset!r} is no folder or parquet file with data here, nor a data set to load: {error}"
        ) from error
    except (ValueError, DatasetGenerationError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"`{argument}`: {dataset!r} with split {split!r} cannot be loaded: {reason}") from error


def _load_folder(path: Path, split: str, streaming: bool) -> Dataset | IterableDataset:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = load_from_disk(str(path))
        splits = saved if isinstance(saved, DatasetDict) else {"train": saved}
        if split not in splits:
            raise ValueError(f"its splits are {', '.join(splits)}")
        return splits[split]
    suffixes = {file.suffix for file in path.rglob("*") if not is_hidden(file, path)}
    if ".parquet" in suffixes or ".tar" in suffixes:
        kind = "parquet" if ".parquet" in suffixes else "webdataset"
        return load_dataset(kind, data_dir=str(path), split=split, streaming=streaming)
    drop_labels = False if class_folders(path) else None  # keep the label of a lone class too
    return load_dataset("imagefolder", data_dir=str(path), split=split, streaming=streaming, drop_labels=drop_labels)


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether a file lies below a name that begins with a dot, seen from `folder`."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def class_folders(path: Path) -> list[str]:
    """Sorted names of the classes of a folder of images, empty ones included; none where the images lie loose.

    The classes are the sub-folders of `train`, `validation` and other splits, or those of `path` if it has no splits.
    """
    folders = [folder for folder in path.iterdir() if folder.is_dir() and not is_hidden(folder, path)]
    if splits := [folder for folder in folders if folder.name in SPLIT_FOLDERS]:
        folders = [folder for split in splits for folder in split.iterdir() if folder.is_dir()]
    return sorted({folder.name for folder in folders if not folder.name.startswith(".")})


def split_name(split: str) -> str:
    """The name of a split without what is cut from it, as in `"train[:90%]"`."""
    return split.split("[")[0]


def work_folder(folder: Path, split: str) -> Path:
    """Where the tokens of a split are written before they are complete, and where their state is noted."""
    return folder / f".{split_name(split)}"


def _check_complete(path: Path, split: str, argument: str) -> None:
    state = work_folder(path, split) / "state.json"
    if state.is_file() and not json.loads(state.read_text())["finished"]:
        raise ValueError("the tokens are not complete; give the `tokenize` command again, which goes on with them")


def check_column(rows: Dataset, argument: str, column: str) -> None:
    """Raise a `ValueError` that names `argument`, the column asked for and those that exist, if it is not there."""
    if column not in rows.column_names:
        raise ValueError(
            f"`{argument}`: there is no column {column!r}; the columns are {', '.join(rows.column_names)}"
        )


def class_feature(rows: Dataset | IterableDataset, column: str) -> ClassLabel | Value:
    """What the labels of a column are as numbers: a `ClassLabel`, of sorted names for texts, or numbers as they are.

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
        raise ValueError(
            f"`label_column`: {column!r} holds {feature}; whole numbers, texts or a ClassLabel are needed"
        )
    if isinstance(rows, IterableDataset):
        raise ValueError(
            f"`label_column`: {column!r} holds texts, and all of them must be known to number them; do not stream them"
        )
    names = rows.unique(column)
    if None in names:
        raise ValueError(f"`label_column`: {column!r} lacks the label of a row")
    return ClassLabel(names=sorted(names))


def is_whole(feature) -> bool:
    """Whether a column holds whole numbers."""
    return isinstance(feature, Value) and "int" in feature.dtype


def to_pixels(image: PILImage.Image, size: int) -> torch.Tensor:
    """The centred square of an image, `size` pixels a side, as (3, size, size) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(centre_square(image, size))).permute(2, 0, 1)  # (3, size, size) uint8
    return pixels.float() / 127.5 - 1


def _pixel_rows(rows: dict, image_column: str, size: int) -> dict:
    return {"pixels": [to_pixels(image, size) for image in rows[image_column]]}


def pixel_dataset(rows: Dataset, image_column: str, size: int) -> Dataset:
    """Rows whose only entry is `pixels`, (3, size, size) in [-1, 1], made when a row is read.

    Raises:
        ValueError: the column is not there or holds no images.
    """
    check_column(rows, "image_column", image_column)
    images = rows.select_columns([image_column])
    if not isinstance(rows.features[image_column], Image):
        try:
            images = images.cast_column(image_column, Image())
        except (TypeError, ValueError, pyarrow.ArrowException) as error:
            feature = rows.features[image_column]
            raise ValueError(f"`image_column`: {image_column!r} holds {feature}, no images") from error
    return images.with_transform(partial(_pixel_rows, image_column=image_column, size=size))
