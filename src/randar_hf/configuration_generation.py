"""Settings of generation, stored beside a model."""

from typing import Any

from transformers import GenerationConfig

from .checks import is_finite, is_int
from .orders import ORDER_NAMES
from .schedules import GUIDANCE_SCHEDULES


class RandARGenerationConfig(GenerationConfig):
    """
    Settings of [`RandARGenerationMixin.generate`], stored with a model as `generation_config.json`.

    Args:
        order (`str`): name of the decoding order, see [`~randar_hf.orders.make_order`].
        num_inference_steps (`int`): decoding steps, at least 1; images with fewer tokens take a step per token.
        guidance_scale (`float`): scale of classifier-free guidance, at least 0; 1 turns it off.
        guidance_schedule (`str`): `"linear"` grows from 1 to the scale as tokens become known, `"constant"` stays,
            `"power_cosine"` grows late.
        guidance_power (`float`): exponent of `"power_cosine"`, at least 0; see
            [`~randar_hf.schedules.guidance_weight`].
        do_sample (`bool`): draw tokens; otherwise the most likely one is taken.
        temperature (`float`): divides the logits, above 0.
        top_k (`int`): only the k most likely tokens are drawn; 0 for all.
        top_p (`float`): only the most likely tokens that make up this share are drawn, in (0, 1].

    Raises a `ValueError` that names the setting for values out of range.
    """

    def __init__(
        self,
        order: str = "random",
        num_inference_steps: int = 88,
        guidance_scale: float = 4.0,
        guidance_schedule: str = "linear",
        guidance_power: float = 1.0,
        do_sample: bool = True,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        transformers_version: str | None = None,
        _from_model_config: bool | None = None,
        _commit_hash: str | None = None,
    ):
        # The parent's own settings (lengths, beams, special tokens) have no meaning for images.
        self.order = order
        self.num_inference_steps = num_inference_steps
        self.guidance_scale = guidance_scale
        self.guidance_schedule = guidance_schedule
        self.guidance_power = guidance_power
        self.do_sample = do_sample
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.transformers_version = transformers_version
        self._from_model_config = _from_model_config
        self._commit_hash = _commit_hash
        self.validate()

    def validate(self, **kwargs):
        """Check every setting; raises a `ValueError` that names the first one out of range."""
        if self.order not in ORDER_NAMES:
            raise ValueError(f"`order` must be one of {', '.join(ORDER_NAMES)}, got {self.order!r}.")
        if not is_int(self.num_inference_steps) or self.num_inference_steps < 1:
            raise ValueError(f"`num_inference_steps` must be an int of at least 1, got {self.num_inference_steps!r}.")
        if not is_finite(self.guidance_scale) or self.guidance_scale < 0:
            raise ValueError(f"`guidance_scale` must be a finite number of at least 0, got {self.guidance_scale!r}.")
        if self.guidance_schedule not in GUIDANCE_SCHEDULES:
            raise ValueError(
                f"`guidance_schedule` must be one of {', '.join(GUIDANCE_SCHEDULES)}, got {self.guidance_schedule!r}."
            )
        if not is_finite(self.guidance_power) or self.guidance_power < 0:
            raise ValueError(f"`guidance_power` must be a finite number of at least 0, got {self.guidance_power!r}.")
        if not isinstance(self.do_sample, bool):
            raise ValueError(f"`do_sample` must be True or False, got {self.do_sample!r}.")
        if not is_finite(self.temperature) or self.temperature <= 0:
            raise ValueError(
                f"`temperature` must be a finite number above 0, got {self.temperature!r}; "
                "`do_sample=False` takes the most likely token."
            )
        if not is_int(self.top_k) or self.top_k < 0:
            raise ValueError(f"`top_k` must be an int of at least 0 (0 keeps all tokens), got {self.top_k!r}.")
        if not is_finite(self.top_p) or not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` must lie in (0, 1], got {self.top_p!r}.")

    @classmethod
    def from_model_config(cls, model_config) -> "RandARGenerationConfig":
        """The defaults for a model, which its configuration knows."""
        return cls(**model_config.generation_defaults, _from_model_config=True)

    def to_diff_dict(self) -> dict[str, Any]:
        """All settings: what to leave out would be judged by the parent's defaults, which are those of text."""
        return {name: value for name, value in self.to_dict().items() if not name.startswith("_")}


__all__ = ["RandARGenerationConfig"]
