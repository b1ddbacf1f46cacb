"""Configuration of RandAR models."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checks import check_grid_size, check_number, check_stored_fields, with_plain_numbers


POSITION_INSTRUCTIONS = ("rope", "dense", "merge", "none")

# Table A of the paper; B is LlamaGen's smallest size.
SIZES = {
    "B": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 2048},
    "L": {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 2816},
    "XL": {"num_hidden_layers": 36, "hidden_size": 1280, "num_attention_heads": 20, "intermediate_size": 3584},
    "XXL": {"num_hidden_layers": 48, "hidden_size": 1536, "num_attention_heads": 24, "intermediate_size": 4096},
}


@with_plain_numbers
@strict
class RandARConfig(PreTrainedConfig):
    r"""
    Configuration of a [`RandARForCausalLM`] model; the defaults are the published L model (343M parameters).

    Args:
        vocab_size (`int`): entries of the image tokenizer's codebook.
        hidden_size (`int`): width of the residual stream.
        intermediate_size (`int`): width inside the gated feed-forward blocks.
        num_hidden_layers (`int`): decoder layers.
        num_attention_heads (`int`): query heads; `hidden_size / num_attention_heads` must be a multiple of 4, since
            half of each head turns with the row and half with the column.
        num_key_value_heads (`int`, *optional*): key and value heads; defaults to `num_attention_heads`.
        rms_norm_eps (`float`): epsilon of the normalisation layers.
        rope_theta (`float`): base of the rotary frequencies.
        num_classes (`int`): classes; the embedding has one row more, the null class, whose id is `num_classes`.
        grid_size (`int` or `(int, int)`): tokens per side of the trained grid, or its rows and columns.
        position_instruction (`str`): `"rope"`, one shared embedding rotated to the next position (Eq. 5); `"dense"`,
            an embedding per position; `"merge"`, the dense embedding added to the preceding token; `"none"`, a plain
            raster-order model.
        class_dropout (`float`): fraction of training images whose class is replaced by the null class.
        token_dropout (`float`): dropout on the elements of image token embeddings.
        residual_dropout (`float`): dropout after the attention's output projection.
        mlp_dropout (`float`): dropout after the feed-forward block.
        attention_dropout (`float`): dropout on attention weights.
        initializer_range (`float`): standard deviation of initial weights.

    Raises a `ValueError` that names the field for another type, sizes that do not divide, empty grids and fractions
    outside [0, 1).
    """

    model_type = "randar"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    vocab_size: int = 16384
    hidden_size: int = 1024
    intermediate_size: int = 2816
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    rms_norm_eps: float = 1e-5
    rope_theta: float | int = 10000.0
    num_classes: int = 1000
    grid_size: int | tuple[int, int] | list[int] = 16
    position_instruction: str = "rope"
    class_dropout: float | int = 0.1
    token_dropout: float | int = 0.1
    residual_dropout: float | int = 0.1
    mlp_dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        self._check_sizes()
        check_grid_size(self.grid_size)
        self._check_dropout()
        for name, interval in (
            ("rms_norm_eps", "(0, 1]"),
            ("rope_theta", "(0, inf)"),
            ("initializer_range", "[0, inf)"),
        ):
            check_number(name, getattr(self, name), interval)
        check_stored_fields(self, kwargs)
        super().__post_init__(**kwargs)

    @classmethod
    def from_size(cls, size: str, **kwargs) -> "RandARConfig":
        """The configuration of a published size, `"B"`, `"L"`, `"XL"` or `"XXL"`; `kwargs` override fields of it."""
        if size not in SIZES:
            raise ValueError(f"`size` must be one of {', '.join(SIZES)}, got {size!r}.")
        return cls(**{**SIZES[size], **kwargs})

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the trained token grid."""
        height, width = [self.grid_size] * 2 if isinstance(self.grid_size, int) else self.grid_size
        return height, width

    @property
    def num_tokens(self) -> int:
        """Tokens of one image on the trained grid."""
        return self.grid[0] * self.grid[1]

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def fixed_order(self) -> str | None:
        """The one order in which the model generates, `None` if it can do so in any."""
        return "raster" if self.position_instruction == "none" else None

    @property
    def only_order(self) -> str | None:
        """The one order in which the model reads an image, `None` if it can do so in any."""
        return self.fixed_order

    @property
    def has_position_embeddings(self) -> bool:
        """Whether each position of the trained grid has an embedding, so that there is no other grid."""
        return self.position_instruction in ("dense", "merge")

    @property
    def generation_defaults(self) -> dict[str, Any]:
        """Settings of generation: the paper's, with no more steps than tokens; one a token in raster order."""
        if self.fixed_order is not None:
            return {"order": self.fixed_order, "num_inference_steps": self.num_tokens}
        return {"num_inference_steps": min(88, self.num_tokens)}

    # Not `validate_...` methods: those report through an exception that is no ValueError.
    def _check_sizes(self):
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.num_classes < 1:
            raise ValueError(f"`num_classes` must be at least 1, got {self.num_classes}.")
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                f"`hidden_size` must be a multiple of 4 * `num_attention_heads` = {4 * self.num_attention_heads}, "
                f"got {self.hidden_size}."
            )
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"`num_key_value_heads` must divide `num_attention_heads` = {self.num_attention_heads}, "
                f"got {self.num_key_value_heads}."
            )
        if self.position_instruction not in POSITION_INSTRUCTIONS:
            raise ValueError(
                f"`position_instruction` must be one of {', '.join(POSITION_INSTRUCTIONS)}, "
                f"got {self.position_instruction!r}."
            )

    def _check_dropout(self):
        for name in ("class_dropout", "token_dropout", "residual_dropout", "mlp_dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie in [0, 1), got {getattr(self, name)}.")


__all__ = ["RandARConfig"]
