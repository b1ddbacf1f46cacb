"""`randar-hf train-tokenizer`: a `diffusers.VQModel` trained to reproduce pictures."""

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import VQModel
from torch.nn import functional as F

from randar_hf.vq import decode, encode

from .accelerator import make_accelerator, make_loader, start_trackers
from .checkpoints import find_checkpoint, last_checkpoint
from .codebook import CodebookKeeper, seed_codebook
from .data.reading import load_rows, pixel_dataset
from .failures import explain_failures
from .optimization import SCHEDULES, make_optimizer, make_schedule
from .outputs import hold_output_dir, write_json
from .randomness import CODES, key_seed
from .recipe import check_recipe
from .resumable_run import ResumableRun
from .validation import check_choice, check_not_negative, check_positive, check_resume


@dataclass(kw_only=True)
class TokenizerTrainingConfig:
    """Settings of `train_tokenizer`; every field is an option of `randar-hf train-tokenizer`."""

    dataset: str = field(metadata={"help": "folder of pictures, parquet file or folder, or a data set's Hub name"})
    output_dir: str = field(metadata={"help": "new folder for the tokenizer"})
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of a data set on the Hub"})
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    validation_split: str | None = field(default=None, metadata={"help": "held-out split to report PSNR on"})
    image_column: str = field(default="image", metadata={"help": "column of the pictures"})
    image_size: int = field(default=256, metadata={"help": "pixels per side after the centre crop"})
    block_out_channels: list[int] = field(
        default_factory=lambda: [64, 128, 128, 256, 256],
        metadata={"help": "channels per level; each level after the first halves the picture"},
    )
    layers_per_block: int = field(default=1, metadata={"help": "residual blocks per level"})
    codebook_size: int = field(default=4096, metadata={"help": "number of different tokens"})
    code_dim: int = field(default=8, metadata={"help": "width of a codebook entry"})
    batch_size: int = field(default=32, metadata={"help": "pictures per step and process"})
    max_steps: int = field(default=50_000, metadata={"help": "optimizer steps"})
    learning_rate: float = field(default=4e-4, metadata={"help": "highest learning rate"})
    lr_schedule: str = field(default="cosine", metadata={"help": "cosine, linear or constant after the warm-up"})
    warmup_steps: int = field(default=500, metadata={"help": "steps of linear warm-up"})
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's decay of matrices"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    max_skipped_steps: int = field(
        default=100, metadata={"help": "steps without a finite gradient, one after another, that are skipped"}
    )
    commitment_weight: float = field(default=1.0, metadata={"help": "weight of the codebook and commitment loss"})
    restart_steps: int = field(default=100, metadata={"help": "unused codes start over every so many steps"})
    seed: int = field(default=0, metadata={"help": "seed of weights, shuffling and restarts"})
    mixed_precision: str = field(default="no", metadata={"help": "no, fp16 or bf16"})
    num_workers: int = field(default=0, metadata={"help": "processes that read pictures"})
    logging_steps: int = field(default=50, metadata={"help": "steps between two log lines"})
    checkpointing_steps: int = field(default=1000, metadata={"help": "steps between two checkpoints"})
    checkpoints_total_limit: int = field(default=2, metadata={"help": "checkpoints that are kept"})
    report_to: str = field(default="none", metadata={"help": "tracker: none, tensorboard, wandb, ..."})
    resume: str | None = field(default=None, metadata={"help": "latest, or the path of a checkpoint to continue from"})
    overwrite: bool = field(default=False, metadata={"help": "delete the run that output_dir holds"})

    def __post_init__(self):
        check_positive(self, "image_size", "layers_per_block", "codebook_size", "code_dim", "batch_size", "max_steps")
        check_positive(self, "learning_rate", "max_grad_norm", "restart_steps", "logging_steps")
        check_positive(self, "checkpointing_steps", "checkpoints_total_limit")
        check_not_negative(self, "warmup_steps", "weight_decay", "commitment_weight", "num_workers")
        check_not_negative(self, "max_skipped_steps")
        check_choice(self, "lr_schedule", tuple(SCHEDULES))
        check_choice(self, "mixed_precision", ("no", "fp16", "bf16"))
        check_resume(self)
        if not self.block_out_channels or min(self.block_out_channels) < 1:
            raise ValueError(f"`block_out_channels`: {self.block_out_channels} was given; all must be above 0")
        if self.codebook_size > 65_536:
            raise ValueError(f"`codebook_size`: {self.codebook_size} was given; at most 65536 fit into 16 bits")
        if self.image_size % self.downsampling:
            raise ValueError(
                f"`image_size`: {self.image_size} was given; with {len(self.block_out_channels)} levels it must be "
                f"a multiple of {self.downsampling}"
            )

    @property
    def downsampling(self) -> int:
        """Pixels per token along one side."""
        return 2 ** (len(self.block_out_channels) - 1)


