"""RandAR and RAR: autoregressive image generation in any order, for transformers and diffusers."""

import sys
from importlib import import_module
from pathlib import Path


__version__ = "0.1.0"
DEMO_FOLDERS = {"randar": "icons", "rar": "icons-rar"}
MODULES = ("orders", "schedules", "vq")
HOMES = {
    "GenerationState": "generation",
    "RARConfig": "configuration_rar",
    "RARForCausalLM": "modeling_rar",
    "RARModel": "modeling_rar",
    "RARPreTrainedModel": "modeling_rar",
    "RandARConfig": "configuration_randar",
    "RandARForCausalLM": "modeling_randar",
    "RandARGenerationConfig": "configuration_generation",
    "RandARModel": "modeling_randar",
    "RandARPreTrainedModel": "modeling_randar",
}

PIPELINES = (
    "RARPipeline",
    "RandARExtrapolationPipeline",
    "RandARInpaintPipeline",
    "RandAROutpaintPipeline",
    "RandARPipeline",
)

__all__ = sorted([*HOMES, *MODULES, *PIPELINES, "demo_checkpoint"])


def __getattr__(name: str):
    """Import the module of a public name at its first use."""
    if name in MODULES:
        return import_module(f"{__name__}.{name}")
    if name in PIPELINES:
        return getattr(import_module(f"{__name__}.pipelines"), name)
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(f"{__name__}.auto_classes")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)


def __dir__():
    return __all__


def demo_checkpoint(model_type: str = "randar") -> str:
    """
    Path of a small checkpoint inside the package, of icons, for the `from_pretrained` of its pipeline.

    Args:
        model_type (`str`): `"randar"` for `RandARPipeline`, `"rar"` for `RARPipeline`.

    Raises:
        ValueError: for another type.
    """
    if model_type not in tuple(DEMO_FOLDERS):
        raise ValueError(f"`model_type` must be one of {', '.join(DEMO_FOLDERS)}, got {model_type!r}.")
    return str(Path(__file__).parent / "checkpoints" / DEMO_FOLDERS[model_type])


def _is_command_line() -> bool:
    """Whether this process is `randar-hf` or `python -m randar_hf`, whose help waits for no torch."""
    words = sys.orig_argv[1:3]
    as_module = (["-m", "randar_hf"], ["-m", "randar_hf.cli"])
    return words in as_module or bool(words) and Path(words[0]).stem == "randar-hf"


if _is_command_line():
    import_module(f"{__name__}.early_interrupts").answer_interrupts()
else:
    import_module(f"{__name__}.auto_classes")
