"""The settings that the runs of both trainers share, checked once."""

from dataclasses import dataclass
from typing import ClassVar

from .validation import check_choice, check_fields, check_given, check_not_negative, check_positive, setting


DATA, OUTPUT, MODEL, STEPS = "Data", "Run", "Model", "Training steps"  # groups of options
# The schedules of transformers by our names; `"constant_linear"` needs to be told where its decay starts.
SCHEDULES = {"cosine": "cosine_with_min_lr", "linear": "linear", "constant": "constant_with_warmup"}
ALL_SCHEDULES = {**SCHEDULES, "constant_linear": "warmup_stable_decay"}


PRESET_NAMES = ("small", "medium", "published")


@dataclass(kw_only=True)
class RunConfig:
    """Settings of a resumable run of optimizer steps; `TrainingConfig` and `TokenizerTrainingConfig` add their own.

    Those of `presets.OPEN_FIELDS` that are None are chosen when the data are known.
    """

    SCHEDULES: ClassVar[tuple[str, ...]] = tuple(SCHEDULES)

    dataset: str = setting(DATA, "folder, parquet file, or a data set's Hub name")
    output_dir: str = setting(OUTPUT, "new folder for the run")
    dataset_config: str | None = setting(DATA, "configuration of a data set on the Hub", None)
    train_split: str = setting(DATA, "split to train on", "train")
    validation_split: str | None = setting(DATA, "held-out split to validate on", None)
    preset: str | None = setting(
        MODEL, "what is not given: small, medium or published; by the number of images by default", None
    )
    batch_size: int | None = setting(STEPS, "images per forward pass and process; the preset's by default", None)
    max_steps: int | None = setting(STEPS, "optimizer steps; the preset's by default", None)
    learning_rate: float | None = setting(STEPS, "highest learning rate; the preset's by default", None)
    lr_schedule: str = setting(STEPS, "cosine, linear or constant after the warm-up", "cosine")
    warmup_steps: int | None = setting(STEPS, "optimizer steps of linear warm-up; the preset's by default", None)
    weight_decay: float = setting(STEPS, "AdamW's decay of matrices", 0.0)
    max_grad_norm: float = setting(STEPS, "gradients are clipped to this norm", 1.0)
    max_skipped_steps: int = setting(
        STEPS, "steps without a finite gradient, one after another, that are skipped", 100
    )
    seed: int = setting(STEPS, "seed of weights, shuffling and all else that is random", 0)
    mixed_precision: str = setting(STEPS, "no, fp16 or bf16", "no")
    num_workers: int = setting(DATA, "processes that read the data", 0)
    logging_steps: int = setting(OUTPUT, "optimizer steps between two log lines", 50)
    checkpointing_steps: int = setting(OUTPUT, "optimizer steps between checkpoints", 1000)
    checkpoints_total_limit: int = setting(OUTPUT, "checkpoints that are kept", 2)
    validation_steps: int = setting(OUTPUT, "optimizer steps between validations and previews", 1000)
    keep_best: bool = setting(
        OUTPUT,
        "keep the checkpoint of the lowest validation loss, which becomes the result, if there is a split",
        True,
    )
    patience: int | None = setting(
        OUTPUT, "validations without a lower loss after which the run ends; never by default", None
    )
    report_to: str = setting(OUTPUT, "tracker: none, tensorboard, wandb, trackio, ...; several with commas", "none")
    resume: str | None = setting(OUTPUT, "latest, or the path of a checkpoint to continue from", None)
    dry_run: bool = setting(OUTPUT, "print memory, operations and time after a few steps, and write nothing", False)
    overwrite: bool = setting(OUTPUT, "delete the run that output_dir holds", False)

    def __post_init__(self):
        check_fields(self)
        check_given(self, "output_dir")
        check_positive(self, "batch_size", "max_steps", "learning_rate", "max_grad_norm", "logging_steps")
        check_positive(self, "checkpointing_steps", "checkpoints_total_limit", "validation_steps", "patience")
        check_not_negative(self, "warmup_steps", "weight_decay", "num_workers", "max_skipped_steps", "seed")
        if None not in (self.warmup_steps, self.max_steps) and self.warmup_steps > self.max_steps:
            raise ValueError(
                f"`warmup_steps` must be at most `max_steps`, {self.max_steps}, got {self.warmup_steps}; a tenth of "
                "them is enough, and without `warmup_steps` the preset chooses"
            )
        check_choice(self, "lr_schedule", self.SCHEDULES)
        check_choice(self, "preset", PRESET_NAMES)
        check_choice(self, "mixed_precision", ("no", "fp16", "bf16"))
        if self.patience is not None and self.validation_split is None:
            raise ValueError("`validation_split` must be given, since `patience` is")
        if self.resume and self.overwrite:
            raise ValueError("`resume` and `overwrite` must not both be given: a run is continued or started over")
