"""Parquet files of token rows, and the settings of the tokenizer that travel with them."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from diffusers import VQModel
from safetensors import SafetensorError

from .data import MissingDataError, check_column


SETTINGS_KEY = b"randar_hf"


@dataclass(kw_only=True)
class TokenSettings:
    """What is stored with token rows: the grid, the number of different tokens, and which tokenizer made them."""

    height: int
    width: int
    vocab_size: int
    tokenizer_hash: str


def load_tokenizer(folder: str, argument: str = "tokenizer") -> VQModel:
    """Load a tokenizer from a folder or the Hub.

    Raises:
        MissingDataError: there is no such folder or repository.
        ValueError: its weights cannot be read, for example because the file was cut off.
    """
    try:
        return VQModel.from_pretrained(folder)
    except SafetensorError as error:
        raise ValueError(f"`{argument}`: the weights in {folder!r} are damaged or cut off: {error}") from error
    except OSError as error:
        raise MissingDataError(f"`{argument}`: {folder!r} holds no tokenizer: {error}") from error


def tokenizer_hash(vqvae: VQModel) -> str:
    """Sixteen hexadecimal digits that tell one tokenizer's weights from another's."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vqvae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class TokenWriter:
    """Writes token rows to a parquet file, batch by batch.

    Args:
        path: the file to write.
        settings: stored in the file's schema.
        class_names: names of the labels.
    """

    def __init__(self, path: Path, settings: TokenSettings, class_names: list[str]):
        self.num_tokens = settings.height * settings.width
        features = Features(
            {"tokens": List(Value("uint16"), length=self.num_tokens), "label": ClassLabel(names=class_names)}
        )
        schema = features.arrow_schema
        metadata = {**schema.metadata, SETTINGS_KEY: json.dumps(asdict(settings)).encode()}
        self.schema = schema.with_metadata(metadata)
        self.file = pq.ParquetWriter(path, self.schema)

    def write(self, tokens: torch.Tensor, labels: list[int]) -> None:
        """Append rows: `tokens` (B, N) in raster order, `labels` B class ids."""
        flat = pa.array(tokens.cpu().numpy().astype(np.uint16).reshape(-1))
        rows = pa.FixedSizeListArray.from_arrays(flat, self.num_tokens)
        self.file.write_table(pa.table([rows, pa.array(labels, pa.int64())], schema=self.schema))

    def close(self) -> None:
        """Complete the file."""
        self.file.close()


def read_settings(dataset: str) -> TokenSettings | None:
    """The settings stored with the token files of a folder or with one file; None where there are none.

    Raises:
        ValueError: the files of the folder disagree.
    """
    path = Path(dataset).expanduser()
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    stored = {(pq.read_schema(file).metadata or {}).get(SETTINGS_KEY) for file in files}
    if len(stored) > 1:
        raise ValueError(f"`dataset`: the token files in {dataset!r} were made with different tokenizers")
    settings = stored.pop() if stored else None
    return TokenSettings(**json.loads(settings)) if settings else None


def check_tokenizer(settings: TokenSettings | None, vqvae: VQModel, argument: str = "tokenizer") -> None:
    """Raise a `ValueError` if the tokens that `settings` belong to were made by another tokenizer."""
    if settings is not None and settings.tokenizer_hash != (given := tokenizer_hash(vqvae)):
        raise ValueError(
            f"`{argument}`: the tokens were made by the tokenizer {settings.tokenizer_hash}, {given} was given"
        )


def token_dataset(rows: Dataset, token_column: str, label_column: str) -> Dataset:
    """Rows with `tokens` (N,) and `label`, as int64 tensors.

    Raises:
        ValueError: a column is not there.
    """
    check_column(rows, "token_column", token_column)
    check_column(rows, "label_column", label_column)
    rows = rows.select_columns([token_column, label_column])
    return rows.rename_columns({token_column: "tokens", label_column: "label"}).with_format("torch")


def square_grid(num_tokens: int) -> tuple[int, int]:
    """Rows and columns of a square grid of `num_tokens` tokens, for rows that carry no settings."""
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(f"`dataset`: rows of {num_tokens} tokens form no square, and no grid is stored with them")
    return side, side
