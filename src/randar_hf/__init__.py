"""RandAR and RAR: autoregressive image generation in any order, for transformers and diffusers."""

from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from . import orders, schedules, vq
from .configuration_generation import RandARGenerationConfig
from .configuration_randar import RandARConfig
from .configuration_rar import RARConfig
from .generation import GenerationState
from .modeling_randar import RandARForCausalLM, RandARModel, RandARPreTrainedModel
from .modeling_rar import RARForCausalLM, RARModel, RARPreTrainedModel


__version__ = "0.1.0"
DEMO_FOLDERS = {"randar": "digits", "rar": "digits-rar"}

AutoConfig.register("randar", RandARConfig, exist_ok=True)
AutoModel.register(RandARConfig, RandARModel, exist_ok=True)
AutoModelForCausalLM.register(RandARConfig, RandARForCausalLM, exist_ok=True)
AutoConfig.register("rar", RARConfig, exist_ok=True)
AutoModel.register(RARConfig, RARModel, exist_ok=True)
AutoModelForCausalLM.register(RARConfig, RARForCausalLM, exist_ok=True)


def demo_checkpoint(model_type: str = "randar") -> str:
    """
    Path of a small checkpoint inside the package (handwritten digits), for the `from_pretrained` of its pipeline.

    Args:
        model_type (`str`): `"randar"` for `RandARPipeline`, `"rar"` for `RARPipeline`.

    Raises:
        ValueError: for another type.
    """
    if model_type not in tuple(DEMO_FOLDERS):
        raise ValueError(f"`model_type` must be one of {', '.join(DEMO_FOLDERS)}, got {model_type!r}.")
    return str(Path(__file__).parent / "checkpoints" / DEMO_FOLDERS[model_type])


__all__ = [
    "GenerationState",
    "RARConfig",
    "RARForCausalLM",
    "RARModel",
    "RARPreTrainedModel",
    "RandARConfig",
    "RandARForCausalLM",
    "RandARGenerationConfig",
    "RandARModel",
    "RandARPreTrainedModel",
    "demo_checkpoint",
    "orders",
    "schedules",
    "vq",
]
