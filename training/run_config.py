"""The settings that the runs of both trainers share, checked once."""

from dataclasses import dataclass, field
from typing import ClassVar

from .optimization import SCHEDULES
from .validation import check_choice, check_fields, check_not_negative, check_positive


@dataclass(kw_only=True)
class RunConfig:
    """Settings of a resumable run of optimizer steps; `TrainingConfig` and `TokenizerTrainingConfig` add their own."""

    SCHEDULES: ClassVar[tuple[str, ...]] = tuple(SCHEDULES)

    dataset: str = field(metadata={"help": "folder, parquet file, or a data set's Hub name"})
    output_dir: str = field(metadata={"help": "new folder for the run"})
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of a data set on the Hub"})
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    validation_split: str | None = field(default=None, metadata={"help": "held-out split to validate on"})
    batch_size: int = field(default=32, metadata={"help": "images per forward pass and process"})
    max_steps: int = field(default=50_000, metadata={"help": "optimizer steps"})
    learning_rate: float = field(default=4e-4, metadata={"help": "highest learning rate"})
    lr_schedule: str = field(default="cosine", metadata={"help": "cosine, linear or constant after the warm-up"})
    warmup_steps: int = field(default=500, metadata={"help": "optimizer steps of linear warm-up"})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's decay of matrices"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    max_skipped_steps: int = field(
        default=100, metadata={"help": "steps without a finite gradient, one after another, that are skipped"}
    )
    seed: int = field(default=0, metadata={"help": "seed of weights, shuffling and all else that is random"})
    mixed_precision: str = field(default="no", metadata={"help": "no, fp16 or bf16"})
    num_workers: int = field(default=0, metadata={"help": "processes that read the data"})
    logging_steps: int = field(default=50, metadata={"help": "optimizer steps between two log lines"})
    checkpointing_steps: int = field(default=1000, metadata={"help": "optimizer steps between checkpoints"})
    checkpoints_total_limit: int = field(default=2, metadata={"help": "checkpoints that are kept"})
    report_to: str = field(
        default="none", metadata={"help": "tracker: none, tensorboard, wandb, trackio, ...; several with commas"}
    )
    resume: str | None = field(default=None, metadata={"help": "latest, or the path of a checkpoint to continue from"})
    overwrite: bool = field(default=False, metadata={"help": "delete the run that output_dir holds"})

    def __post_init__(self):
        check_fields(self)
        check_positive(self, "batch_size", "max_steps", "learning_rate", "max_grad_norm", "logging_steps")
        check_positive(self, "checkpointing_steps", "checkpoints_total_limit")
        check_not_negative(self, "warmup_steps", "weight_decay", "num_workers", "max_skipped_steps", "seed")
        check_choice(self, "lr_schedule", self.SCHEDULES)
        check_choice(self, "mixed_precision", ("no", "fp16", "bf16"))
        if self.resume and self.overwrite:
            raise ValueError("`resume` and `overwrite` must not both be given: a run is continued or started over")
