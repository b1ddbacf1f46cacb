"""Settings of `randar-hf train-tokenizer`, checked before anything is computed."""

from dataclasses import dataclass

from .run_config import DATA, MODEL, STEPS, RunConfig
from .validation import check_not_negative, check_positive, setting


@dataclass(kw_only=True)
class TokenizerTrainingConfig(RunConfig):
    """Settings of `train_tokenizer`; every field is an option of `randar-hf train-tokenizer`."""

    image_column: str = setting(DATA, "column of the images", "image")
    image_size: int | None = setting(DATA, "pixels per side after the centre crop; the preset's by default", None)
    block_out_channels: list[int] | None = setting(
        MODEL, "channels per level, the preset's by default; each level after the first halves the image", None
    )
    layers_per_block: int = setting(MODEL, "residual blocks per level", 1)
    codebook_size: int | None = setting(MODEL, "number of different tokens; the preset's by default", None)
    code_dim: int = setting(MODEL, "width of a codebook entry", 8)
    max_bad_images: int = setting(DATA, "unreadable images that are skipped before it stops", 100)
    commitment_weight: float = setting(STEPS, "weight of the codebook and commitment loss", 1.0)
    restart_steps: int = setting(STEPS, "unused codes start over every so many steps", 100)

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "image_size", "layers_per_block", "codebook_size", "code_dim", "restart_steps")
        check_not_negative(self, "commitment_weight", "max_bad_images")
        if self.block_out_channels is not None and min(self.block_out_channels, default=0) < 1:
            raise ValueError(f"`block_out_channels` must be one or more, each above 0, got {self.block_out_channels}")
        if (self.codebook_size or 0) > 65_536:
            raise ValueError(
                f"`codebook_size` must be at most 65536, so that 16 bits hold it, got {self.codebook_size}"
            )
        if None not in (self.image_size, self.block_out_channels) and self.image_size % self.downsampling:
            raise ValueError(
                f"`image_size` must be a multiple of {self.downsampling} with {len(self.block_out_channels)} levels, "
                f"got {self.image_size}"
            )

    @property
    def downsampling(self) -> int:
        """Pixels per token along one side."""
        return 2 ** (len(self.block_out_channels) - 1)
