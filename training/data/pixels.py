"""Images of rows as pixels, and the list of those that cannot be read."""

import json
from pathlib import Path

import fsspec
import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from randar_hf.crops import centre_square
from randar_hf.images import MAX_FILE_BYTES, open_image
from randar_hf.vq import from_levels


class TooManyBadImages(ValueError):
    """More images cannot be read than are allowed."""


def image_content(value) -> tuple[bytes | str | None, str | None]:
    """The bytes or the path in an undecoded cell of images, and the path if there is one."""
    if isinstance(value, dict):
        content, path = value["bytes"], value.get("path")
        return (path if content is None else content), path
    return value, (value if isinstance(value, str) else None)


def read_image(content: bytes | str | None, repository: str | None = None) -> Image.Image:
    """The image in a cell, as upright 8-bit RGB.

    Args:
        content: the bytes, or the path of a regular file.
        repository: a data set on the Hub that is streamed: of addresses, those of its own files alone are read.

    Raises:
        ValueError: there is none, or it cannot be read.
        FileNotFoundError: the file is not there.
    """
    if content is None:
        raise ValueError("there is no image")
    if isinstance(content, str) and "://" in content:
        content = _read_address(content, repository)
    return open_image(content)


def _read_address(address: str, repository: str | None) -> bytes:
    """A file of a repository, or one in an archive of it, as `datasets` names them where it streams."""
    *archives, file = address.split("::")
    is_own = repository is not None and file.startswith(
        (f"hf://datasets/{repository}@", f"hf://datasets/{repository}/")
    )
    if not is_own or not all(archive.startswith("zip://") for archive in archives):
        raise ValueError(f"{address!r} is an address, not a file; it is not read")
    with fsspec.open(address, "rb") as opened:
        content = opened.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{address!r} has more than 1 GiB")
    return content


def to_pixels(image: Image.Image, size: int) -> torch.Tensor:
    """The centred square of an image, `size` pixels a side, as (3, size, size) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(centre_square(image, size))).permute(2, 0, 1)  # (3, size, size) uint8
    return from_levels(pixels)


class BadImages:
    """The images of a run that cannot be read: listed once each, in a file that processes share, up to a limit.

    Args:
        file: of JSON lines, which need not exist.
        limit: how many may be listed.
    """

    def __init__(self, file: Path, limit: int):
        self.file, self.limit = file, limit

    def names(self) -> list[str]:
        """What is listed."""
        if not self.file.is_file():
            return []
        return list(dict.fromkeys(json.loads(line)["id"] for line in self.file.read_text().splitlines()))

    def add(self, name: str, error: Exception) -> None:
        """List an image.

        Raises:
            TooManyBadImages: the list is longer than allowed.
        """
        reason = " ".join(str(error).split())
        listed = self.names()
        if name not in listed:
            listed.append(name)
            with open(self.file, "a") as file:
                file.write(json.dumps({"id": name, "reason": f"{type(error).__name__}: {reason}"}) + "\n")
        if len(listed) > self.limit:
            raise TooManyBadImages(
                f"`max_bad_images` must be at least the images that cannot be read, got {self.limit} and "
                f"{len(listed)} of them, the last one ({name}) because {reason}; they are listed in {self.file}"
            )


class PixelRows(torch.utils.data.Dataset):
    """Images as `pixels`, (3, size, size) in [-1, 1]; for one that cannot be read the next one that can.

    Args:
        rows: a data set, as `undecoded` gives it.
        image_column: column of its images.
        size: pixels per side.
        bad: where to list those that cannot be read.
    """

    def __init__(self, rows: Dataset, image_column: str, size: int, bad: BadImages):
        self.rows, self.column, self.size, self.bad = rows, image_column, size, bad

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The pixels of a row.

        Raises:
            TooManyBadImages: more images cannot be read than are allowed, or none can.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        for number in (*range(index, len(self)), *range(index)):
            content, path = image_content(self.rows[number][self.column])
            try:
                return {"pixels": to_pixels(read_image(content), self.size)}
            except (ValueError, OSError) as error:
                self.bad.add(path or f"row {number}", error)
        raise TooManyBadImages(f"`dataset` must hold an image that can be read, got none; see {self.bad.file}")
