"""`randar-hf tokenize`: pictures to parquet rows of tokens."""

from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import tqdm
from torch.utils.data import DataLoader

from randar_hf.vq import downsampling, encode_images

from .data import label_names, load_rows, pixel_dataset
from .token_data import TokenSettings, TokenWriter, load_tokenizer, tokenizer_hash
from .validation import check_positive


@dataclass(kw_only=True)
class TokenizingConfig:
    """Settings of `tokenize_images`; every field is an option of `randar-hf tokenize`."""

    dataset: str = field(metadata={"help": "folder of pictures, parquet file or folder, or a data set's Hub name"})
    tokenizer: str = field(metadata={"help": "folder or Hub name of a diffusers VQModel"})
    output_dir: str = field(metadata={"help": "folder for the parquet file, which is named after the split"})
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of a data set on the Hub"})
    split: str = field(default="train", metadata={"help": "split to turn into tokens"})
    image_column: str = field(default="image", metadata={"help": "column of the pictures"})
    label_column: str = field(default="label", metadata={"help": "column of the classes"})
    image_size: int | None = field(default=None, metadata={"help": "pixels per side; the tokenizer's own by default"})
    batch_size: int = field(default=32, metadata={"help": "pictures per step"})
    num_workers: int = field(default=0, metadata={"help": "processes that read pictures"})
    overwrite: bool = field(default=False, metadata={"help": "replace the file if it exists"})

    def __post_init__(self):
        check_positive(self, "batch_size")
        if self.image_size is not None:
            check_positive(self, "image_size")

    @property
    def output_file(self) -> Path:
        """The parquet file that is written."""
        return Path(self.output_dir).expanduser() / f"{self.split.split('[')[0]}.parquet"


def tokenize_images(config: TokenizingConfig) -> Path:
    """Turn one split of a data set of pictures into rows of `tokens` and `label`.

    The grid, the number of tokens and a hash of the tokenizer's weights are stored in the file, so that training can
    check that tokenizer and tokens belong together. The file is written beside and renamed when it is complete.

    Returns:
        The file.

    Raises:
        ValueError: the data, a column or the tokenizer is not usable, or the file exists and `overwrite` is off.
    """
    output = config.output_file
    if output.exists() and not config.overwrite:
        raise ValueError(f"`output_dir`: {str(output)!r} exists; ask to overwrite it or choose another folder")
    rows = load_rows(config.dataset, config.split, config.dataset_config)
    class_names = label_names(rows, config.label_column)
    vqvae = load_tokenizer(config.tokenizer)
    image_size = config.image_size or vqvae.config.sample_size
    if image_size % downsampling(vqvae):
        raise ValueError(f"`image_size`: {image_size} was given; it must be a multiple of {downsampling(vqvae)}")
    pixels = pixel_dataset(rows, config.image_column, image_size)
    side = image_size // downsampling(vqvae)
    settings = TokenSettings(
        height=side, width=side, vocab_size=vqvae.config.num_vq_embeddings, tokenizer_hash=tokenizer_hash(vqvae)
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    _write_tokens(config, vqvae, pixels, rows[config.label_column], TokenWriter(partial, settings, class_names))
    partial.replace(output)
    return output


def _write_tokens(config: TokenizingConfig, vqvae, pixels, labels, writer: TokenWriter) -> None:
    device = Accelerator().device
    vqvae = vqvae.to(device).eval()
    start = 0
    for batch in tqdm(DataLoader(pixels, config.batch_size, num_workers=config.num_workers), desc="tokens"):
        tokens = encode_images(vqvae, batch["pixels"].to(device)).flatten(1)  # (B, N)
        writer.write(tokens, labels[start : start + len(tokens)])
        start += len(tokens)
    writer.close()
