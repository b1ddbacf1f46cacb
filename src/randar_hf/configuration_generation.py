"""Settings of generation, stored beside a model."""

from typing import Any

from transformers import GenerationConfig

from .checks import check_flag, check_int, check_number
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
        do_sample (`bool`): sample tokens; otherwise the most likely one is taken.
        temperature (`float`): divides the logits, above 0.
        top_k (`int`): only the k most likely tokens are sampled; 0 for all.
        top_p (`float`): only the most likely tokens that make up this fraction are sampled, in (0, 1].
        speculative_window (`int`, *optional*): lossless decoding: the tokens of one step a token, in fewer passes,
            each of which asks for so many tokens, at least 1; `None` decodes in `num_inference_steps`.

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
        speculative_window: int | None = None,
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
        self.speculative_window = speculative_window
        self.transformers_version = transformers_version
        self._from_model_config = _from_model_config
        self._commit_hash = _commit_hash
        self.validate()

    def validate(self, **kwargs):
        """Check every setting and keep its numbers as Python's own; a `ValueError` names the first out of range."""
        if self.order not in ORDER_NAMES:
            raise ValueError(f"`order` must be one of {', '.join(ORDER_NAMES)}, got {self.order!r}.")
        if self.guidance_schedule not in GUIDANCE_SCHEDULES:
            raise ValueError(
                f"`guidance_schedule` must be one of {', '.join(GUIDANCE_SCHEDULES)}, got {self.guidance_schedule!r}."
            )
        self.num_inference_steps = check_int("num_inference_steps", self.num_inference_steps, 1)
        self.guidance_scale = check_number("guidance_scale", self.guidance_scale)
        self.guidance_power = check_number("guidance_power", self.guidance_power)
        self.do_sample = check_flag("do_sample", self.do_sample)
        note = "; `do_sample=False` takes the most likely token"
        self.temperature = check_number("temperature", self.temperature, "(0, inf)", note)
        self.top_k = check_int("top_k", self.top_k, 0, note=" (0 keeps all tokens)")
        self.top_p = check_number("top_p", self.top_p, "(0, 1]")
        if self.speculative_window is not None:
            self.speculative_window = check_int("speculative_window", self.speculative_window, 1)

    @classmethod
    def from_model_config(cls, model_config) -> "RandARGenerationConfig":
        """The defaults for a model, which its configuration knows."""
        return cls(**model_config.generation_defaults, _from_model_config=True)

    def to_diff_dict(self) -> dict[str, Any]:
        """All settings: what to leave out would be judged by the parent's defaults, which are those of text."""
        return {name: value for name, value in self.to_dict().items() if not name.startswith("_")}


__all__ = ["RandARGenerationConfig"]
