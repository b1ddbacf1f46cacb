"""Configuration of RAR models."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checks import check_grid_size, check_number, check_stored_fields, with_plain_numbers
from .orders import FIXED_ORDER_NAMES, ORDER_NAMES


# The published sizes; all have 16 heads.
SIZES = {
    "B": {"num_hidden_layers": 24, "hidden_size": 768, "intermediate_size": 3072},
    "L": {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096},
    "XL": {"num_hidden_layers": 32, "hidden_size": 1280, "intermediate_size": 5120},
    "XXL": {"num_hidden_layers": 40, "hidden_size": 1408, "intermediate_size": 6144},
}
# What their authors sample them with, by width; any other model has the guidance of the authors' example.
GENERATION = {
    768: {"guidance_scale": 16.0, "guidance_power": 2.75, "temperature": 1.0},
    1024: {"guidance_scale": 15.5, "guidance_power": 2.5, "temperature": 1.02},
    1280: {"guidance_scale": 6.9, "guidance_power": 1.5, "temperature": 1.02},
    1408: {"guidance_scale": 8.0, "guidance_power": 1.2, "temperature": 1.02},
}
OTHER_GENERATION = {"guidance_scale": 4.0, "guidance_power": 0.0, "temperature": 1.0}


@with_plain_numbers
@strict
class RARConfig(PreTrainedConfig):
    r"""
    Configuration of a [`RARForCausalLM`] model; the defaults are the published L model (461M parameters).

    Args:
        vocab_size (`int`): entries of the image tokenizer's codebook.
        hidden_size (`int`): width of the residual stream, a multiple of `num_attention_heads`.
        intermediate_size (`int`): width inside the feed-forward blocks.
        num_hidden_layers (`int`): decoder layers.
        num_attention_heads (`int`): attention heads.
        layer_norm_eps (`float`): epsilon of the normalisation layers.
        num_classes (`int`): classes; the null class has the id `num_classes`.
        grid_size (`int` or `(int, int)`): tokens per side of the grid, or its rows and columns.
        scan_order (`str`): the order that training was annealed to, which is that of generation: a fixed one, or one
            sampled anew for each image, after which the model generates in any.
        random_ratio (`float`): fraction of the images that were still permuted when training ended, in [0, 1]; 0 for a
            model that is annealed to `scan_order`.
        merged_positions (`bool`): whether both tables of positions are merged into one, by position in the sequence.
        class_dropout (`float`): fraction of training images whose class is replaced by the null class.
        residual_dropout (`float`): dropout after the attention's output projection.
        mlp_dropout (`float`): dropout after both layers of the feed-forward block.
        attention_dropout (`float`): dropout on attention weights.
        initializer_range (`float`): standard deviation of initial weights.

    Raises a `ValueError` that names the field for another type, sizes that do not divide, empty grids, unknown orders,
    fractions out of range, and merged positions of a model that is not annealed to a fixed order.
    """

    model_type = "rar"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    vocab_size: int = 1024
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    layer_norm_eps: float = 1e-6
    num_classes: int = 1000
    grid_size: int | tuple[int, int] | list[int] = 16
    scan_order: str = "raster"
    random_ratio: float | int = 0.0
    merged_positions: bool = False
    class_dropout: float | int = 0.1
    residual_dropout: float | int = 0.1
    mlp_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        self._check_sizes()
        self._check_order()
        for name in ("class_dropout", "residual_dropout", "mlp_dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie in [0, 1), got {getattr(self, name)}.")
        for name, interval in (("layer_norm_eps", "(0, 1]"), ("initializer_range", "[0, inf)")):
            check_number(name, getattr(self, name), interval)
        check_stored_fields(self, kwargs)
        super().__post_init__(**kwargs)

    @classmethod
    def from_size(cls, size: str, **kwargs) -> "RARConfig":
        """The configuration of a published size, `"B"`, `"L"`, `"XL"` or `"XXL"`; `kwargs` override fields of it."""
        if size not in SIZES:
            raise ValueError(f"`size` must be one of {', '.join(SIZES)}, got {size!r}.")
        return cls(**{**SIZES[size], **kwargs})

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the token grid."""
        height, width = [self.grid_size] * 2 if isinstance(self.grid_size, int) else self.grid_size
        return height, width

    @property
    def num_tokens(self) -> int:
        """Tokens of one image."""
        return self.grid[0] * self.grid[1]

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        """Key and value heads: as many as query heads."""
        return self.num_attention_heads

    @property
    def fixed_order(self) -> str | None:
        """The one order in which the model generates, `None` if it was trained to do so in any."""
        return self.scan_order if self.scan_order in FIXED_ORDER_NAMES else None

    @property
    def only_order(self) -> str | None:
        """The one order in which the model reads an image, `None` if it can do so in any."""
        return self.scan_order if self.merged_positions else None

    @property
    def has_position_embeddings(self) -> bool:
        """Each position of the grid has an embedding, so that there is no other grid."""
        return True

    @property
    def generation_defaults(self) -> dict[str, Any]:
        """Settings of generation: the authors' for a model of this width, one token a step."""
        guidance = GENERATION.get(self.hidden_size, OTHER_GENERATION)
        steps = {"order": self.scan_order, "num_inference_steps": self.num_tokens}
        return {**steps, "guidance_schedule": "power_cosine", **guidance}

    def _check_sizes(self):
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.num_classes < 1:
            raise ValueError(f"`num_classes` must be at least 1, got {self.num_classes}.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` must be a multiple of `num_attention_heads` = {self.num_attention_heads}, "
                f"got {self.hidden_size}."
            )
        check_grid_size(self.grid_size)

    def _check_order(self):
        if self.scan_order not in ORDER_NAMES:
            raise ValueError(f"`scan_order` must be one of {', '.join(ORDER_NAMES)}, got {self.scan_order!r}.")
        if not 0 <= self.random_ratio <= 1:
            raise ValueError(f"`random_ratio` must lie in [0, 1], got {self.random_ratio}.")
        if self.merged_positions and (self.random_ratio > 0 or self.fixed_order is None):
            raise ValueError(
                "`merged_positions` needs a model that is annealed to a fixed `scan_order`, "
                f"got {self.scan_order!r} with `random_ratio` {self.random_ratio}."
            )


__all__ = ["RARConfig"]
