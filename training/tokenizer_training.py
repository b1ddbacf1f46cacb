"""`randar-hf train-tokenizer`: a `diffusers.VQModel` trained to reproduce images."""

import logging
import math
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import VQModel
from torch import nn

from .accelerator import make_accelerator, make_loader
from .checkpoints import last_checkpoint
from .codebook import CodebookKeeper, seed_codebook
from .curves import save_curves
from .data.pixels import BadImages, PixelRows
from .data.reading import load_rows, undecoded
from .discriminator import Adversary, PatchDiscriminator
from .failures import explain_failures
from .memory_estimate import (
    ADVERSARIAL,
    PERCEPTUAL,
    Memory,
    check_fits,
    kept_activations,
    smaller_batches,
    tokenizer_activations,
    training_memory,
)
from .optimization import make_optimizer, make_schedule
from .outputs import hold_run_dir, write_json
from .perceptual import PerceptualDistance
from .presets import fit_tokenizer_settings
from .randomness import CODES, key_seed
from .rehearsal import rehearse
from .resumable_run import ResumableRun, find_resumed
from .run_report import describe_run, next_command
from .tokenizer_evaluation import draw_reconstructions, evaluate_tokenizer
from .tokenizer_training_config import TokenizerTrainingConfig
from .watching import compare_precision


