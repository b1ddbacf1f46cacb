"""Parquet files of token rows that appear whole or not at all, so that a stopped run goes on where it was."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from datasets import ClassLabel, Features, List, Value

from randar_hf.files import clear_partial, whole_file, write_text
from randar_hf.outputs import check_no_links, check_output_folder

from ..outputs import write_json
from ..run_settings import RECIPE_FILE
from .reading import work_folder
from .token_files import SETTINGS_KEY, TokenSettings, check_same_classes


ENDS_PART_KEY = b"randar_hf_ends_part"

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TokenSchema:
    """What the rows of one data set have in common."""

    settings: TokenSettings
    num_crops: int
    label: ClassLabel | Value

    def arrow(self) -> pa.Schema:
        """Columns of a file: `tokens`, (N,) or (A, N) for several crops, and `label`; the settings travel along."""
        tokens = List(Value("uint16"), length=self.settings.height * self.settings.width)
        if self.num_crops > 1:
            tokens = List(tokens, length=self.num_crops)
        schema = Features({"tokens": tokens, "label": self.label}).arrow_schema
        return schema.with_metadata({**schema.metadata, SETTINGS_KEY: json.dumps(asdict(self.settings)).encode()})

    def table(self, tokens: np.ndarray, labels: list[int]) -> pa.Table:
        """Rows of `tokens` (B, A, N) and `labels`."""
        column = pa.array(tokens.astype(np.uint16).reshape(-1))
        for length in tokens.shape[:0:-1] if self.num_crops > 1 else tokens.shape[:1:-1]:
            column = pa.FixedSizeListArray.from_arrays(column, length)
        return pa.table([column, pa.array(labels, pa.int64())], schema=self.arrow())


class TokenFolder:
    """The files of one split while they are written, and their way to the folder where training reads them.

    The source is cut into parts, each part into files of `rows_per_file` rows. A file is written beside and renamed,
    under `.SPLIT/`, together with the list of its unreadable rows. When all are there, they become `SPLIT.parquet`,
    or `SPLIT-00000-of-00009.parquet` and so on, in the order of the source.

    Args:
        output_dir: the folder for all splits.
        split: name of the split.
        rows_per_file: rows of the source that a file stands for.
    """

    def __init__(self, output_dir: Path, split: str, rows_per_file: int):
        self.output_dir, self.split, self.rows_per_file = output_dir, split, rows_per_file
        self.work = work_folder(output_dir, split)

    @property
    def state_file(self) -> Path:
        """JSON with the settings of the run, and, when it is complete, its files and counts."""
        return self.work / "state.json"

    @property
    def skipped_file(self) -> Path:
        """The list of the rows that could not be read, complete when the run is."""
        return self.work / "skipped.jsonl"

    def check_free(self, overwrite: bool) -> None:
        """Raise a `ValueError` for links in the way, or a split that is complete if `overwrite` is off."""
        check_output_folder("output_dir", self.work)
        check_no_links("output_dir", self.work)
        if self._finished_files() and not (overwrite or self._is_unfinished()):
            raise ValueError(
                f"`output_dir` must not hold the split {self.split!r}, got {str(self.output_dir)!r}; ask to overwrite "
                "it or choose another folder"
            )

    def claim(self, accelerator: Accelerator, settings: dict, overwrite: bool) -> None:
        """Start a run with these settings, or go on with the one that was stopped; called on every process.

        Raises:
            ValueError: the run that was stopped had other settings.
        """
        if self._is_unfinished() and not overwrite:
            self._check_settings(settings)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            clear_partial(self.work)
        if accelerator.is_main_process and (overwrite or not self._is_unfinished()):
            for file in (*self._finished_files(), *self.work.glob("*.parquet*"), *self.work.glob("skipped*.jsonl")):
                file.unlink()
            (self.work / RECIPE_FILE).unlink(missing_ok=True)
            self.work.mkdir(parents=True, exist_ok=True)
            write_json(self.state_file, {"settings": settings, "finished": False})
        accelerator.wait_for_everyone()

    def check_classes(self, label: ClassLabel | Value) -> None:
        """Raise a `ValueError` if another split that lies here numbers its classes in another way."""
        others = {file for file in self.output_dir.glob("*.parquet") if file.exists()} - {*self._finished_files()}
        for file in sorted(others):
            if SETTINGS_KEY not in (pq.read_schema(file).metadata or {}):
                continue
            other = Features.from_arrow_schema(pq.read_schema(file)).get("label")
            if isinstance(label, ClassLabel) and isinstance(other, ClassLabel):
                check_same_classes(label.names, other.names, repr(str(file)))

    def next_row(self, part: int) -> int | None:
        """The first row of a part that no file stands for; None where the whole part is done."""
        files = sorted(self.work.glob(f"{part:06d}-*.parquet"))
        if not files:
            return 0
        if ENDS_PART_KEY in pq.read_schema(files[-1]).metadata:
            return None
        return (int(files[-1].stem.split("-")[1]) + 1) * self.rows_per_file

    def start_file(self, part: int, row: int) -> None:
        """Forget the unreadable rows of a former attempt at the file of `row`."""
        self._skipped_of(self._name(part, row)).unlink(missing_ok=True)

    def skip(self, part: int, row: int, entry: dict) -> None:
        """List a row that could not be read, as `entry`."""
        with open(self._skipped_of(self._name(part, row)), "a") as file:
            file.write(json.dumps(entry) + "\n")

    def num_skipped(self) -> int:
        """How many rows of all files could not be read, those of other processes included."""
        return sum(len(file.read_text().splitlines()) for file in self.work.glob("skipped-*.jsonl"))

    def write_file(self, part: int, row: int, table: pa.Table, ends_part: bool) -> None:
        """Write the file of `row`, whole or not at all."""
        if ends_part:
            table = table.replace_schema_metadata({**table.schema.metadata, ENDS_PART_KEY: b"1"})
        target = self.work / f"{self._name(part, row)}.parquet"
        with whole_file(target) as file:
            pq.write_table(table, file)

    def finish(self) -> None:
        """Move the files to the output folder; what a kill leaves undone is done by the next call.

        Raises:
            ValueError: there is not one row.
        """
        state = json.loads(self.state_file.read_text())
        if "files" not in state:
            rows = {file.name: pq.read_metadata(file).num_rows for file in sorted(self.work.glob("*-*.parquet"))}
            if not sum(rows.values()):
                raise ValueError("`dataset` must have images that can be read, got none")
            state["files"] = [name for name, count in rows.items() if count]  # `datasets` stumbles over empty ones
            state["num_rows"], state["num_skipped"] = sum(rows.values()), self.num_skipped()
            lines = [file.read_text() for file in sorted(self.work.glob("skipped-*.jsonl"))]
            write_text(self.skipped_file, "".join(lines))
            write_json(self.state_file, state)
        count = len(state["files"])
        for index, name in enumerate(state["files"]):
            number = f"-{index:05d}-of-{count:05d}" if count > 1 else ""
            if (self.work / name).exists():
                (self.work / name).replace(self.output_dir / f"{self.split}{number}.parquet")
        for file in (*self.work.glob("skipped-*.jsonl"), *self.work.glob("*-*.parquet")):
            file.unlink()
        write_json(self.state_file, {**state, "finished": True})
        self._tell(state["num_skipped"])

    def is_complete(self) -> bool:
        """Whether all files are written, and only have to be moved."""
        return "files" in json.loads(self.state_file.read_text())

    def _tell(self, num_skipped: int) -> None:
        if num_skipped:
            logger.warning("%d rows could not be read; they are listed in %s", num_skipped, self.skipped_file)
        files = self._finished_files()
        label = Features.from_arrow_schema(pq.read_schema(files[0]))["label"]
        if isinstance(label, ClassLabel):
            seen = {
                label for file in files for label in set(pq.read_table(file, columns=["label"])["label"].to_pylist())
            }
            if empty := [name for index, name in enumerate(label.names) if index not in seen]:
                logger.warning("%d classes have no image: %s", len(empty), ", ".join(empty[:20]))

    def _name(self, part: int, row: int) -> str:
        return f"{part:06d}-{row // self.rows_per_file:06d}"

    def _skipped_of(self, name: str) -> Path:
        return self.work / f"skipped-{name}.jsonl"

    def _finished_files(self) -> list[Path]:
        single = self.output_dir / f"{self.split}.parquet"
        several = sorted(self.output_dir.glob(f"{self.split}-[0-9]*-of-[0-9]*.parquet"))
        return [single] * single.exists() + several

    def _is_unfinished(self) -> bool:
        return self.state_file.exists() and not json.loads(self.state_file.read_text())["finished"]

    def _check_settings(self, settings: dict) -> None:
        former = json.loads(self.state_file.read_text())["settings"]
        settings = json.loads(json.dumps(settings))
        if other := [name for name in settings if settings[name] != former.get(name)]:
            raise ValueError(
                f"`output_dir` must hold an unfinished run of the same settings, got other ones ({', '.join(other)}) "
                f"in {str(self.work)!r}; give the former ones, or ask to overwrite it"
            )
