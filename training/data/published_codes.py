"""Tokens in the files that the authors of RandAR, LlamaGen and RAR publish, as `tokenize` wants its rows."""

import json
import tarfile
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from datasets import Value
from diffusers import VQModel

from .image_rows import SourceRow
from .reading import MissingDataError
from .token_files import square_grid, token_settings
from .token_writer import TokenSchema


def read_randar_codes(path: Path) -> Iterator[SourceRow]:
    """Rows of RandAR's `imagenet-*_codes.tar`, in its order, or of the folder that was unpacked from it, by number.

    An image is `CLASS/NUMBER.npy` in a folder of any name, (A, N) whole numbers.

    Raises:
        ValueError: the archive is cut off, or the folder of a class is not named by its number.
    """
    if path.is_dir():
        roots = {file.parent.parent for file in path.glob("**/*.npy")}
        if len(roots) != 1:
            raise ValueError(f"`dataset` must hold folders of .npy files named by their class, got {str(path)!r}")
        for folder in sorted(roots.pop().iterdir(), key=_class_number):
            for file in sorted(folder.glob("*.npy"), key=lambda file: int(file.stem)):
                yield SourceRow(file, _class_number(folder), str(file.relative_to(path)))
        return
    try:
        with tarfile.open(path) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # or the archive remembers all of its million files
                if member.isfile() and member.name.endswith(".npy"):
                    content = archive.extractfile(member).read()
                    yield SourceRow(content, _class_number(Path(member.name).parent), member.name)
    except tarfile.ReadError as error:
        raise ValueError(f"`dataset` must be a whole archive, got {str(path)!r}: {error}") from error


def _class_number(folder: Path) -> int:
    if not folder.name.isdecimal():
        raise ValueError(f"`dataset` must hold folders named by the number of their class, got {str(folder)!r}")
    return int(folder.name)


def read_llamagen_codes(path: Path) -> Iterator[SourceRow]:
    """Rows of LlamaGen's folders `*_codes` and `*_labels`, by number.

    An image is `NUMBER.npy` in both, (1, A, N) and (1,) whole numbers. As in LlamaGen's own data set, a folder
    `..._ten_crop` with a `..._ten_crop_105` beside it stands for both: an image then has the crops of the two.

    Raises:
        ValueError: there are no such folders, or an image without its label.
    """
    codes, labels = _llamagen_folders(path)
    second = path.with_name(path.name + "_105")
    has_second = path.name.endswith("ten_crop") and second.is_dir()
    folders = [codes, _llamagen_folders(second)[0]] if has_second else [codes]
    for file in sorted(codes.glob("*.npy"), key=lambda file: int(file.stem)):
        if not (label := labels / file.name).is_file():
            raise ValueError(f"`dataset` must hold labels beside codes, found no {str(label)!r} for {str(file)!r}")
        yield SourceRow([folder / file.name for folder in folders], int(np.load(label).item()), file.name)


def _llamagen_folders(path: Path) -> tuple[Path, Path]:
    """The folders of codes and of labels in `path`."""
    codes = sorted(path.glob("*_codes"))
    labels = codes and codes[0].with_name(codes[0].name.removesuffix("_codes") + "_labels")
    if len(codes) != 1 or not labels.is_dir():
        raise ValueError(f"`dataset` must hold one folder *_codes, and *_labels beside it, got {str(path)!r}")
    return codes[0], labels


def read_rar_codes(path: Path) -> Iterator[SourceRow]:
    """Rows of RAR's JSON lines, each one crop: `{"class_id": int, "tokens": [N ints]}`."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield SourceRow(line, None, f"line {number}")


READERS = {"randar": read_randar_codes, "llamagen": read_llamagen_codes, "rar": read_rar_codes}


class CodeRows:
    """The rows of published token files, in one part; with the methods of `ImageRows`.

    Args:
        config: a `TokenizingConfig`.
        vqvae: the tokenizer that the tokens belong to.

    Raises:
        ValueError: there is no such file, or its first row is no square of tokens.
    """

    num_parts = 1

    def __init__(self, config, vqvae: VQModel):
        self.reader, self.path = READERS[config.published_codes], Path(config.dataset).expanduser()
        if not self.path.exists():
            raise MissingDataError(f"`dataset` must be a folder or file, found none at {config.dataset!r}")
        first = next(self.reader(self.path), None)
        if first is None:
            raise ValueError(
                f"`dataset` must hold tokens as {config.published_codes!r} lays them out, found none in "
                f"{config.dataset!r}"
            )
        self.shape = _codes(first)[1].shape  # (A, N)
        settings = token_settings(vqvae, *square_grid(self.shape[1]))
        self.schema = TokenSchema(settings=settings, num_crops=self.shape[0], label=Value("int64"))

    @property
    def settings(self) -> dict:
        """What the source tells about itself, and must still tell when a stopped run goes on."""
        return {"crops_and_tokens": list(self.shape)}

    def part_length(self, part: int) -> None:
        """Unknown before the files are read."""

    def position(self, part: int, row: int) -> dict:
        """Where a user finds a row: its number."""
        return {"row": row}

    def read(self, part: int, start: int) -> Iterator[SourceRow]:
        """The rows from the row `start` on."""
        return islice(self.reader(self.path), start, None)

    def load(self, row: SourceRow) -> tuple[int, np.ndarray]:
        """Label and tokens (A, N) of a row.

        Raises:
            Exception: of any kind if the row cannot be read.
        """
        label, codes = _codes(row)
        if codes.shape != self.shape:
            raise ValueError(f"its shape is {codes.shape}, that of the first row is {self.shape}")
        return label, codes

    def encode(self, codes: list[np.ndarray]) -> np.ndarray:
        """Tokens (B, A, N), checked.

        Raises:
            ValueError: the tokenizer has no such codes.
        """
        tokens, limit = np.stack(codes), self.schema.settings.vocab_size
        if tokens.min() < 0 or tokens.max() >= limit:
            raise ValueError(
                f"`tokenizer` must have the codes of all tokens, got {limit} for {tokens.min()} to {tokens.max()}"
            )
        return tokens


def _codes(row: SourceRow) -> tuple[int, np.ndarray]:
    """Label and tokens (A, N) of a row of any of the layouts."""
    if row.label is None:
        entry = json.loads(row.content)
        label, arrays = entry["class_id"], [np.asarray(entry["tokens"])]
    else:
        sources = row.content if isinstance(row.content, list) else [row.content]
        arrays = [np.load(BytesIO(source) if isinstance(source, bytes) else source) for source in sources]
        label = row.label
    codes = np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])
    if codes.dtype.kind not in "iu" or codes.size == 0:
        raise ValueError(f"its tokens are {codes.dtype}, not whole numbers")
    return label, codes
