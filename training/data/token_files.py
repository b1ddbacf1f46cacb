"""Parquet files of token rows, and the settings of the tokenizer that travel with them."""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Dataset
from diffusers import VQModel
from safetensors import SafetensorError

from randar_hf.checks import is_int, is_path
from randar_hf.vq import pixel_range

from .crops import centre_crop
from .image_folders import walk
from .reading import MissingDataError, check_column, is_whole
from .token_checks import check_labels, check_token_feature, check_tokens, entries


SETTINGS_KEY = b"randar_hf"


@dataclass(kw_only=True)
class TokenSettings:
    """What is stored with token rows: the grid, the number of different tokens, and which tokenizer made them."""

    height: int
    width: int
    vocab_size: int
    tokenizer_hash: str
    tokenizer_config: dict | None = None  # None for tokens of before it was stored


def load_tokenizer(folder: str) -> VQModel:
    """Load a tokenizer from a folder or the Hub.

    Raises:
        MissingDataError: there is no such folder or repository.
        ValueError: its weights cannot be read, for example because the file was cut off.
    """
    if is_path(folder) and not Path(folder).is_dir():
        raise MissingDataError(f"`tokenizer` must be the folder of a tokenizer, found none at {folder!r}")
    try:
        return VQModel.from_pretrained(folder)
    except SafetensorError as error:
        raise ValueError(f"`tokenizer` must have whole weights, got damaged ones in {folder!r}: {error}") from error
    except OSError as error:
        raise MissingDataError(f"`tokenizer` must be a tokenizer, found none at {folder!r}: {error}") from error


