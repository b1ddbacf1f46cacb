"""Settings of `randar-hf train-tokenizer`, checked before anything is computed."""

from dataclasses import dataclass

from .run_config import DATA, MODEL, STEPS, RunConfig
from .validation import check_not_negative, check_positive, setting


def field_of(layers: int) -> int:
    """Pixels along one side that a logit of a `PatchDiscriminator` sees: 16, 34, 70, ..."""
    field = 7  # of its last two convolutions, which do not halve the image
    for _ in range(layers):
        field = 2 * field + 2
    return field


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
    perceptual_network: str | None = setting(
        STEPS, "folder or Hub name of a vision model in whose features reconstructions are compared too", None
    )
    perceptual_weight: float = setting(STEPS, "weight of that comparison", 1.0)
    discriminator_start: int | None = setting(
        STEPS, "step from which a discriminator of patches is trained too; never by default", None
    )
    discriminator_weight: float = setting(STEPS, "weight of its loss, times the adaptive one", 0.5)
    discriminator_layers: int = setting(STEPS, "halvings of its patches, which see 16, 34 or, with 3, 70 pixels", 3)
    restart_steps: int = setting(STEPS, "unused codes start over every so many steps", 100)

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "image_size", "layers_per_block", "codebook_size", "code_dim", "restart_steps")
        check_not_negative(self, "commitment_weight", "max_bad_images", "discriminator_start")
        check_positive(self, "perceptual_weight", "discriminator_weight", "discriminator_layers")
        if self.discriminator_start is not None:
            self._check_discriminator()
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

    def _check_discriminator(self):
        if self.patience is not None:
            raise ValueError(f"`patience` must be None with a discriminator, got {self.patience}")
        if self.max_steps is not None and self.discriminator_start >= self.max_steps:
            raise ValueError(
                f"`discriminator_start` must be below `max_steps`, {self.max_steps}, got {self.discriminator_start}"
            )
        size, layers = self.image_size, self.discriminator_layers
        if size is not None and size < field_of(1):
            raise ValueError(f"`image_size` must be at least {field_of(1)} for a discriminator, got {size}")
        if size is not None and field_of(layers) > size:
            most = max(number for number in range(1, layers) if field_of(number) <= size)
            raise ValueError(
                f"`discriminator_layers` must be at most {most} for images of {size} pixels, since a patch of more is "
                f"larger, got {layers}"
            )

    @property
    def downsampling(self) -> int:
        """Pixels per token along one side."""
        return 2 ** (len(self.block_out_channels) - 1)