def build_tokenizer(config: TokenizerTrainingConfig) -> VQModel:
    """A fresh tokenizer of the asked size."""
    levels = len(config.block_out_channels)
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=config.layers_per_block,
        latent_channels=config.code_dim,
        sample_size=config.image_size,
        num_vq_embeddings=config.codebook_size,
        norm_num_groups=math.gcd(32, *config.block_out_channels),
        lookup_from_codebook=True,
        force_upcast=True,
    )


def train_tokenizer(config: TokenizerTrainingConfig) -> dict:
    """Train a tokenizer and write it as a folder for `VQModel.from_pretrained`.

    Loss: absolute plus squared error of the pixels, plus the codebook and commitment loss of van den Oord et al.
    2017, equation 3, as `diffusers` computes it. A run that is resumed ends with the same weights as one that was
    never stopped. The folder also holds `metrics.jsonl`, `run.json` and checkpoints.

    Returns:
        `{"psnr": dB on the validation split, "used_codes": entries it uses}`, also written to `metrics.json`; empty
        without a validation split.

    Raises:
        ValueError: the data, a column, a tracker, the output folder or the checkpoint is not usable, or the run cannot
            go on for want of memory, of room on the disk or of finite gradients.
        Interrupted: (a `SystemExit`) SIGINT or SIGTERM came; a checkpoint was saved.
    """
    folder = Path(config.output_dir).expanduser()
    accelerator = make_accelerator(config)
    set_seed(config.seed)
    train_loader, validation_loader = _loaders(config, accelerator.num_processes)
    checkpoint = config.resume and find_checkpoint(config.resume, folder)
    if checkpoint:
        check_recipe(checkpoint, config, accelerator.num_processes, TokenizerRun.command)
    with explain_failures(config.output_dir, config.batch_size, "lower it", partial(last_checkpoint, folder)):
        run = TokenizerRun(config, accelerator, build_tokenizer(config), train_loader)
        with hold_output_dir(accelerator, config, run.command, resume=bool(checkpoint)):
            start_trackers(accelerator, config, "randar-tokenizer")
            if checkpoint:
                run.load(checkpoint)
            run.fit()
            metrics = run.finish(validation_loader)
            accelerator.end_training()
    return metrics


def _loaders(config: TokenizerTrainingConfig, num_processes: int):
    def loader(split, shuffle):
        rows = load_rows(config.dataset, split, config.dataset_config)
        pixels = pixel_dataset(rows, config.image_column, config.image_size)
        return make_loader(pixels, config.batch_size, config.num_workers, shuffle, num_processes)

    return loader(config.train_split, True), config.validation_split and loader(config.validation_split, False)