def tokenizer_hash(vqvae: VQModel) -> str:
    """Sixteen hexadecimal digits that tell one tokenizer's weights from another's."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vqvae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenizer_config(vqvae: VQModel) -> dict:
    """What the tokens of an image depend on besides the weights."""
    names = ("act_fn", "norm_num_groups", "norm_type")
    return {name: vqvae.config[name] for name in names} | {"pixel_range": list(pixel_range(vqvae))}


def token_settings(vqvae: VQModel, height: int, width: int) -> TokenSettings:
    """The settings of tokens that `vqvae` makes, on a grid of this size.

    Raises:
        ValueError: its tokens do not fit into 16 bits.
    """
    vocab_size = vqvae.config.num_vq_embeddings
    if vocab_size > 65_536:
        raise ValueError(f"`tokenizer` must have at most 65536 codes, which fit into 16 bits, got {vocab_size}")
    return TokenSettings(
        height=height,
        width=width,
        vocab_size=vocab_size,
        tokenizer_hash=tokenizer_hash(vqvae),
        tokenizer_config=tokenizer_config(vqvae),
    )


def read_settings(dataset: str) -> TokenSettings | None:
    """The settings stored with the token files of a folder or with one file; None where there are none.

    Raises:
        ValueError: the files of the folder disagree, or hold none that can be read.
    """
    path = Path(dataset).expanduser()
    if path.is_dir():
        files = [file for file in walk(path) if file.suffix == ".parquet"]  # as rows are read
    else:
        files = [path] if path.is_file() else []
    stored = {(pq.read_schema(file).metadata or {}).get(SETTINGS_KEY) for file in files}
    if not stored - {None}:
        return None
    settings = [_parse_settings(text, dataset) if text else None for text in stored]
    configs = [one.tokenizer_config for one in settings if one and one.tokenizer_config]
    first, *others = (one and replace(one, tokenizer_config=None) for one in settings)
    if first is None or any(one != first for one in others) or any(config != configs[0] for config in configs):
        raise ValueError(f"`dataset` must hold tokens of one tokenizer, got those of several in {dataset!r}")
    return replace(first, tokenizer_config=configs[0] if configs else None)


def _parse_settings(text: bytes, dataset: str) -> TokenSettings:
    """Settings as a file holds them; raises a `ValueError` for others than `tokenize` writes."""
    try:
        found = TokenSettings(**json.loads(text))
        sizes = (found.height, found.width, found.vocab_size)
        if not all(is_int(size) and 1 <= size <= 65_536 for size in sizes) or not isinstance(
            found.tokenizer_hash, str
        ):
            raise ValueError(f"{found}")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`dataset` must hold the settings of its tokenizer as `tokenize` writes them, got others in {dataset!r}: "
            f"{error}"
        ) from error
    return found


def check_tokenizer(settings: TokenSettings | None, vqvae: VQModel) -> None:
    """Raise a `ValueError` if the tokens that `settings` belong to were made by another tokenizer."""
    if settings is None:
        return
    if settings.tokenizer_hash != (given := tokenizer_hash(vqvae)):
        raise ValueError(f"`tokenizer` must be the one that made the tokens, {settings.tokenizer_hash}, got {given}")
    stored, given = settings.tokenizer_config, tokenizer_config(vqvae)
    if stored is not None and stored != given:
        raise ValueError(
            f"`tokenizer` must be the one that made the tokens, of the same weights with {stored}, got {given}"
        )


def token_dataset(rows: Dataset, token_column: str, label_column: str, seed: int | None = None):
    """`token_tensors` of the two columns of a data set.

    Raises:
        ValueError: a column is not there, or does not hold what it should.
    """
    return token_tensors(token_columns(rows, token_column, label_column), seed)


def token_columns(rows: Dataset, token_column: str, label_column: str) -> Dataset:
    """The two columns of a data set that are trained on, checked, as `tokens` and `label`.

    Raises:
        ValueError: a column is not there, or does not hold what it should; there is no row; a label lies out of range.
    """
    check_column(rows, "token_column", token_column)
    check_column(rows, "label_column", label_column)
    feature = rows.features[label_column]
    if not isinstance(feature, ClassLabel) and not is_whole(feature):
        raise ValueError(f"`label_column` must hold whole numbers or a ClassLabel, got {feature} in {label_column!r}")
    check_token_feature(rows.features[token_column], token_column)
    if not len(rows):
        raise ValueError("`dataset` must hold at least one row, got none")
    check_labels(rows, label_column)
    rows = rows.select_columns([token_column, label_column])
    return rows.rename_columns({token_column: "tokens", label_column: "label"})


def token_tensors(rows: Dataset, seed: int | None = None):
    """Rows with `tokens` (N,) and `label`, as int64 tensors.

    Args:
        rows: of `token_columns`, of one or of several crops of each image.
        seed: of the crop that is chosen where there are several; the middle of the image without a seed.

    Returns:
        A `Dataset`, or `TokenCrops` where the rows hold several crops.
    """
    return TokenCrops(rows, seed) if has_crops(rows) else rows.with_format("torch")


def has_crops(rows: Dataset) -> bool:
    """Whether the tokens of a row are those of several crops, (A, N)."""
    return entries(entries(rows.features["tokens"])) is not None


def grid_of_rows(rows: Dataset, settings: TokenSettings | None) -> tuple[int, int]:
    """Rows and columns of the grid that the tokens of an image lie on: as stored with them, or square.

    Raises:
        ValueError: it is not stored, and rows hold lists of lists, or do not form a square.
    """
    if settings is not None:
        return settings.height, settings.width
    first = rows[0]["tokens"]
    if has_crops(rows):
        raise ValueError(
            "`token_column` must hold one flat list of tokens in each row, in raster order, got lists of lists: crops "
            "are known as such in the files of `randar-hf tokenize` alone"
        )
    return square_grid(len(first))


def check_codes(rows: Dataset, column: str, grid: tuple[int, int], vocab_size: int) -> None:
    """Raise a `ValueError`, which names the column, unless rows are tokens (N,) or (A, N) of a grid and a codebook."""
    num_crops = len(rows[0]["tokens"]) if has_crops(rows) else None
    check_tokens(rows, column, num_crops, grid[0] * grid[1], vocab_size)


def label_names(rows: Dataset) -> list[str]:
    """Names of the classes of rows of `token_columns`: those of the `ClassLabel`, or the numbers as text."""
    if isinstance(feature := rows.features["label"], ClassLabel):
        return list(feature.names)
    return [str(label) for label in range(max(rows.unique("label")) + 1)]


def check_same_classes(names: list[str], known: list[str], source: str) -> None:
    """Raise a `ValueError` that tells the first difference if classes are not numbered as those of another source."""
    if names == known:
        return
    pairs = enumerate(zip_longest(names, known))
    index, (given, right) = next((index, pair) for index, pair in pairs if pair[0] != pair[1])
    raise ValueError(
        f"`label_column` must number classes as {source} does: class {index} is {right!r} there, got {given!r} "
        f"({len(known)} and {len(names)} classes)"
    )


def check_validation_classes(rows: Dataset, names: list[str]) -> None:
    """Raise a `ValueError` if rows of `token_columns` have other classes than those that are trained on."""
    if isinstance(rows.features["label"], ClassLabel):
        check_same_classes(label_names(rows), names, "the training split")
    elif (count := len(label_names(rows))) > len(names):
        raise ValueError(
            f"`label_column` must hold labels below {len(names)} in the validation split, got {count - 1}"
        )


class TokenCrops(torch.utils.data.Dataset):
    """Rows of tokens of several crops, of which a reader gets one: `tokens` (N,) and `label`, as int64 tensors.

    Which one depends on the seed, the epoch and the index of the row alone, not on who reads it or in which order.
    Worker processes see an epoch that was set before they were started.

    Args:
        rows: with the columns `tokens`, (A, N), and `label`.
        seed: of the choice; the middle of the image without a seed.
    """

    def __init__(self, rows: Dataset, seed: int | None = None):
        self.rows, self.seed = rows.with_format("arrow"), seed
        self.num_crops = len(rows[0]["tokens"])
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the crops of all rows for a pass over the data."""
        self.choice = np.full(len(self.rows), centre_crop(self.num_crops), dtype=np.uint8)
        if self.seed is not None:
            generator = np.random.default_rng([self.seed, epoch])
            self.choice = generator.integers(self.num_crops, size=len(self.rows), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice) -> dict:
        """A row, or the columns of a slice of rows, `tokens` (B, N) and `label` (B,)."""
        if isinstance(index, slice):
            return self._columns(range(*index.indices(len(self))))
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """Several rows at once, as a loader asks for them."""
        columns = self._columns(indices)
        return [{"tokens": tokens, "label": label} for tokens, label in zip(columns["tokens"], columns["label"])]

    def _columns(self, indices) -> dict:
        table = self.rows[indices]
        tokens = table["tokens"].combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False)
        tokens = tokens.reshape(len(indices), self.num_crops, -1)  # (B, A, N)
        chosen = tokens[np.arange(len(indices)), self.choice[indices]].astype(np.int64)  # (B, N)
        return {"tokens": torch.from_numpy(chosen), "label": torch.tensor(table["label"].to_pylist())}


def square_grid(num_tokens: int) -> tuple[int, int]:
    """Rows and columns of a square grid of `num_tokens` tokens, for rows that carry no settings."""
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(
            f"`dataset` must have a grid stored with its tokens, or rows that form a square, got {num_tokens} tokens"
        )
    return side, side
