"""Sets of images to evaluate: folders, the array files of the ADM evaluator, data sets; read one after another."""

import hashlib
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from randar_hf.checks import check_int
from randar_hf.crops import centre_square
from randar_hf.extras import missing_package
from randar_hf.images import open_image, read_header


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SETTINGS_FILE, LABELS_FILE = "settings.json", "labels.txt"  # of a folder of `randar-hf sample`


@dataclass
class ImageSet:
    """
    Images that are read when they are needed.

    Attributes:
        name (`str`): where they come from.
        argument (`str`): the argument that gave them, for messages.
        sha256 (`str`): hash of the files, or the fingerprint of a data set.
        count (`int`): images.
        read (`Callable`): from an index to a PIL image or an array (height, width, 3).
        labels (`list` or `None`): the class of each image, where it is known.
        class_names (`list[str]` or `None`): names of the classes 0, 1, ... where the labels are ids.
        settings (`dict`): what the images were sampled with, where a file beside them tells.
        crop (`int` or `None`): side of the centred square that is cut; `None` takes images of one size as they are.
    """

    name: str
    argument: str
    sha256: str
    count: int
    read: Callable[[int], Any]
    labels: list | None = None
    class_names: list[str] | None = None
    settings: dict = field(default_factory=dict)
    crop: int | None = None

    def batch(self, indices: range | list[int]) -> torch.Tensor:
        """
        Images as a uint8 tensor (b, 3, H, W).

        Raises:
            ValueError: for an image that cannot be read, is not RGB, or has another size than the first of the set.
        """
        pixels = [self._pixels(index) for index in indices]
        for index, image in zip(indices, pixels, strict=True):
            if image.shape[:2] != self._size:
                sizes = " and ".join(f"{width} x {height}" for height, width in (self._size, image.shape[:2]))
                raise ValueError(f"`{self.argument}` must hold images of one size, got {sizes} (number {index}).")
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Height and width of the first image, which all others have."""
        return self._pixels(0).shape[:2]

    def class_balance(self) -> dict | None:
        """How many classes there are, and the images of the rarest and of the most frequent one."""
        if self.labels is None:
            return None
        counts = Counter(self.labels).values()
        return {"classes": len(counts), "fewest": min(counts), "most": max(counts)}

    def _pixels(self, index: int) -> np.ndarray:
        try:
            image = self.read(index)
            if self.crop is not None:
                image = centre_square(Image.fromarray(image) if isinstance(image, np.ndarray) else image, self.crop)
            pixels = np.array(image)  # a copy, decoded
        except (OSError, UnidentifiedImageError, ValueError, zlib.error, zipfile.BadZipFile) as error:
            message = (
                f"`{self.argument}` must hold images that can be read, got number {index} of {self.name}: {error}"
            )
            raise ValueError(message) from error
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            kind = f"{image.mode} of {image.size}" if isinstance(image, Image.Image) else f"{pixels.dtype}"
            raise ValueError(f"`{self.argument}` must hold RGB images of 8 bits, got {kind} (number {index}).")
        return pixels


def open_images(
    argument: str,
    source: str | os.PathLike,
    crop: int | None = None,
    split: str = "train",
    image_column: str = "image",
    label_column: str = "label",
) -> ImageSet:
    """
    Open a set of images.

    Args:
        argument (`str`): what the caller calls `source`, for messages.
        source (`str`): a folder of images, whose sub-folders, if any, are the classes; that of `randar-hf sample`; an
            npz file with `arr_0`, uint8 (n, height, width, 3), and perhaps the classes as `arr_1`; a parquet file or a
            folder of such, or a name for `datasets.load_dataset`.
        crop (`int`, *optional*): side of the centred square that is cut of each image, as in ADM; without it all
            images must be RGB and of one size.
        split, image_column, label_column (`str`): where images and labels lie in a data set.

    Raises:
        FileNotFoundError: if there is no such thing.
        ValueError: if it holds no images, or cannot be read.
    """
    if crop is not None:
        check_int("crop", crop, 1)
    path = Path(source).expanduser()
    if path.is_dir():
        sampled = (path / SETTINGS_FILE).is_file() and (path / "images").is_dir()
        if not sampled and any(path.rglob("*.parquet")):
            return _open_dataset(argument, source, crop, split, image_column, label_column)
        return _open_folder(argument, path, crop, sampled)
    if path.suffix == ".npz":
        if not path.is_file():
            raise FileNotFoundError(f"`{argument}` must be an npz file that exists, got {str(path)!r}.")
        return _open_array(argument, path, crop)
    if path.exists() and path.suffix != ".parquet":
        raise ValueError(f"`{argument}` must be a folder, an npz file or a data set, got the file {str(path)!r}.")
    return _open_dataset(argument, source, crop, split, image_column, label_column)


def hash_files(files: list[Path], base: Path | None = None) -> str:
    """SHA-256 of files, in their order, and of their names below a folder."""
    digest = hashlib.sha256()
    for file in files:
        if base is not None:
            digest.update(f"{file.relative_to(base).as_posix()}\0".encode())
        digest.update(bytes.fromhex(hash_file(file)))
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _open_folder(argument: str, path: Path, crop: int | None, sampled: bool) -> ImageSet:
    base = path / "images" if sampled else path
    files = sorted(
        file
        for file in base.rglob("*")
        if file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in file.relative_to(base).parts)
    )
    if not files:
        raise ValueError(f"`{argument}` must hold images ({', '.join(SUFFIXES)}), got none in {str(path)!r}.")
    if crop is None:
        _check_headers(argument, files)
    labels, class_names, settings = None, None, {}
    if sampled:
        settings = read_settings(argument, path / SETTINGS_FILE)
        if (path / LABELS_FILE).is_file():
            labels = [int(line) for line in (path / LABELS_FILE).read_text().split()]
            if len(labels) != len(files):
                raise ValueError(f"`{argument}` must be complete, got {len(files)} of {len(labels)} images.")
    elif all(file.parent != base for file in files):
        folders = [file.relative_to(base).parts[0] for file in files]
        class_names = sorted(set(folders))
        labels = [class_names.index(name) for name in folders]
    return ImageSet(
        name=str(path),
        argument=argument,
        sha256=hash_files(files, base),
        count=len(files),
        read=lambda index: open_image(files[index]),
        labels=labels,
        class_names=class_names,
        settings=settings,
        crop=crop,
    )


def _check_headers(argument: str, files: list[Path]) -> None:
    """Raise a `ValueError` unless all files hold RGB images of one size, which their first bytes tell."""
    first = None
    for file in files:
        try:
            mode, size = read_header(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"`{argument}` must hold images that can be read: {error}") from error
        first = first or size
        if mode != "RGB" or size != first:
            found = f"{mode} in" if mode != "RGB" else f"{first[0]} x {first[1]} and {size[0]} x {size[1]} in"
            raise ValueError(
                f"`{argument}` must hold RGB images of one size, got {found} {str(file)!r}; a crop makes them so."
            )


def read_settings(argument: str, path: Path) -> dict:
    """What a folder of samples was made with; raises a `ValueError` for a file that cannot be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{argument}` must hold a {path.name} that can be read, got {str(path)!r}: {error}"
        ) from error


class _ArrayReader:
    """Images of an array in a zip file, which need not fit into memory; fast where they are read in their order."""

    def __init__(self, argument: str, path: Path):
        try:
            self.archive = zipfile.ZipFile(path)
            if "arr_0.npy" not in self.archive.namelist():
                raise ValueError(f"`{argument}` must be an npz file with `arr_0`, got {self.archive.namelist()}.")
            self.file = self.archive.open("arr_0.npy")
            version = np.lib.format.read_magic(self.file)
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            self.shape, fortran_order, dtype = read_header(self.file)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise ValueError(f"`{argument}` must be a whole npz file, got {str(path)!r}: {error}") from error
        if dtype != np.uint8 or len(self.shape) != 4 or self.shape[3] != 3 or fortran_order or 0 in self.shape:
            raise ValueError(
                f"`{argument}` must hold `arr_0` of uint8 and the shape (images, height, width, 3), "
                f"got {dtype} of {self.shape}."
            )
        self.start = self.file.tell()

    def __call__(self, index: int) -> np.ndarray:
        size = int(np.prod(self.shape[1:]))
        self.file.seek(self.start + index * size)
        content = self.file.read(size)
        if len(content) < size:
            raise ValueError("the file ends before it")
        return np.frombuffer(content, np.uint8).reshape(self.shape[1:])


def _open_array(argument: str, path: Path, crop: int | None) -> ImageSet:
    reader = _ArrayReader(argument, path)
    labels = read_arrays(argument, path, ["arr_1"]).get("arr_1")
    if labels is not None and len(labels) != reader.shape[0]:
        raise ValueError(
            f"`{argument}` must have a class in `arr_1` for each of {reader.shape[0]} images, got {len(labels)}."
        )
    settings = path.parent / SETTINGS_FILE
    return ImageSet(
        name=str(path),
        argument=argument,
        sha256=hash_file(path),
        count=reader.shape[0],
        read=reader,
        labels=None if labels is None else labels.tolist(),
        settings=read_settings(argument, settings) if settings.is_file() else {},
        crop=crop,
    )


def read_arrays(argument: str, path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """
    Those of the named arrays that an npz file has; nothing that is pickled is loaded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut, or an array is pickled.
    """
    with _open_npz(argument, path) as file:
        return {name: file[name] for name in names if name in file.files}


def list_arrays(argument: str, path: Path) -> list[str]:
    """The names of an npz file's arrays, none of which is read; raises as [`read_arrays`] does."""
    with _open_npz(argument, path) as file:
        return list(file.files)


@contextmanager
def _open_npz(argument: str, path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    if not path.is_file():
        raise FileNotFoundError(f"`{argument}` must be an npz file that exists, got {str(path)!r}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"`{argument}` must be an npz file of numbers, got {str(path)!r}: {error}") from error


def _open_dataset(
    argument: str, source: str | os.PathLike, crop: int | None, split: str, image_column: str, label_column: str
) -> ImageSet:
    try:
        from datasets import ClassLabel, load_dataset
        from datasets import Image as ImageFeature
        from datasets.exceptions import DatasetNotFoundError
    except ModuleNotFoundError as error:
        raise ValueError(missing_package(error, "evaluation")) from error
    path = Path(source).expanduser()
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    try:
        if path.is_dir():
            rows = load_dataset("parquet", data_dir=str(path), split=split)
        elif path.is_file():
            rows = load_dataset("parquet", data_files=str(path), split="train")
        elif path.is_absolute() or str(source).count("/") > 1:
            raise FileNotFoundError(f"`{argument}` must be a folder, an npz file or a data set, got {str(source)!r}.")
        else:
            rows = load_dataset(os.fspath(source), split=split)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"`{argument}` must be a folder, an npz file or a data set, got {str(source)!r}: {error}"
        ) from error
    if image_column not in rows.column_names:
        raise ValueError(f"`image_column` must be one of {', '.join(rows.column_names)}, got {image_column!r}.")
    feature = rows.features.get(label_column)
    if not isinstance(rows.features[image_column], ImageFeature):
        rows = rows.cast_column(image_column, ImageFeature())
    images = rows.select_columns([image_column])
    return ImageSet(
        name=f"{source} ({split})",
        argument=argument,
        sha256=hash_files(files, path if path.is_dir() else None) if files else rows._fingerprint,
        count=len(rows),
        read=lambda index: images[index][image_column],
        labels=None if feature is None else list(rows[label_column]),
        class_names=list(feature.names) if isinstance(feature, ClassLabel) else None,
        crop=crop,
    )
