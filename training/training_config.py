"""Settings of `randar-hf train`, checked before anything is computed."""

from dataclasses import dataclass, field

from .optimization import SCHEDULES
from .validation import check_choice, check_fraction, check_not_negative, check_positive


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

    hidden_size: int = field(default=1024, metadata={"help": "width of the model"})
    intermediate_size: int = field(default=2816, metadata={"help": "width inside the feed-forward blocks"})
    num_hidden_layers: int = field(default=24, metadata={"help": "layers"})
    num_attention_heads: int = field(default=16, metadata={"help": "attention heads"})
    position_instruction: str = field(default="rope", metadata={"help": "rope, dense, merge or none"})
    class_dropout: float = field(default=0.1, metadata={"help": "share of pictures trained without their class"})
    token_dropout: float = field(default=0.1, metadata={"help": "dropout on token embeddings"})
    residual_dropout: float = field(default=0.1, metadata={"help": "dropout after attention"})
    mlp_dropout: float = field(default=0.1, metadata={"help": "dropout after the feed-forward blocks"})

    batch_size: int = field(default=32, metadata={"help": "pictures per micro-step and process"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "micro-steps per optimizer step"})
    max_steps: int = field(default=360_000, metadata={"help": "optimizer steps"})
    learning_rate: float = field(default=4e-4, metadata={"help": "highest learning rate"})
    lr_schedule: str = field(default="cosine", metadata={"help": "cosine, linear or constant after the warm-up"})
    warmup_steps: int = field(default=50_000, metadata={"help": "optimizer steps of linear warm-up"})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's decay of matrices"})
    adam_beta1: float = field(default=0.9, metadata={"help": "AdamW's first beta"})
    adam_beta2: float = field(default=0.95, metadata={"help": "AdamW's second beta"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    seed: int = field(default=0, metadata={"help": "seed of weights, shuffling, orders and dropout"})
    mixed_precision: str = field(default="no", metadata={"help": "no, fp16 or bf16"})
    num_workers: int = field(default=0, metadata={"help": "processes that read rows"})

    logging_steps: int = field(default=50, metadata={"help": "optimizer steps between two log lines"})
    validation_steps: int = field(default=1000, metadata={"help": "optimizer steps between validations and previews"})
    checkpointing_steps: int = field(default=1000, metadata={"help": "optimizer steps between checkpoints"})
    checkpoints_total_limit: int = field(default=2, metadata={"help": "checkpoints that are kept"})
    report_to: str = field(default="none", metadata={"help": "tracker: none, tensorboard, wandb, ..."})
    resume: str | None = field(default=None, metadata={"help": "latest, or the path of a checkpoint to continue from"})
    overwrite: bool = field(default=False, metadata={"help": "delete the run that output_dir holds"})

    def __post_init__(self):
        check_positive(self, "batch_size", "gradient_accumulation_steps", "max_steps", "learning_rate")
        check_positive(self, "max_grad_norm", "logging_steps", "validation_steps", "checkpointing_steps")
        check_positive(self, "checkpoints_total_limit")
        check_not_negative(self, "warmup_steps", "weight_decay", "num_workers")
        check_fraction(self, "adam_beta1", "adam_beta2")
        check_choice(self, "lr_schedule", tuple(SCHEDULES))
        check_choice(self, "mixed_precision", ("no", "fp16", "bf16"))
        if self.resume and self.overwrite:
            raise ValueError("`resume`, `overwrite`: both were given; a run is either continued or started over")
