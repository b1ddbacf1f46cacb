"""Rows of images as `tokenize` wants them: read undecoded one after another, cut in threads, encoded in batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from datasets import IterableDataset
from diffusers import VQModel

from randar_hf.crops import centre_square
from randar_hf.vq import downsampling, encode_images, from_levels

from .crops import AUGMENTATIONS, cut_crops, square_size
from .pixels import image_content, read_image
from .reading import class_feature, load_rows, number_texts, undecoded
from .token_checks import check_labels
from .token_files import token_settings
from .token_writer import TokenSchema


@dataclass
class SourceRow:
    """A row before it is decoded: what it holds, its label, and a name for it where it has one."""

    content: object
    label: object
    identifier: str | None


class ImageRows:
    """The images of a data set, in parts that processes can share.

    A memory-mapped data set has a part for each file of tokens, a streamed one a part for each of its own files.

    Args:
        config: a `TokenizingConfig`.
        vqvae: the tokenizer, on its device.

    Raises:
        ValueError: there is no such data set or column, or it holds no images or no labels, a label lies out of range,
            or the size does not suit the tokenizer.
    """

    def __init__(self, config, vqvae: VQModel):
        self.config, self.vqvae = config, vqvae
        self.image_size = config.image_size or vqvae.config.sample_size
        if self.image_size % downsampling(vqvae):
            raise ValueError(f"`image_size` must be a multiple of {downsampling(vqvae)}, got {self.image_size}")
        rows = load_rows(
            config.dataset,
            config.split,
            config.dataset_config,
            streaming=config.streaming,
            label_column=config.label_column,
        )
        self.streamed = isinstance(rows, IterableDataset)
        self.repository = config.dataset if self.streamed else None
        if rows.features is None:
            raise ValueError(
                "`streaming` must be off for a data set that does not tell its columns before it is read, got True"
            )
        self.rows = undecoded(rows, config.image_column, config.label_column, "__key__")
        label = class_feature(rows, config.label_column)
        if label is None:
            label = number_texts(config.dataset, config.dataset_config, config.label_column)
        elif not self.streamed:
            check_labels(rows, config.label_column)
        side = self.image_size // downsampling(vqvae)
        crops = AUGMENTATIONS[config.augmentation]
        self.schema = TokenSchema(settings=token_settings(vqvae, side, side), num_crops=crops, label=label)

    @property
    def settings(self) -> dict:
        """What the source tells about itself, and must still tell when a stopped run goes on."""
        size = {"source_files": self.num_parts} if self.streamed else {"source_rows": len(self.rows)}
        return {"image_size": self.image_size, **size}

    @property
    def num_parts(self) -> int:
        """How many parts there are."""
        return self.rows.num_shards if self.streamed else -(-len(self.rows) // self.config.rows_per_file)

    def part_length(self, part: int) -> int | None:
        """Rows of a part, if that is known before it is read."""
        size = self.config.rows_per_file
        return None if self.streamed else min(size, len(self.rows) - part * size)

    def position(self, part: int, row: int) -> dict:
        """Where a user finds the row of a part: its number in the data set, or in one of the streamed files."""
        return {"file": part, "row": row} if self.streamed else {"row": part * self.config.rows_per_file + row}

    def read(self, part: int, start: int) -> Iterator[SourceRow]:
        """The rows of a part from the row `start` on; raises a `ValueError` where the data breaks off."""
        try:
            yield from self._read(part, start)
        except Exception as error:  # the readers of formats raise errors of many kinds
            raise ValueError(
                f"`dataset` must be data that can be read, got {self.config.dataset!r}: {error}"
            ) from error

    def _read(self, part: int, start: int) -> Iterator[SourceRow]:
        if self.streamed:
            rows = self.rows.shard(self.num_parts, part).skip(start)
        else:
            first = part * self.config.rows_per_file
            rows = self.rows.select(range(first + start, first + self.part_length(part)))
        for row in rows:
            content, path = image_content(row[self.config.image_column])
            identifier = row.get("__key__") or path
            yield SourceRow(content, row[self.config.label_column], identifier)

    def load(self, row: SourceRow) -> tuple[int, np.ndarray]:
        """Label and centred square, (S, S, 3) uint8, of a row.

        Raises:
            Exception: of any kind if the image cannot be read.
        """
        square = centre_square(
            read_image(row.content, self.repository), square_size(self.config.augmentation, self.image_size)
        )
        label = self.schema.label.str2int(row.label) if isinstance(row.label, str) else row.label
        return label, np.asarray(square)

    def encode(self, squares: list[np.ndarray]) -> np.ndarray:
        """Tokens (B, A, N) of squares."""
        pixels = torch.from_numpy(np.stack(squares)).to(self.vqvae.device).permute(0, 3, 1, 2)  # (B, 3, S, S) uint8
        crops = cut_crops(pixels, self.image_size, self.config.augmentation)
        tokens = [encode_images(self.vqvae, from_levels(crop)).flatten(1) for crop in crops]  # (B, N) each
        return torch.stack(tokens, dim=1).cpu().numpy()
