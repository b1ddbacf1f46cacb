"""Settings of `randar-hf train`, checked before anything is computed."""

from dataclasses import dataclass, field
from pathlib import Path

from randar_hf import RandARForCausalLM, RARForCausalLM
from randar_hf.orders import ORDER_NAMES

from .annealing import Annealing
from .optimization import ALL_SCHEDULES
from .validation import check_choice, check_fraction, check_not_negative, check_positive, check_resume


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
class TrainingConfig:
    """Settings of `train`; every field is an option of `randar-hf train`. The defaults are the published L model."""

    dataset: str = field(metadata={"help": "token rows: parquet folder or file, or a data set's Hub name"})
    output_dir: str = field(metadata={"help": "folder for checkpoints, previews and the trained model"})
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "folder or Hub name of the tokens' tokenizer; draws previews and makes a pipeline"},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of a data set on the Hub"})
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    validation_split: str | None = field(default=None, metadata={"help": "held-out split for the validation loss"})
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
        default=None, metadata={"help": "steps of permuted pictures alone; half of max_steps for rar"}
    )
    annealing_end: int | None = field(
        default=None, metadata={"help": "step from which no picture is permuted; three quarters of max_steps for rar"}
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
        default=None, metadata={"help": "share of pictures trained without their class; 0.1"}
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

    batch_size: int = field(default=32, metadata={"help": "pictures per micro-step and process"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "micro-steps per optimizer step"})
    max_steps: int = field(default=360_000, metadata={"help": "optimizer steps"})
    learning_rate: float = field(default=4e-4, metadata={"help": "highest learning rate"})
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
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    max_skipped_steps: int = field(
        default=100, metadata={"help": "steps without a finite gradient, one after another, that are skipped"}
    )
    ema_decay: float | None = field(
        default=None, metadata={"help": "decay of a moving average of the weights, which becomes the model"}
    )
    activation_checkpointing: bool = field(
        default=False, metadata={"help": "compute activations again in the backward pass, to save memory"}
    )
    compile: bool = field(default=False, metadata={"help": "compile the model with torch.compile"})
    seed: int = field(default=0, metadata={"help": "seed of weights, shuffling, orders and dropout"})
    mixed_precision: str = field(default="no", metadata={"help": "no, fp16 or bf16"})
    num_workers: int = field(default=0, metadata={"help": "processes that read rows"})

    logging_steps: int = field(default=50, metadata={"help": "optimizer steps between two log lines"})
    validation_steps: int = field(default=1000, metadata={"help": "optimizer steps between validations and previews"})
    checkpointing_steps: int = field(default=1000, metadata={"help": "optimizer steps between checkpoints"})
    checkpoints_total_limit: int = field(default=2, metadata={"help": "checkpoints that are kept"})
    report_to: str = field(
        default="none", metadata={"help": "tracker: none, tensorboard, wandb, trackio, ...; several with commas"}
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "repository on the Hub to which the trained model or pipeline is pushed"}
    )
    resume: str | None = field(default=None, metadata={"help": "latest, or the path of a checkpoint to continue from"})
    overwrite: bool = field(default=False, metadata={"help": "delete the run that output_dir holds"})

    def __post_init__(self):
        check_positive(self, "batch_size", "gradient_accumulation_steps", "max_steps", "learning_rate")
        check_positive(self, "max_grad_norm", "logging_steps", "validation_steps", "checkpointing_steps")
        check_positive(self, "checkpoints_total_limit")
        check_not_negative(self, "warmup_steps", "weight_decay", "num_workers", "max_skipped_steps")
        check_fraction(self, "adam_beta1", "adam_beta2", *(["ema_decay"] if self.ema_decay is not None else []))
        check_choice(self, "mixed_precision", ("no", "fp16", "bf16"))
        self._check_schedule()
        check_resume(self)
        check_choice(self, "model_type", tuple(MODELS))
        self._check_model_fields()
        self._check_fine_tuning()
        if self.order is not None:
            check_choice(self, "order", ORDER_NAMES)
        self._check_annealing()
        if self.position_instruction == "none" and self.annealing != Annealing("raster"):
            raise ValueError(
                "`position_instruction`: 'none' was given; it must be another one for any `order` but 'raster' and "
                "for annealing"
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
        check_choice(self, "lr_schedule", tuple(ALL_SCHEDULES))
        if self.final_learning_rate and self.lr_schedule not in ("cosine", "constant_linear"):
            raise ValueError(
                f"`final_learning_rate`: {self.final_learning_rate} was given; it must be 0 for {self.lr_schedule!r}"
            )
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"`final_learning_rate`: {self.final_learning_rate} was given; it must be at least 0 and at most "
                f"`learning_rate`, {self.learning_rate}"
            )
        if self.lr_schedule != "constant_linear":
            if self.decay_start is not None:
                raise ValueError(
                    f"`decay_start`: {self.decay_start} was given; the schedule {self.lr_schedule!r} has none"
                )
        elif self.decay_start is None:
            raise ValueError("`decay_start`: it must be given for the schedule 'constant_linear'")
        elif not self.warmup_steps <= self.decay_start < self.max_steps:
            raise ValueError(
                f"`decay_start`: {self.decay_start} was given; it must be at least `warmup_steps`, "
                f"{self.warmup_steps}, and below `max_steps`, {self.max_steps}"
            )

    def _check_model_fields(self):
        config_class = MODELS[self.model_type].config_class
        for name, value in self.model_fields.items():
            if not hasattr(config_class, name):
                raise ValueError(f"`{name}`: {value!r} was given; a model of the type {self.model_type!r} has none")

    def _check_fine_tuning(self):
        if self.lora_rank is not None:
            if not isinstance(self.lora_rank, int) or self.lora_rank < 1:
                raise ValueError(f"`lora_rank`: {self.lora_rank} was given; it must be a whole number above 0")
            if self.pretrained_model is None:
                raise ValueError("`pretrained_model`: it must be given, since `lora_rank` is")
        if self.pretrained_model is not None:
            path, output_dir = Path(self.pretrained_model), Path(self.output_dir).expanduser()
            if path.exists() and path.resolve().is_relative_to(output_dir.resolve()):
                raise ValueError(
                    f"`output_dir`: {self.output_dir!r} was given, which holds `pretrained_model`, "
                    f"{self.pretrained_model!r}; choose another folder"
                )

    def _check_annealing(self):
        names = ("annealing_start", "annealing_end")
        given = [name for name in names if getattr(self, name) is not None]
        for name in given:
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"`{name}`: {getattr(self, name)} was given; it must be a whole number of steps")
        check_not_negative(self, *given)
        if len(given) == 1:
            other = names[1 - names.index(given[0])]
            raise ValueError(f"`{other}`: it must be given, since `{given[0]}` is")
        if given and self.annealing_end < self.annealing_start:
            raise ValueError(
                f"`annealing_end`: {self.annealing_end} was given; it must be at least `annealing_start`, "
                f"{self.annealing_start}"
            )
        if given and self.annealing.order == "random":
            others = ", ".join(repr(name) for name in ORDER_NAMES if name != "random")
            raise ValueError(f"`order`: annealing to 'random' was asked for; it must be one of {others}")
