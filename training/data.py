"""Reading rows: a data set's Hub name, a folder of pictures, or parquet files, with one set of error messages."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import torch
from datasets import ClassLabel, Dataset, Image, Value, load_dataset
from datasets.exceptions import DatasetNotFoundError
from PIL import Image as PILImage
from PIL import ImageOps


class MissingDataError(FileNotFoundError, ValueError):
    """The data that an argument names is not there."""


def load_rows(dataset: str, split: str, dataset_config: str | None = None, argument: str = "dataset") -> Dataset:
    """Load one split of a data set.

    Args:
        dataset: a folder with parquet files, a folder of pictures (one sub-folder per class), a parquet file, or any
            name that `datasets.load_dataset` knows.
        split: name of the split; a lone folder or file is the split `"train"`.
        dataset_config: name of a configuration of a data set on the Hub.
        argument: what the caller calls `dataset`, for messages.

    Returns:
        The rows, memory-mapped.

    Raises:
        MissingDataError: (a `FileNotFoundError` and a `ValueError`) there is no such folder, file or data set.
        ValueError: the data set has no such split.
    """
    path = Path(dataset).expanduser()
    try:
        if path.is_dir():
            kind = "parquet" if any(path.rglob("*.parquet")) else "imagefolder"
            return load_dataset(kind, data_dir=str(path), split=split)
        if path.is_file():
            return load_dataset("parquet", data_files=str(path), split=split)
        if dataset.startswith(("/", ".", "~")) or dataset.endswith(("/", ".parquet")) or dataset.count("/") > 1:
            raise MissingDataError(f"`{argument}`: there is no folder or file {dataset!r}")
        return load_dataset(dataset, dataset_config, split=split)
    except MissingDataError:
        raise
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise MissingDataError(
            f"`{argument}`: {dataset!r} is no folder or parquet file with data here, nor a data set to load: {error}"
        ) from error
    except ValueError as error:
        raise ValueError(f"`{argument}`: {dataset!r} with split {split!r} cannot be loaded: {error}") from error


def check_column(rows: Dataset, argument: str, column: str) -> None:
    """Raise a `ValueError` that names `argument`, the column asked for and those that exist, if it is not there."""
    if column not in rows.column_names:
        raise ValueError(
            f"`{argument}`: there is no column {column!r}; the columns are {', '.join(rows.column_names)}"
        )


def label_names(rows: Dataset, column: str) -> list[str]:
    """Names of the classes of a label column: those of its `ClassLabel`, or the numbers as text.

    Raises:
        ValueError: the column is not there, or holds neither a `ClassLabel` nor whole numbers from 0.
    """
    check_column(rows, "label_column", column)
    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    if not (isinstance(feature, Value) and "int" in feature.dtype):
        raise ValueError(f"`label_column`: {column!r} holds {feature}; whole numbers or a ClassLabel are needed")
    labels = np.asarray(rows.with_format("numpy")[column][:])
    if labels.min() < 0:
        raise ValueError(f"`label_column`: {column!r} holds {labels.min()}; labels start at 0")
    return [str(label) for label in range(labels.max() + 1)]


def to_pixels(image: PILImage.Image, size: int) -> torch.Tensor:
    """Cut out the largest centred square, scale it to `size` pixels and return it as (3, size, size) in [-1, 1]."""
    square = ImageOps.fit(image.convert("RGB"), (size, size), method=PILImage.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)  # (3, size, size) uint8
    return pixels.float() / 127.5 - 1


def _pixel_rows(rows: dict, image_column: str, size: int) -> dict:
    return {"pixels": [to_pixels(image, size) for image in rows[image_column]]}


def pixel_dataset(rows: Dataset, image_column: str, size: int) -> Dataset:
    """Rows whose only entry is `pixels`, (3, size, size) in [-1, 1], made when a row is read.

    Raises:
        ValueError: the column is not there or holds no pictures.
    """
    check_column(rows, "image_column", image_column)
    pictures = rows.select_columns([image_column])
    if not isinstance(rows.features[image_column], Image):
        try:
            pictures = pictures.cast_column(image_column, Image())
        except (TypeError, ValueError, pyarrow.ArrowException) as error:
            feature = rows.features[image_column]
            raise ValueError(f"`image_column`: {image_column!r} holds {feature}, no pictures") from error
    return pictures.with_transform(partial(_pixel_rows, image_column=image_column, size=size))
