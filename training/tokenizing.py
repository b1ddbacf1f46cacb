"""`randar-hf tokenize`: images, or published token files, to parquet rows of tokens."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, tqdm
from datasets import ClassLabel

from randar_hf.files import hold_folder, write_text

from .accelerator import open_accelerator
from .data.image_rows import ImageRows, SourceRow
from .data.published_codes import CodeRows
from .data.reading import split_name
from .data.token_checks import MAX_CLASSES
from .data.token_files import load_tokenizer
from .data.token_writer import TokenFolder
from .memory_estimate import Memory, check_fits, encoding_memory, smaller_batches
from .rehearsal import describe_memory, format_time
from .run_settings import RECIPE_FILE, recipe_text
from .tokenizing_config import TokenizingConfig


BATCHES_AHEAD = 2
TIMED_BATCHES = 3


def tokenize_images(config: TokenizingConfig) -> Path:
    """Turn one split of a data set of images into rows of `tokens` and `label`.

    The grid, the number of tokens and what identifies the tokenizer are stored in the files, so that training can
    check that tokenizer and tokens belong together. A run that was stopped goes on when it is called again; several
    processes share the rows, and write the same files as one.

    Returns:
        The output folder.

    Raises:
        ValueError: the data, a column or the tokenizer is not usable, the split exists and `overwrite` is off, an
            unfinished run had other settings, more images are unreadable than allowed, or the folder is in use by
            another running process or cannot be written.
    """
    folder = TokenFolder(Path(config.output_dir).expanduser(), split_name(config.split), config.rows_per_file)
    # Processes that are done wait for the last one, for as long as it takes.
    accelerator = open_accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))])
    with hold_folder(accelerator, "output_dir", folder.output_dir, partial(folder.check_free, config.overwrite)):
        _tokenize(config, accelerator, folder)
    return folder.output_dir


def _tokenize(config: TokenizingConfig, accelerator: Accelerator, folder: TokenFolder) -> None:
    """Fill a folder that this run holds; called on every process."""
    vqvae = load_tokenizer(config.tokenizer).to(accelerator.device).eval()
    source = (CodeRows if config.published_codes else ImageRows)(config, vqvae)
    folder.check_classes(source.schema.label)
    memory = None
    if not config.published_codes:
        memory = check_fits(
            "tokenize",
            partial(encoding_memory, vqvae, source.image_size, batch_size=config.batch_size),
            smaller_batches(config.batch_size),
            "a smaller `image_size` is needed",
            accelerator,
        )
    if config.dry_run:
        print(TokenRun(config, source, folder).rehearse(memory, accelerator.device))
        return
    folder.claim(accelerator, _settings(config, source), config.overwrite)
    recipe_file = folder.work / RECIPE_FILE
    if accelerator.is_main_process and not recipe_file.exists():
        write_text(recipe_file, recipe_text(config, "tokenize", accelerator.num_processes))
    if not folder.is_complete():
        parts = range(accelerator.process_index, source.num_parts, accelerator.num_processes)
        TokenRun(config, source, folder).write(parts)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.finish()
    accelerator.wait_for_everyone()


def _settings(config: TokenizingConfig, source) -> dict:
    """What must be the same when a stopped run goes on."""
    names = ("dataset", "dataset_config", "split", "image_column", "label_column", "published_codes", "augmentation")
    settings = {name: getattr(config, name) for name in (*names, "rows_per_file")}
    tokens, label = source.schema.settings, source.schema.label
    classes = {"classes": label.names if isinstance(label, ClassLabel) else None}
    return settings | classes | source.settings | {"tokenizer": [tokens.tokenizer_hash, tokens.tokenizer_config]}


@dataclass
class Batch:
    """Rows of one file: the position of the first one in its part, and whether file or part end with them."""

    part: int
    start: int
    rows: list[SourceRow]
    ends_file: bool
    ends_part: bool


class TokenRun:
    """The rows that one process writes, from the source to files.

    Args:
        config: the settings.
        source: `ImageRows` or `CodeRows`.
        folder: where the files go.
    """

    def __init__(self, config: TokenizingConfig, source, folder: TokenFolder):
        self.config, self.source, self.folder = config, source, folder
        self.tokens, self.labels = [], []  # of the file that is being filled

    def write(self, parts: range) -> None:
        """Write the files of these parts that are not there."""
        starts = {part: start for part in parts if (start := self.folder.next_row(part)) is not None}
        lengths = [self.source.part_length(part) for part in starts]
        total = None if None in lengths else sum(lengths)
        with tqdm(total=total, desc="tokens", unit="row") as bar, ThreadPoolExecutor(self.config.num_workers) as pool:
            for batch, loaded in self._load_ahead(pool, self._batches(starts)):
                self._add(batch, loaded)
                bar.update(len(batch.rows))

    def rehearse(self, memory: Memory | None, device: torch.device) -> str:
        """Encode three batches without writing anything, and tell what all of them take in this process."""
        lengths = [self.source.part_length(part) for part in range(self.source.num_parts)]
        count, started = 0, time.perf_counter()
        with ThreadPoolExecutor(self.config.num_workers) as pool:
            for batch, loaded in self._load_ahead(pool, islice(self._batches({0: 0}), TIMED_BATCHES)):
                readable = [future.result()[1] for future in loaded if future.exception() is None]
                count += len(batch.rows)
                if readable:
                    self.source.encode(readable)
        each = (time.perf_counter() - started) / max(1, count)
        total = "" if None in lengths else f", {format_time(each * sum(lengths))} for {sum(lengths):,} images"
        lines = ["randar-hf tokenize: a dry run, nothing was written"]
        lines += describe_memory(memory, device)
        return "\n".join(filter(None, [*lines, f"time: {each:.3g} s an image{total}"]))

    def _batches(self, starts: dict[int, int]) -> Iterator[Batch]:
        """The rows of the parts from their starts on, in batches none of which lies in two files."""
        size = self.config.rows_per_file
        for part, start in starts.items():
            rows = self.source.read(part, start)
            batch = self._take(rows, start)
            while batch:
                end = start + len(batch)
                following = self._take(rows, end)
                yield Batch(part, start, batch, ends_file=not following or end % size == 0, ends_part=not following)
                batch, start = following, end

    def _take(self, rows: Iterator[SourceRow], start: int) -> list[SourceRow]:
        left = self.config.rows_per_file - start % self.config.rows_per_file
        return list(islice(rows, min(self.config.batch_size, left)))

    def _load_ahead(self, pool: ThreadPoolExecutor, batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[Future]]]:
        """Batches in turn, while the next ones are being loaded."""
        waiting = deque()
        for batch in batches:
            waiting.append((batch, [pool.submit(self.source.load, row) for row in batch.rows]))
            if len(waiting) > BATCHES_AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _add(self, batch: Batch, loaded: list[Future]) -> None:
        """Encode a batch, and write the file if it is full."""
        if batch.start % self.config.rows_per_file == 0:
            self.folder.start_file(batch.part, batch.start)
        readable = []
        for index, (row, future) in enumerate(zip(batch.rows, loaded)):
            if (error := future.exception()) is None:
                readable.append(future.result())
            else:
                self._skip(batch, index, row, error)
        if readable:
            labels, contents = zip(*readable)
            self.labels += self._check_labels(labels)
            self.tokens.append(self.source.encode(contents))
        if batch.ends_file:
            self.folder.write_file(batch.part, batch.start, self._table(), batch.ends_part)
            self.tokens, self.labels = [], []

    def _table(self) -> pa.Table:
        schema = self.source.schema
        empty = np.empty((0, schema.num_crops, schema.settings.height * schema.settings.width))
        return schema.table(np.concatenate([empty, *self.tokens]), self.labels)

    def _skip(self, batch: Batch, index: int, row: SourceRow, error: BaseException) -> None:
        position = self.source.position(batch.part, batch.start + index)
        entry = {**position, "id": row.identifier, "reason": f"{type(error).__name__}: {error}"}
        self.folder.skip(batch.part, batch.start, entry)
        if (count := self.folder.num_skipped()) > self.config.max_bad_images:
            raise ValueError(
                "`max_bad_images` must be at least the images that cannot be read, got "
                f"{self.config.max_bad_images} and {count} of them, the last one ({row.identifier}) because {error}; "
                f"they are listed in {self.folder.work}"
            )

    def _check_labels(self, labels: tuple) -> tuple:
        names = getattr(self.source.schema.label, "names", None)
        limit = len(names) if names else MAX_CLASSES
        for label in labels:
            if not isinstance(label, int) or not 0 <= label < limit:
                raise ValueError(f"`label_column` must hold labels from 0 to {limit - 1}, got {label!r}")
        return labels
