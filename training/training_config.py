"""Settings of `randar-hf train`, checked before anything is computed."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import randar_hf

from .annealing import Annealing
from .run_config import ALL_SCHEDULES, DATA, MODEL, OUTPUT, STEPS, RunConfig
from .validation import check_choice, check_fraction, check_not_negative, check_positive, setting


MODEL_TYPES = ("randar", "rar")
OPTIMIZERS = ("adamw", "muon")
# Fields of a model's configuration; None stands for its own default, that of the published L model.
MODEL_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "position_instruction",
    "class_dropout",
    "token_dropout",
    "residual_dropout",
    "mlp_dropout",
    "attention_dropout",
)


def model_class(model_type: str) -> type:
    """The class of the models of a type."""
    return {"randar": randar_hf.RandARForCausalLM, "rar": randar_hf.RARForCausalLM}[model_type]


@dataclass(kw_only=True)
class TrainingConfig(RunConfig):
    """Settings of `train`; every field is an option of `randar-hf train`."""

    SCHEDULES: ClassVar[tuple[str, ...]] = tuple(ALL_SCHEDULES)

    tokenizer: str | None = setting(
        DATA, "folder or Hub name of the tokens' tokenizer; makes previews and a pipeline", None
    )
    token_column: str = setting(DATA, "column of the tokens", "tokens")
    label_column: str = setting(DATA, "column of the classes", "label")

    model_type: str = setting(MODEL, "randar or rar", "randar")
    pretrained_model: str | None = setting(
        MODEL, "folder or Hub name of a model or pipeline to start from, sizes included", None
    )
    lora_rank: int | None = setting(
        MODEL, "train LoRA adapters of this rank and the classes alone; of pretrained_model", None
    )
    order: str | None = setting(
        MODEL, "order of training, to which rar is annealed; random for randar, raster for rar", None
    )
    annealing_start: int | None = setting(MODEL, "steps of permuted images alone; half of max_steps for rar", None)
    annealing_end: int | None = setting(
        MODEL, "step from which no image is permuted; three quarters of max_steps for rar", None
    )
    hidden_size: int | None = setting(MODEL, "width of the model; the preset's by default", None)
    intermediate_size: int | None = setting(MODEL, "width inside the feed-forward blocks; the preset's", None)
    num_hidden_layers: int | None = setting(MODEL, "layers; the preset's by default", None)
    num_attention_heads: int | None = setting(MODEL, "attention heads; the preset's by default", None)
    position_instruction: str | None = setting(
        MODEL, "rope (the default), dense, merge or none; of randar alone", None
    )
    class_dropout: float | None = setting(MODEL, "fraction of images trained without their class; 0.1", None)
    token_dropout: float | None = setting(MODEL, "dropout on token embeddings; 0.1, of randar alone", None)
    residual_dropout: float | None = setting(MODEL, "dropout after attention; 0.1", None)
    mlp_dropout: float | None = setting(MODEL, "dropout in or after the feed-forward blocks; 0.1", None)
    attention_dropout: float | None = setting(MODEL, "dropout on attention weights; 0 for randar, 0.1 for rar", None)

    gradient_accumulation_steps: int = setting(STEPS, "forward passes per optimizer step", 1)
    lr_schedule: str | None = setting(
        STEPS,
        "cosine, linear, constant or constant_linear after the warm-up; constant_linear with patience, else cosine",
        None,
    )
    decay_start: int | None = setting(
        STEPS, "step from which constant_linear decays; four fifths of max_steps, of that schedule alone", None
    )
    final_learning_rate: float = setting(STEPS, "learning rate at which cosine and constant_linear end", 0.0)
    optimizer: str = setting(STEPS, "adamw, or muon for the matrices of the layers", "adamw")
    weight_decay: float = setting(STEPS, "decay of matrices", 0.05)
    adam_beta1: float = setting(STEPS, "AdamW's first beta", 0.9)
    adam_beta2: float = setting(STEPS, "AdamW's second beta", 0.95)
    ema_decay: float | None = setting(STEPS, "decay of a moving average of the weights, which becomes the model", None)
    activation_checkpointing: bool = setting(
        STEPS, "compute activations again in the backward pass, to save memory", False
    )
    compile: bool = setting(STEPS, "compile the model with torch.compile", False)
    push_to_hub: str | None = setting(
        OUTPUT, "repository on the Hub to which the trained model or pipeline is pushed", None
    )

    def __post_init__(self):
        if self.lr_schedule is None:
            self.lr_schedule = "cosine" if self.patience is None else "constant_linear"
        super().__post_init__()
        check_positive(self, "gradient_accumulation_steps", "lora_rank")
        check_fraction(self, "adam_beta1", "adam_beta2", "ema_decay")
        self._check_schedule()
        check_choice(self, "model_type", MODEL_TYPES)
        check_choice(self, "optimizer", OPTIMIZERS)
        self._check_model_fields()
        self._check_fine_tuning()
        check_choice(self, "order", randar_hf.orders.ORDER_NAMES)
        self._check_annealing()
        if self.position_instruction == "none" and self.annealing != Annealing("raster"):
            raise ValueError(
                "`position_instruction` must be another one for any `order` but 'raster' and for annealing, got 'none'"
            )

    @property
    def annealing(self) -> Annealing:
        """The orders of training; where nothing is given, RAR's are the published ones: annealed from 1/2 to 3/4.

        A pretrained RAR was annealed before, so it is trained in its order alone.
        """
        is_rar = self.model_type == "rar"
        order = self.order or ("raster" if is_rar or self.position_instruction == "none" else "random")
        if self.annealing_start is not None:
            return Annealing(order, self.annealing_start, self.annealing_end)
        if is_rar and order != "random" and self.pretrained_model is None:
            steps = self.max_steps or 0  # open until the data are known
            return Annealing(order, steps // 2, steps * 3 // 4)
        return Annealing(order)

    @property
    def constant_until(self) -> float:
        """The step up to which the learning rate does not depend on `max_steps`."""
        return {"constant": math.inf, "constant_linear": self.decay_start}.get(self.lr_schedule, 0)

    @property
    def model_fields(self) -> dict:
        """The fields of the model's configuration that were given."""
        return {name: getattr(self, name) for name in MODEL_FIELDS if getattr(self, name) is not None}

    def _check_schedule(self):
        if self.final_learning_rate and self.lr_schedule not in ("cosine", "constant_linear"):
            raise ValueError(
                f"`final_learning_rate` must be 0 for {self.lr_schedule!r}, got {self.final_learning_rate}"
            )
        if not 0 <= self.final_learning_rate <= (self.learning_rate or math.inf):
            raise ValueError(
                f"`final_learning_rate` must be at least 0 and at most `learning_rate`, {self.learning_rate}, got "
                f"{self.final_learning_rate}"
            )
        if self.lr_schedule != "constant_linear":
            if self.decay_start is not None:
                raise ValueError(
                    f"`decay_start` must be None for the schedule {self.lr_schedule!r}, got {self.decay_start}"
                )
            return
        if None in (self.warmup_steps, self.max_steps):
            return  # until the data are known
        if self.decay_start is None:
            self.decay_start = max(self.warmup_steps, self.max_steps * 4 // 5)
        if not self.warmup_steps <= self.decay_start < self.max_steps:
            raise ValueError(
                f"`decay_start` must be at least `warmup_steps`, {self.warmup_steps}, and below `max_steps`, "
                f"{self.max_steps}, got {self.decay_start}"
            )

    def _check_model_fields(self):
        for name, value in self.model_fields.items():
            if not hasattr(model_class(self.model_type).config_class, name):
                raise ValueError(f"`{name}` must be None for a model of the type {self.model_type!r}, got {value!r}")

    def _check_fine_tuning(self):
        if self.lora_rank is not None and self.pretrained_model is None:
            raise ValueError("`pretrained_model` must be given, since `lora_rank` is")
        if self.pretrained_model is not None:
            path, output_dir = Path(self.pretrained_model), Path(self.output_dir).expanduser()
            if path.exists() and path.resolve().is_relative_to(output_dir.resolve()):
                raise ValueError(
                    f"`output_dir` must not hold `pretrained_model` {self.pretrained_model!r}, got {self.output_dir!r}"
                )

    def _check_annealing(self):
        names = ("annealing_start", "annealing_end")
        given = [name for name in names if getattr(self, name) is not None]
        check_not_negative(self, *given)
        if len(given) == 1:
            other = names[1 - names.index(given[0])]
            raise ValueError(f"`{other}` must be given, since `{given[0]}` is")
        if given and self.annealing_end < self.annealing_start:
            raise ValueError(
                f"`annealing_end` must be at least `annealing_start`, {self.annealing_start}, got {self.annealing_end}"
            )
        if given and self.annealing.order == "random":
            others = ", ".join(repr(name) for name in randar_hf.orders.ORDER_NAMES if name != "random")
            raise ValueError(f"`order` must be one of {others} for annealing, got 'random'")