logger = logging.getLogger(__name__)


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
    2017, equation 3, as `diffusers` computes it, and if asked for a perceptual and an adversarial term. For an image
    that cannot be read the next one is taken, and `skipped.jsonl` lists it. A run that is resumed ends with the same
    weights as one that was never stopped. The folder also holds `metrics.jsonl`, `run.json` and checkpoints.

    Returns:
        What `evaluate_tokenizer` gives on the validation split, also written to `metrics.json`; empty without one.

    Raises:
        ValueError: the data, a column, a tracker, the output folder or the checkpoint is not usable, or the run cannot
            go on for want of memory, of room on the disk or of finite gradients.
        Interrupted: (a `SystemExit`) SIGINT or SIGTERM came; a checkpoint was saved.
    """
    accelerator = make_accelerator(config)
    with hold_run_dir(accelerator, config) as folder, TemporaryDirectory() as scratch:
        splits = [config.train_split, config.validation_split]
        rows = [split and load_rows(config.dataset, split, config.dataset_config) for split in splits]
        rows = [split and undecoded(split, config.image_column) for split in rows]
        config = fit_tokenizer_settings(config, rows[0], accelerator)
        checkpoint = find_resumed(config, accelerator, TokenizerRun.command)
        set_seed(config.seed)
        bad = BadImages((Path(scratch) if config.dry_run else folder) / "skipped.jsonl", config.max_bad_images)
        loaders = _loaders(config, *rows, bad, accelerator.num_processes)
        with explain_failures(config.output_dir, config.batch_size, "lower it", partial(last_checkpoint, folder)):
            network = config.perceptual_network
            perceptual = None if network is None else PerceptualDistance(network).to(accelerator.device)
            memory = _check_memory(config, accelerator, perceptual)
            vqvae = build_tokenizer(config)
            image = torch.zeros(1, 3, config.image_size, config.image_size)
            compare_precision(accelerator, config.mixed_precision, lambda: vqvae(image).sample.square().mean())
            vqvae.zero_grad()
            run = TokenizerRun(config, accelerator, vqvae, *loaders, perceptual)
            if config.dry_run:
                rehearse(run, memory)
                return {}
            run.run(checkpoint)
            metrics = run.finish()
            if accelerator.is_main_process and (count := len(bad.names())):
                logger.warning("%d images could not be read; they are listed in %s", count, bad.file)
            accelerator.end_training()
    return metrics


def _check_memory(
    config: TokenizerTrainingConfig, accelerator: Accelerator, perceptual: PerceptualDistance | None
) -> Memory | None:
    """The memory that the run takes; a `ValueError` with settings that fit if that is not free."""
    with torch.device("meta"):
        trained = nn.ModuleList([build_tokenizer(config)])
        if config.discriminator_start is not None:
            trained.append(PatchDiscriminator(config.discriminator_layers))

    def estimate(batch_size: int = config.batch_size) -> Memory:
        activations = tokenizer_activations(config, batch_size, is_trained=True)
        images = torch.zeros(batch_size, 3, config.image_size, config.image_size, device="meta", requires_grad=True)
        if perceptual is not None:
            activations += PERCEPTUAL * kept_activations(perceptual, images, images.detach())
        for discriminator in trained[1:]:
            activations += ADVERSARIAL * kept_activations(discriminator, images)
        return training_memory(trained, activations, accelerator)

    remedy = "a smaller `image_size`, smaller `block_out_channels` or a smaller `preset` is needed"
    return check_fits("train-tokenizer", estimate, smaller_batches(config.batch_size), remedy, accelerator)


def _loaders(config: TokenizerTrainingConfig, train_rows, validation_rows, bad: BadImages, num_processes: int):
    def loader(rows, shuffle):
        pixels = PixelRows(rows, config.image_column, config.image_size, bad)
        return make_loader(pixels, config.batch_size, config.num_workers, shuffle, num_processes)

    return loader(train_rows, True), validation_rows and loader(validation_rows, False)


class TokenizerRun(ResumableRun):
    """A run of `train-tokenizer`: a tokenizer on images."""

    command, project = "train-tokenizer", "randar-tokenizer"

    def __init__(
        self,
        config: TokenizerTrainingConfig,
        accelerator: Accelerator,
        vqvae: VQModel,
        loader,
        validation_loader,
        perceptual: PerceptualDistance | None,
    ):
        optimizer = make_optimizer(vqvae, config.learning_rate, config.weight_decay)
        schedule = make_schedule(config.lr_schedule, optimizer, config.warmup_steps, config.max_steps)
        super().__init__(config, accelerator, *accelerator.prepare(vqvae, optimizer), schedule)
        self.vqvae = vqvae
        self.loader = accelerator.prepare(loader)
        self.validation_loader = validation_loader and accelerator.prepare(validation_loader)
        self.keeper = CodebookKeeper(vqvae)
        self.parts["keeper"] = self.keeper
        self.adversary = None if config.discriminator_start is None else Adversary(accelerator, config)
        self.perceptual = perceptual
        self.loss_names = ["reconstruction", "commitment"]
        self.loss_names += ["perceptual"] * (self.perceptual is not None)
        self.loss_names += ["adversarial", "discriminator"] * (self.adversary is not None)

    def training_step(self, batch: dict, epoch: int) -> torch.Tensor:
        """One step: the codebook's beginning, if it is the first, then forward, loss, gradient and update."""
        pixels = batch["pixels"]  # (B, 3, H, W)
        if self.progress.step == 0:
            seed_codebook(self.vqvae, pixels, self.accelerator, self._generator())
        output = self.model(pixels)
        difference = output.sample.float() - pixels
        reconstruction = difference.abs().mean() + difference.square().mean()
        losses, error = {"reconstruction": reconstruction, "commitment": output.commit_loss}, reconstruction
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(output.sample.float(), pixels).mean()
            error = error + self.config.perceptual_weight * losses["perceptual"]
        loss = error + self.config.commitment_weight * output.commit_loss
        is_on = self.adversary is not None and self.progress.step >= self.config.discriminator_start
        if is_on:
            last = self.vqvae.decoder.conv_out.weight
            losses["adversarial"] = self.adversary.generator_loss(output.sample.float(), error, last)
            loss = loss + losses["adversarial"]
        gradient_norm = self.update(loss)
        if is_on:
            rate = self.schedule.get_last_lr()[0]
            losses["discriminator"] = self.adversary.learn(pixels, output.sample.float(), rate)
        nothing = torch.full_like(reconstruction, float("nan"))  # of a term that is not on yet
        self.losses.append(torch.stack([losses.get(name, nothing) for name in self.loss_names]).detach())
        return gradient_norm

    def after_step(self, gradient_norm: torch.Tensor, bar) -> None:
        """Look after the codebook, log and save when it is time."""
        config, step = self.config, self.progress.step
        if step % config.restart_steps == 0 and step < 0.8 * config.max_steps:
            self.keeper.replace_unused(self.accelerator, self._generator())
        if self.is_time(config.logging_steps):
            losses = dict(zip(self.loss_names, self.mean_losses().tolist()))
            self.log_training(losses, gradient_norm)
            bar.set_postfix(reconstruction=f"{losses['reconstruction']:.4f}")
        if self.validation_loader is not None and self.is_time(config.validation_steps):
            self.validate()
        if self.is_time(config.checkpointing_steps):
            self.save()

    def validate(self) -> None:
        """Log what the validation split gives, and show some of it.

        With a discriminator, which changes what is best, the last step becomes the tokenizer.
        """
        metrics = self.evaluate()
        self.log(metrics)
        if self.accelerator.is_main_process:
            self.show(draw_reconstructions(self.vqvae, self.validation_loader.dataset))
            save_curves(self.folder)
        self.model.train()
        if self.adversary is None:
            self.note_validation(metrics["validation_loss"])

    def evaluate(self) -> dict:
        """What `evaluate_tokenizer` gives on the validation split."""
        terms = (self.perceptual, self.config.perceptual_weight)
        return evaluate_tokenizer(self.accelerator, self.model, self.validation_loader, *terms)

    def describe(self, folder: Path) -> None:
        """Write the configuration of the tokenizer into a checkpoint."""
        self.vqvae.save_config(folder)

    def save(self) -> None:
        self.keeper.share_used(self.accelerator)  # a checkpoint holds what the first process knows
        super().save()

    def finish(self) -> dict:
        """Measure the tokenizer, if there is something to measure it on, and write it to the output folder."""
        metrics = {}
        if self.validation_loader is not None:
            metrics = self.evaluate()
        if self.accelerator.is_main_process:
            self.vqvae.save_pretrained(self.folder)
            if metrics:
                write_json(self.folder / "metrics.json", metrics)
            parameters = sum(parameter.numel() for parameter in self.vqvae.parameters())
            kind = f"VQModel with {parameters:,} parameters and {self.config.codebook_size:,} codes"
            results = describe_run(self.folder, self.progress, self.config, self.accelerator.num_processes)
            card = f"# {self.folder.resolve().name}\n\nA tokenizer, {kind}.\n\n## Results\n\n{results}"
            self.report(kind, self.folder, card, next_command(self.folder, self.config))
        self.accelerator.wait_for_everyone()
        return metrics

    def _generator(self) -> torch.Generator:
        """What the codebook samples with after the steps done so far, so that a resumed run samples the same."""
        return torch.Generator().manual_seed(key_seed(self.config.seed, self.progress.step, CODES))
