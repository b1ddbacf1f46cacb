"""Settings that fit the data: what a run leaves open follows the number of images and their size."""

import json
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from accelerate import Accelerator

from .data.pixels import image_content, read_image
from .run_config import RunConfig
from .run_settings import RUN_FILE
from .tokenizer_training_config import TokenizerTrainingConfig
from .training_config import TrainingConfig


Config = TypeVar("Config", bound=RunConfig)
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
STEPS = ("batch_size", "max_steps", "warmup_steps", "learning_rate")
DROPOUTS = ("residual_dropout", "mlp_dropout")
OPEN_FIELDS = ("preset", *STEPS, *SIZES, "image_size", "block_out_channels", "codebook_size", *DROPOUTS)
LOOKED_AT = 16  # images whose size is looked at


@dataclass(frozen=True)
class Steps:
    """The training steps of a preset: so many passes over the images, and no fewer than `least_steps`."""

    batch_size: int
    least_steps: int
    passes: int
    warmup_steps: int
    learning_rate: float

    def settings(self, config: RunConfig, num_images: int, num_processes: int) -> dict:
        """What the steps are for a number of images, where those of `config` are open."""
        batch_size = config.batch_size or max(1, min(self.batch_size, num_images // num_processes))
        accumulation = getattr(config, "gradient_accumulation_steps", 1)
        steps = self.passes * num_images // (batch_size * num_processes * accumulation)
        max_steps = config.max_steps or max(self.least_steps, steps)
        return {
            "batch_size": batch_size,
            "max_steps": max_steps,
            "warmup_steps": min(self.warmup_steps, max_steps // 7),
            "learning_rate": self.learning_rate,
        }


@dataclass(frozen=True)
class Preset:
    """Sizes and steps of both trainings.

    Args:
        most_images: up to which number it is chosen.
        image_size: pixels per side at most.
        channels: of the tokenizer's levels, the first ones of them where fewer levels are enough.
        codebook_size: of the tokenizer.
        tokenizer_steps: of `train-tokenizer`.
        model_sizes: of `train`, and dropouts where they are not the published ones; empty for the published L.
        model_steps: of `train`.
    """

    most_images: float
    image_size: int
    channels: tuple[int, ...]
    codebook_size: int
    tokenizer_steps: Steps
    model_sizes: dict[str, float]
    model_steps: Steps


PRESETS = {
    "small": Preset(
        most_images=5_000,
        image_size=64,
        channels=(16, 32, 32, 64),
        codebook_size=512,
        tokenizer_steps=Steps(16, least_steps=800, passes=50, warmup_steps=100, learning_rate=2e-3),
        model_sizes=dict(zip((*SIZES, *DROPOUTS), (160, 448, 5, 5, 0.0, 0.0))),
        model_steps=Steps(8, least_steps=4000, passes=100, warmup_steps=100, learning_rate=2e-3),
    ),
    "medium": Preset(
        most_images=300_000,
        image_size=128,
        channels=(64, 128, 128, 256),
        codebook_size=1024,
        tokenizer_steps=Steps(64, least_steps=6000, passes=20, warmup_steps=500, learning_rate=4e-4),
        model_sizes=dict(zip(SIZES, (512, 1408, 12, 8))),
        model_steps=Steps(64, least_steps=12_000, passes=60, warmup_steps=500, learning_rate=5e-4),
    ),
    "published": Preset(
        most_images=float("inf"),
        image_size=256,
        channels=(64, 128, 128, 256, 256),
        codebook_size=4096,
        tokenizer_steps=Steps(32, least_steps=50_000, passes=0, warmup_steps=500, learning_rate=4e-4),
        model_sizes={},
        model_steps=Steps(32, least_steps=360_000, passes=0, warmup_steps=50_000, learning_rate=4e-4),
    ),
}


def fit_tokenizer_settings(config: TokenizerTrainingConfig, rows, accelerator: Accelerator) -> TokenizerTrainingConfig:
    """Settings of `train-tokenizer` without open ones.

    Args:
        config: the settings.
        rows: images to train on, as `undecoded` gives them.
        accelerator: whose processes share the images.
    """
    config = _follow_resumed(config, accelerator)
    name = config.preset or choose_preset(len(rows))
    preset = PRESETS[name]
    image_size, channels = config.image_size or preset.image_size, list(preset.channels)
    if name != "published":
        if config.image_size is None:
            image_size = min(image_size, _usual_size(rows, config.image_column))
        tokens = 8 if image_size <= 64 else 16  # per side
        levels = max(1, (image_size // tokens).bit_length())
        channels = [channels[min(level, len(channels) - 1)] for level in range(levels)]
    choices = {
        "preset": name,
        "image_size": image_size,
        "block_out_channels": channels,
        "codebook_size": preset.codebook_size,
        **preset.tokenizer_steps.settings(config, len(rows), accelerator.num_processes),
    }
    return _fill(config, choices, accelerator)


def fit_model_settings(config: TrainingConfig, num_images: int, accelerator: Accelerator) -> TrainingConfig:
    """Settings of `train` without open ones; where one of the sizes is given, the others are the published L's.

    Args:
        config: the settings; those of `follow_pretrained` if there is a pretrained model.
        num_images: rows of tokens to train on.
        accelerator: whose processes share them.
    """
    config = _follow_resumed(config, accelerator)
    name = config.preset or choose_preset(num_images)
    preset = PRESETS[name]
    sizes = {} if set(config.model_fields) & set(SIZES) else preset.model_sizes
    steps = preset.model_steps.settings(config, num_images, accelerator.num_processes)
    return _fill(config, {"preset": name, **sizes, **steps}, accelerator)


def choose_preset(num_images: int) -> str:
    """The name of the preset for a number of images."""
    return next(name for name, preset in PRESETS.items() if num_images <= preset.most_images)


def _fill(config: Config, choices: dict, accelerator: Accelerator) -> Config:
    """Settings with the choices for what is open, told on stderr."""
    chosen = {name: value for name, value in choices.items() if getattr(config, name) is None and value is not None}
    if chosen and accelerator.is_main_process:
        print("chosen settings: " + ", ".join(f"{name} {value}" for name, value in chosen.items()), file=sys.stderr)
    return replace(config, **chosen)


def _follow_resumed(config: Config, accelerator: Accelerator) -> Config:
    """Settings of a run that is resumed, in which what is open is as it was."""
    if not config.resume:
        return config
    stored = json.loads((Path(config.output_dir).expanduser() / RUN_FILE).read_text())["config"]
    names = [name for name in OPEN_FIELDS if hasattr(config, name)]
    return _fill(config, {name: stored.get(name) for name in names}, accelerator)


def _usual_size(rows, image_column: str) -> int:
    """The greatest power of two up to the median of the shorter sides of a few images, at least 16 pixels."""
    sides = []
    for index in np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows)), dtype=int):
        with suppress(ValueError, OSError):
            sides.append(min(read_image(image_content(rows[int(index)][image_column])[0]).size))
    return max(16, 1 << int(np.median(sides or [16])).bit_length() - 1)
