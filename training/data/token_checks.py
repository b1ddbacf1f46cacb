"""Checks of token rows before a run begins: each answers with one line that names column, row and range."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, LargeList, List

from .reading import is_whole


MAX_CLASSES = 2**16
ROWS_AT_ONCE = 4096


def check_token_feature(feature, column: str) -> None:
    """Raise a `ValueError` unless a column holds lists of whole numbers, (N,), or lists of them for crops, (A, N)."""
    inner = entries(feature)
    if not is_whole(entries(inner) or inner):
        raise ValueError(
            f"`token_column` must hold a list of whole numbers in each row, or one for each crop, got {feature} in "
            f"{column!r}"
        )


def entries(feature):
    """What the lists of a column hold; None for a column of anything else."""
    return feature.feature if isinstance(feature, List | LargeList) else None


def check_labels(rows: Dataset, column: str) -> None:
    """Raise a `ValueError` unless labels count from 0, below the number of names, or `MAX_CLASSES` without names."""
    feature = rows.features[column]
    limit = feature.num_classes if isinstance(feature, ClassLabel) else MAX_CLASSES
    for first, labels in _chunks(rows, column):
        _check_range(f"`label_column` must hold labels from 0 to {limit - 1}", column, labels, limit, first)


def check_tokens(rows: Dataset, column: str, num_crops: int | None, num_tokens: int, vocab_size: int) -> None:
    """
    Check the tokens of all rows.

    Args:
        rows: with `tokens`, (N,) or (A, N).
        column: what the user calls them, for messages.
        num_crops: A; None for (N,).
        num_tokens: N.
        vocab_size: how many codes there are.

    Raises:
        ValueError: a row has another number of crops or tokens, or a code that the tokenizer does not have.
    """
    shape = {"tokens": num_tokens} if num_crops is None else {"crops": num_crops, "tokens": num_tokens}
    for first, values in _chunks(rows, "tokens"):
        size = 1  # entries of `values` in a row
        for kind, length in shape.items():
            lengths = pc.fill_null(pc.list_value_length(values), 0)
            if (index := pc.index(pc.not_equal(lengths, length), True).as_py()) >= 0:
                raise ValueError(
                    f"`token_column` must hold {length} {kind} in each row, got {lengths[index]} in row "
                    f"{first + index // size} of {column!r}"
                )
            values, size = values.flatten(), size * length
        allowed = f"`token_column` must hold codes from 0 to {vocab_size - 1}"
        _check_range(allowed, column, values, vocab_size, first, size)


def _chunks(rows: Dataset, column: str) -> Iterator[tuple[int, pa.Array]]:
    """A column piece by piece, each with the number of its first row."""
    rows = rows.select_columns(column).with_format("arrow")
    for first, table in zip(range(0, len(rows), ROWS_AT_ONCE), rows.iter(ROWS_AT_ONCE)):
        yield first, table[column].combine_chunks()


def _check_range(allowed: str, column: str, values: pa.Array, limit: int, first: int, size: int = 1) -> None:
    """Raise a `ValueError` for the first of whole numbers, `size` in each row from `first` on, outside [0, limit)."""
    kind = pa.uint64() if pa.types.is_unsigned_integer(values.type) else pa.int64()  # what holds them, and the limits
    is_known = pc.and_(pc.greater_equal(values, pa.scalar(0, kind)), pc.less(values, pa.scalar(limit, kind)))
    if (index := pc.index(pc.fill_null(is_known, False), False).as_py()) >= 0:
        raise ValueError(f"{allowed}, got {values[index]} in row {first + index // size} of {column!r}")