class TokenizerRun(ResumableRun):
    """A run of `train-tokenizer`: a tokenizer on pictures."""

    command = "train-tokenizer"

    def __init__(self, config: TokenizerTrainingConfig, accelerator: Accelerator, vqvae: VQModel, loader):
        optimizer = make_optimizer(vqvae, config.learning_rate, config.weight_decay)
        schedule = make_schedule(config.lr_schedule, optimizer, config.warmup_steps, config.max_steps)
        super().__init__(config, accelerator, *accelerator.prepare(vqvae, optimizer), schedule)
        self.vqvae = vqvae
        self.loader = accelerator.prepare(loader)
        self.keeper = CodebookKeeper(vqvae)
        accelerator.register_for_checkpointing(self.keeper)

    def micro_step(self, batch: dict, epoch: int) -> torch.Tensor:
        """One step: the codebook's beginning, if it is the first, then forward, loss, gradient and update."""
        pixels = batch["pixels"]  # (B, 3, H, W)
        if self.progress.step == 0:
            seed_codebook(self.vqvae, pixels, self.accelerator, self._generator())
        output = self.model(pixels)
        difference = output.sample.float() - pixels
        reconstruction = difference.abs().mean() + difference.square().mean()
        self.losses.append(torch.stack([reconstruction, output.commit_loss]).detach())
        return self.update(reconstruction + self.config.commitment_weight * output.commit_loss)

    def after_step(self, gradient_norm: torch.Tensor, bar) -> None:
        """Look after the codebook, log and save when it is time."""
        config, step = self.config, self.progress.step
        if step % config.restart_steps == 0 and step < 0.8 * config.max_steps:
            self.keeper.replace_unused(self.accelerator, self._generator())
        if self.is_time(config.logging_steps):
            reconstruction, commitment = self.mean_losses().tolist()
            self.log_training({"reconstruction": reconstruction, "commitment": commitment}, gradient_norm)
            bar.set_postfix(reconstruction=f"{reconstruction:.4f}")
        if self.is_time(config.checkpointing_steps):
            self.save()

    def save(self) -> None:
        self.keeper.share_used(self.accelerator)  # a checkpoint holds what the first process knows
        super().save()

    def finish(self, validation_loader) -> dict:
        """Measure the tokenizer, if there is something to measure it on, and write it to the output folder."""
        metrics = {}
        if validation_loader is not None:
            metrics = evaluate_tokenizer(self.accelerator, self.model, self.accelerator.prepare(validation_loader))
            self.log(metrics)
        if self.accelerator.is_main_process:
            self.vqvae.save_pretrained(self.folder)
            if metrics:
                write_json(self.folder / "metrics.json", metrics)
        self.accelerator.wait_for_everyone()
        return metrics

    def _generator(self) -> torch.Generator:
        """What the codebook draws from after the steps done so far, so that a resumed run draws the same."""
        return torch.Generator().manual_seed(key_seed(self.config.seed, self.progress.step, CODES))


@torch.no_grad()
def evaluate_tokenizer(accelerator: Accelerator, model: VQModel, loader) -> dict:
    """Mean PSNR in dB over the pictures of a prepared loader, and the number of codebook entries they use."""
    model.eval()
    vqvae = accelerator.unwrap_model(model)
    errors, used = [], torch.zeros(vqvae.config.num_vq_embeddings, dtype=torch.long, device=accelerator.device)
    for batch in loader:
        pixels = batch["pixels"]
        tokens = encode(vqvae, pixels)  # (B, h, w)
        restored = decode(vqvae, tokens)  # (B, 3, H, W)
        error = F.mse_loss(restored.clamp(-1, 1), pixels, reduction="none").mean((1, 2, 3))  # (B,)
        errors.append(accelerator.gather_for_metrics(error))
        used += torch.bincount(tokens.flatten(), minlength=len(used))
    psnr = 10 * torch.log10(4 / torch.cat(errors).clamp(min=1e-12))  # pixels span 2, so the peak's square is 4
    return {"psnr": psnr.mean().item(), "used_codes": int((accelerator.reduce(used) > 0).sum())}
