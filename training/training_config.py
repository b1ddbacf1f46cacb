"""Settings of `randar-hf train`, checked before anything is computed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from randar_hf import RandARForCausalLM, RARForCausalLM
from randar_hf.orders import ORDER_NAMES

from .annealing import Annealing
from .optimization import ALL_SCHEDULES
from .run_config import RunConfig
from .validation import check_choice, check_fraction, check_not_negative, check_positive


MODELS = {"randar": RandARForCausalLM, "rar": RARForCausalLM}
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


@dataclass(kw_only=True)
class TrainingConfig(RunConfig):
    """Settings of `train`; every field is an option of `randar-hf train`. The defaults are the published L model."""

    SCHEDULES: ClassVar[tuple[str, ...]] = tuple(ALL_SCHEDULES)

    tokenizer: str | None = field(
        default=None,
        metadata={"help": "folder or Hub name of the tokens' tokenizer; draws previews and makes a pipeline"},
    )
    token_column: str = field(default="tokens", metadata={"help": "column of the tokens"})
    label_column: str = field(default="label", metadata={"help": "column of the classes"})

    model_type: str = field(default="randar", metadata={"help": "randar or rar"})
    pretrained_model: str | None = field(
        default=None, metadata={"help": "folder or Hub name of a model or pipeline to start from, sizes included"}
    )
    lora_rank: int | None = field(
        default=None, metadata={"help": "train LoRA adapters of this rank and the classes alone; of pretrained_model"}
    )
    order: str | None = field(
        default=None,
        metadata={"help": "order of training, to which rar is annealed; random for randar, raster for rar"},
    )
    annealing_start: int | None = field(
        default=None, metadata={"help": "steps of permuted images alone; half of max_steps for rar"}
    )
    annealing_end: int | None = field(
        default=None, metadata={"help": "step from which no image is permuted; three quarters of max_steps for rar"}
    )
    hidden_size: int | None = field(default=None, metadata={"help": "width of the model; the published L's"})
    intermediate_size: int | None = field(
        default=None, metadata={"help": "width inside the feed-forward blocks; the published L's"}
    )
    num_hidden_layers: int | None = field(default=None, metadata={"help": "layers; the published L's"})
    num_attention_heads: int | None = field(default=None, metadata={"help": "attention heads; the published L's"})
    position_instruction: str | None = field(
        default=None, metadata={"help": "rope (the default), dense, merge or none; of randar alone"}
    )
    class_dropout: float | None = field(
        default=None, metadata={"help": "fraction of images trained without their class; 0.1"}
    )
    token_dropout: float | None = field(
        default=None, metadata={"help": "dropout on token embeddings; 0.1, of randar alone"}
    )
    residual_dropout: float | None = field(default=None, metadata={"help": "dropout after attention; 0.1"})
    mlp_dropout: float | None = field(
        default=None, metadata={"help": "dropout in or after the feed-forward blocks; 0.1"}
    )
    attention_dropout: float | None = field(
        default=None, metadata={"help": "dropout on attention weights; 0 for randar, 0.1 for rar"}
    )

    gradient_accumulation_steps: int = field(default=1, metadata={"help": "forward passes per optimizer step"})
    max_steps: int = field(default=360_000, metadata={"help": "optimizer steps"})
    lr_schedule: str = field(
        default="cosine", metadata={"help": "cosine, linear, constant or constant_linear after the warm-up"}
    )
    warmup_steps: int = field(default=50_000, metadata={"help": "optimizer steps of linear warm-up"})
    decay_start: int | None = field(
        default=None, metadata={"help": "step from which constant_linear decays; of that schedule alone"}
    )
    final_learning_rate: float = field(
        default=0.0, metadata={"help": "learning rate at which cosine and constant_linear end"}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's decay of matrices"})
    adam_beta1: float = field(default=0.9, metadata={"help": "AdamW's first beta"})
    adam_beta2: float = field(default=0.95, metadata={"help": "AdamW's second beta"})
    ema_decay: float | None = field(
        default=None, metadata={"help": "decay of a moving average of the weights, which becomes the model"}
    )
    activation_checkpointing: bool = field(
        default=False, metadata={"help": "compute activations again in the backward pass, to save memory"}
    )
    compile: bool = field(default=False, metadata={"help": "compile the model with torch.compile"})
    validation_steps: int = field(default=1000, metadata={"help": "optimizer steps between validations and previews"})
    push_to_hub: str | None = field(
        default=None, metadata={"help": "repository on the Hub to which the trained model or pipeline is pushed"}
    )

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "gradient_accumulation_steps", "validation_steps")
        check_fraction(self, "adam_beta1", "adam_beta2", *(["ema_decay"] if self.ema_decay is not None else []))
        self._check_schedule()
        check_choice(self, "model_type", tuple(MODELS))
        self._check_model_fields()
        self._check_fine_tuning()
        if self.order is not None:
            check_choice(self, "order", ORDER_NAMES)
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
            return Annealing(order, self.max_steps // 2, self.max_steps * 3 // 4)
        return Annealing(order)

    @property
    def model_fields(self) -> dict:
        """The fields of the model's configuration that were given."""
        return {name: getattr(self, name) for name in MODEL_FIELDS if getattr(self, name) is not None}

    def _check_schedule(self):
        if self.final_learning_rate and self.lr_schedule not in ("cosine", "constant_linear"):
            raise ValueError(
                f"`final_learning_rate` must be 0 for {self.lr_schedule!r}, got {self.final_learning_rate}"
            )
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"`final_learning_rate` must be at least 0 and at most `learning_rate`, {self.learning_rate}, got "
                f"{self.final_learning_rate}"
            )
        if self.lr_schedule != "constant_linear":
            if self.decay_start is not None:
                raise ValueError(
                    f"`decay_start` must be None for the schedule {self.lr_schedule!r}, got {self.decay_start}"
                )
        elif self.decay_start is None:
            raise ValueError("`decay_start` must be given for the schedule 'constant_linear'")
        elif not self.warmup_steps <= self.decay_start < self.max_steps:
            raise ValueError(
                f"`decay_start` must be at least `warmup_steps`, {self.warmup_steps}, and below `max_steps`, "
                f"{self.max_steps}, got {self.decay_start}"
            )

    def _check_model_fields(self):
        config_class = MODELS[self.model_type].config_class
        for name, value in self.model_fields.items():
            if not hasattr(config_class, name):
                raise ValueError(f"`{name}` must be None for a model of the type {self.model_type!r}, got {value!r}")

    def _check_fine_tuning(self):
        if self.lora_rank is not None:
            check_positive(self, "lora_rank")
            if self.pretrained_model is None:
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
            others = ", ".join(repr(name) for name in ORDER_NAMES if name != "random")
            raise ValueError(f"`order` must be one of {others} for annealing, got 'random'")
