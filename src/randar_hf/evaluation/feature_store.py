"""Features of a set of images on the disk: a run that was stopped goes on, and loses one batch at most."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import tqdm
from torch import nn

from randar_hf.files import whole_file, write_text
from randar_hf.outputs import check_no_links

from .images import ImageSet
from .metrics import FeatureStatistics


KINDS = ("pool", "spatial", "logits")
BLOCK_ROWS = 4096  # rows that statistics read at once


class FeatureStore:
    """
    Features of images, one array file a kind, written in batches; memory-mapped, so that they need not fit in memory.

    Args:
        folder (`str`): folder of all stores; each has a folder of its own there, named by the images, the crop and the
            network.
        images ([`ImageSet`]): what the features are of.
        extractor (`torch.nn.Module`): from uint8 images (B, 3, H, W) to an object with `pool` and perhaps `spatial`
            and `logits`; has `name`, `sha256` and `resize_rule`.
    """

    def __init__(self, folder: str | os.PathLike, images: ImageSet, extractor: nn.Module):
        self.images, self.extractor = images, extractor
        about = {
            "images": images.sha256,
            "count": images.count,
            "crop": images.crop,
            "network": extractor.name,
            "sha256": extractor.sha256,
            "resize_rule": extractor.resize_rule,
        }
        self.about = json.dumps(about, indent=2)
        self.folder = Path(folder) / hashlib.sha256(self.about.encode()).hexdigest()[:16]

    def fill(self, batch_size: int, state: PartialState | None = None) -> None:
        """
        Compute what is missing; every process of `state` takes a part.

        Args:
            batch_size (`int`): images that a process holds at once.
            state (`accelerate.PartialState`, *optional*): the processes; one by default.

        Raises:
            ValueError: for images that cannot be read, before anything is written, or features that are not finite.
        """
        check_no_links("work_dir", self.folder)
        index, count = (0, 1) if state is None else (state.process_index, state.num_processes)
        wait = state.wait_for_everyone if state is not None else lambda: None
        if index == 0 and not self._path("done").exists():
            self._open_arrays(batch_size)
        wait()
        done = np.load(self._path("done"), mmap_mode="r+")  # (n,) bool
        missing = np.flatnonzero(~done)  # as it was: others write their own rows alone
        wait()
        batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)][index::count]
        arrays = {kind: np.load(self._path(kind), mmap_mode="r+") for kind in KINDS if self._path(kind).exists()}
        for rows in tqdm(
            batches, desc=f"features of {Path(self.images.name).name}", unit="batch", disable=not batches
        ):
            outputs = self._extract(rows.tolist())
            for kind, array in arrays.items():
                array[rows] = outputs[kind]
                array.flush()
            done[rows] = True
            done.flush()
        wait()

    def has(self, kind: str) -> bool:
        """Whether the network has features of a kind."""
        return self._path(kind).exists()

    def array(self, kind: str) -> np.ndarray:
        """The features of a kind (n, d), memory-mapped."""
        return np.load(self._path(kind), mmap_mode="r")

    def blocks(self, kind: str) -> Iterator[np.ndarray]:
        """The features of a kind, in blocks (b, d)."""
        array = self.array(kind)
        for start in range(0, len(array), BLOCK_ROWS):
            yield np.array(array[start : start + BLOCK_ROWS])

    def statistics(self, kind: str) -> FeatureStatistics:
        """Mean and covariance of the features of a kind."""
        return FeatureStatistics.of(self.blocks(kind))

    def _path(self, kind: str) -> Path:
        return self.folder / f"{kind}.npy"

    def _open_arrays(self, batch_size: int):
        """Arrays of the right sizes, known from a first batch; `done` comes last, and says that all are there."""
        outputs = self._extract(list(range(min(batch_size, self.images.count))))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "about.json", self.about + "\n")
        for kind, values in outputs.items():
            shape = (self.images.count, values.shape[1])
            np.lib.format.open_memmap(self._path(kind), "w+", np.float32, shape).flush()
        with whole_file(self._path("done")) as file:
            np.save(file, np.zeros(self.images.count, dtype=bool))

    def _extract(self, rows: list[int]) -> dict[str, np.ndarray]:
        """The features of some images, (b, d) of each kind."""
        outputs = self.extractor(self.images.batch(rows))
        found = {kind: getattr(outputs, kind, None) for kind in KINDS}
        values = {kind: value.float().cpu() for kind, value in found.items() if value is not None}
        for kind, value in values.items():
            if not torch.isfinite(value).all():
                raise ValueError(
                    f"`{self.images.argument}` must have finite features, got NaN or infinity in {kind} of "
                    f"{self.extractor.name}."
                )
        return {kind: value.numpy() for kind, value in values.items()}
