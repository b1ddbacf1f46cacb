"""Settings of `randar-hf tokenize`, checked before anything is computed."""

import re
from dataclasses import dataclass

from .data.crops import AUGMENTATIONS
from .run_config import DATA, OUTPUT
from .validation import check_choice, check_fields, check_given, check_not_negative, check_positive, setting


PUBLISHED_CODES = ("randar", "llamagen", "rar")


@dataclass(kw_only=True)
class TokenizingConfig:
    """Settings of `tokenize_images`; every field is an option of `randar-hf tokenize`."""

    dataset: str = setting(DATA, "folder, parquet files, webdataset tars, or a data set's Hub name")
    tokenizer: str = setting(DATA, "folder or Hub name of a diffusers VQModel")
    output_dir: str = setting(OUTPUT, "folder for the parquet files, which are named after the split")
    dataset_config: str | None = setting(DATA, "configuration of a data set on the Hub", None)
    split: str = setting(DATA, "split to turn into tokens", "train")
    image_column: str = setting(DATA, "column of the images", "image")
    label_column: str = setting(DATA, "column of the classes", "label")
    streaming: bool = setting(DATA, "read on without preparing or downloading all before", False)
    published_codes: str | None = setting(DATA, "the data set is a token file of randar, llamagen or rar", None)
    image_size: int | None = setting(DATA, "pixels per side; the tokenizer's own by default", None)
    augmentation: str = setting(DATA, "crops of an image: none, adm or ten_crop", "none")
    batch_size: int = setting(DATA, "images per step and process", 32)
    num_workers: int = setting(DATA, "threads per process that decode images", 4)
    rows_per_file: int = setting(OUTPUT, "images per parquet file; what a kill loses at most", 4096)
    max_bad_images: int = setting(DATA, "unreadable images that are skipped before it stops", 100)
    dry_run: bool = setting(OUTPUT, "print memory and time after three batches, and write nothing", False)
    overwrite: bool = setting(OUTPUT, "replace the split, or an unfinished run, if it exists", False)

    def __post_init__(self):
        check_fields(self)
        check_given(self, "output_dir")
        check_positive(self, "batch_size", "num_workers", "rows_per_file", "image_size")
        check_not_negative(self, "max_bad_images")
        check_choice(self, "augmentation", tuple(AUGMENTATIONS))
        if not re.fullmatch(r"\w+(\.\w+)*(\[.*)?", self.split):
            raise ValueError(f"`split` must be the name of one split, or a slice of it, got {self.split!r}")
        check_choice(self, "published_codes", PUBLISHED_CODES)
        of_images = self.image_size or self.streaming or self.augmentation != "none"
        if self.published_codes is not None and of_images:
            raise ValueError("`published_codes` must come without size, crops and streaming, which are of images")
