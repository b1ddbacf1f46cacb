"""`randar-hf train`: RandAR on rows of tokens, by Algorithm A of its paper, or RAR, annealed to one order."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from randar_hf.cards import make_card
from randar_hf.orders import make_order

from .accelerator import make_accelerator, make_loader
from .checkpoints import Checkpoint, last_checkpoint
from .curves import save_curves
from .data.reading import load_rows
from .data.token_files import (
    check_codes,
    check_validation_classes,
    label_names,
    load_tokenizer,
    token_columns,
    token_tensors,
)
from .failures import explain_failures
from .fine_tuning import follow_pretrained, read_pretrained
from .hub import prepare_repository, push
from .lora import ADAPTER_FOLDER, add_adapter, merge_adapter, save_adapter
from .memory_estimate import Memory, check_fits, smaller_batches, training_memory, transformer_activations
from .model_building import build_model, build_model_config
from .optimization import make_optimizer, make_schedule
from .outputs import hold_run_dir
from .presets import fit_model_settings
from .previews import draw_preview, make_pipeline
from .randomness import KeyedSamples, collate, seed_masks
from .rehearsal import rehearse
from .resumable_run import ResumableRun, find_resumed
from .run_report import describe_run, next_command
from .sharding import check_sharding, gather_model
from .throughput import Throughput, device_peak, flops_per_image
from .training_config import TrainingConfig, model_class
from .watching import compare_precision


MEMORY_REMEDY = "lower it and raise `gradient_accumulation_steps` as much, or turn on `activation_checkpointing`"


def train(config: TrainingConfig) -> Path:
    """Train a RandAR or RAR model on rows of tokens, from scratch or from a pretrained one.

    What is sampled for an image depends on the seed, the epoch and its index in the data, so a run that is resumed
    ends with the same weights as one that was never stopped, and processes share the data as one would read it.

    Returns:
        The output folder, for `from_pretrained` of the model. It also holds `metrics.jsonl`, `run.json`, checkpoints,
        with `lora_rank` the `adapter/` that the model holds merged, and, if a tokenizer was given, `previews/` and
        `pipeline/`, for `from_pretrained` of the pipeline.

    Raises:
        ValueError: the data, a column, the tokenizer, the pretrained model, a tracker, the repository on the Hub, the
            output folder or the checkpoint is not usable, or the run cannot go on for want of memory, of room on the
            disk or of finite gradients.
        Interrupted: (a `SystemExit`) SIGINT or SIGTERM came; a checkpoint was saved.
    """
    accelerator = make_accelerator(config, config.gradient_accumulation_steps, config.compile)
    check_sharding(accelerator, config)
    pretrained = read_pretrained(config.pretrained_model) if config.pretrained_model is not None else None
    config = follow_pretrained(config, pretrained) if pretrained is not None else config
    with hold_run_dir(accelerator, config) as folder:
        train_rows, validation_rows = _load_rows(config)
        config = fit_model_settings(config, len(train_rows), accelerator)
        checkpoint = find_resumed(config, accelerator, Trainer.command)
        vqvae = config.tokenizer and load_tokenizer(config.tokenizer)
        model_config = build_model_config(config, train_rows, vqvae, pretrained)
        for rows in filter(None, (train_rows, validation_rows)):
            check_codes(rows, config.token_column, model_config.grid, model_config.vocab_size)
        memory = _check_memory(config, model_config, accelerator)
        if config.push_to_hub is not None and not config.dry_run:
            prepare_repository(accelerator, config.push_to_hub)
        with explain_failures(config.output_dir, config.batch_size, MEMORY_REMEDY, partial(last_checkpoint, folder)):
            model = build_model(config, model_config, pretrained)
            compare_precision(
                accelerator, config.mixed_precision, partial(_image_loss, model, model_config.num_tokens)
            )
            model.zero_grad()
            trainer = Trainer(config, accelerator, model, train_rows, validation_rows, vqvae)
            if config.dry_run:
                rehearse(trainer, memory, config.gradient_accumulation_steps)
                return folder
            trainer.run(checkpoint)
            trainer.save_model()
            accelerator.end_training()
    return folder


def _image_loss(model, num_tokens: int) -> torch.Tensor:
    """The loss of an image whose tokens are all 0, in raster order."""
    tokens, order = torch.zeros(1, num_tokens, dtype=torch.long), torch.arange(num_tokens)[None]  # (1, N)
    return model(input_ids=tokens, class_labels=tokens[:, 0], order=order, labels=tokens, return_logits=False).loss


def _check_memory(config: TrainingConfig, model_config, accelerator: Accelerator) -> Memory | None:
    """The memory that the run takes; a `ValueError` with settings that fit if that is not free."""
    with torch.device("meta"):
        model = model_class(config.model_type)(model_config)
        model = model if config.lora_rank is None else add_adapter(model, config.lora_rank)

    def estimate(**change) -> Memory:
        changed = replace(config, **change)
        is_mixed, has_averages = changed.mixed_precision != "no", changed.ema_decay is not None
        sizes = (changed.batch_size, changed.activation_checkpointing, is_mixed)
        activations = transformer_activations(model_config, *sizes)
        return training_memory(model, activations, accelerator, has_averages, is_mixed)

    batches = smaller_batches(config.batch_size, config.gradient_accumulation_steps)
    checkpointing = {"activation_checkpointing": True}
    tries = [*batches, checkpointing, *(batch | checkpointing for batch in batches)]
    remedy = "a smaller `hidden_size`, fewer `num_hidden_layers` or a smaller `preset` is needed"
    return check_fits("train", estimate, tries, remedy, accelerator)


def _load_rows(config: TrainingConfig):
    """The token rows to train on, and those to validate on if there are such."""
    splits = (config.train_split, config.validation_split)
    rows = [split and load_rows(config.dataset, split, config.dataset_config) for split in splits]
    rows = [split and token_columns(split, config.token_column, config.label_column) for split in rows]
    if rows[1]:
        check_validation_classes(rows[1], label_names(rows[0]))
    return rows


class Trainer(ResumableRun):
    """A run of `train`: models on rows of tokens."""

    command = "train"

    def __init__(self, config, accelerator: Accelerator, model, train_rows, validation_rows, vqvae):
        self.project, self.vqvae = config.model_type, vqvae
        self.grid = model.config.grid
        self.annealing = config.annealing
        self.class_dropout = model.config.class_dropout
        super().__init__(config, accelerator, *_prepare(config, accelerator, model))
        self.ema = None
        if config.ema_decay is not None:  # a moving average of the weights, part of the checkpoints
            self.ema = self.parts["ema"] = EMAModel(self.trained_parameters, config.ema_decay, foreach=True)
        self.loader = accelerator.prepare(self._training_loader(train_rows))
        self.validation_loader = validation_rows and accelerator.prepare(self._validation_loader(validation_rows))
        self.throughput = self._make_throughput()

    @property
    def random_ratio(self) -> float:
        """The fraction of images that were permuted in the last step taken, in the first one if none is."""
        return self.annealing.random_ratio(max(0, self.progress.step - 1))

    @property
    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that are not frozen."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def restore(self, checkpoint: Checkpoint) -> None:
        super().restore(checkpoint)
        if self.ema is not None:
            self.ema.to(self.accelerator.device)

    def fit(self) -> None:
        self.throughput.run()
        super().fit()

    def training_step(self, batch: dict, epoch: int) -> torch.Tensor | None:
        """Algorithm A on one batch: an order per image, the loss, its gradient, and a step when enough are summed.

        Args:
            batch: of `KeyedSamples`.
            epoch: which pass over the data.
        """
        seed_masks(self.config.seed, epoch, batch["index"][0])
        tokens, chances = batch["tokens"], batch["chances"]  # (B, N), (B, 2)
        order = self.annealing.choose_orders(self.progress.step, batch["orders"], chances[:, 0])  # (B, N)
        with self.accelerator.accumulate(self.model):
            output = self.model(
                input_ids=tokens,
                class_labels=batch["label"],
                order=order,
                labels=tokens,
                dropped_classes=chances[:, 1] < self.class_dropout,
                return_logits=False,
            )
            gradient_norm = self.update(output.loss)
            if gradient_norm is not None and self.ema is not None:
                self.ema.step(self.trained_parameters)
        self.losses.append(output.loss.detach())
        self.throughput.images += len(tokens) * self.accelerator.num_processes
        return gradient_norm

    def after_step(self, gradient_norm: torch.Tensor, bar) -> None:
        """Log, validate, preview and save when it is time."""
        if self.is_time(self.config.logging_steps):
            loss = self.mean_losses().item()
            annealing = {"random_ratio": self.random_ratio} if self.annealing.is_on else {}
            self.log_training({"loss": loss}, gradient_norm, **annealing, **self.throughput.read())
            bar.set_postfix(loss=f"{loss:.4f}")
        self.throughput.pause()
        if self.is_time(self.config.validation_steps):
            self.validate()
        if self.is_time(self.config.checkpointing_steps):
            self.save()
        self.throughput.run()

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Give the model its averaged weights for the block, if there are such."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.trained_parameters)
        self.ema.copy_to(self.trained_parameters)
        try:
            yield
        finally:
            self.ema.restore(self.trained_parameters)

    def validate(self) -> None:
        """Log the validation loss and draw previews, as far as a split and a tokenizer were given.

        While images are annealed the losses of two validations say nothing of one another: none is the best then.
        """
        loss = None
        with self.averaged_weights():
            if self.validation_loader is not None:
                loss = self.validation_loss()
                self.log({"validation_loss": loss})
            if self.vqvae is not None:
                model = self.current_model()
                if self.accelerator.is_main_process:
                    vqvae = self.vqvae.to(self.accelerator.device)
                    self.show(draw_preview(model.eval(), vqvae, self.config.seed))
        self.model.train()
        if self.accelerator.is_main_process:
            save_curves(self.folder)
        step, annealing = self.progress.step, self.annealing
        if loss is not None and (step >= annealing.end or annealing.start >= self.config.max_steps):
            self.note_validation(loss)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean cross-entropy in nats per token on the validation split, every image in its own fixed order."""
        self.model.eval()
        losses = []
        for tokens, labels, order in self.validation_loader:  # (B, N), (B,), (B, N)
            logits = self.model(input_ids=tokens, class_labels=labels, order=order).logits.float()  # (B, N, V)
            loss = F.cross_entropy(logits.mT, tokens.gather(1, order), reduction="none").mean(1)  # (B,)
            losses.append(self.accelerator.gather_for_metrics(loss))
        return torch.cat(losses).double().mean().item()

    def save_model(self) -> None:
        """Write the trained model to the output folder, and push it to the Hub if that was asked for."""
        self.accelerator.wait_for_everyone()
        with self.averaged_weights():
            model = self.current_model()
            written = self._write_model(model) if self.accelerator.is_main_process else None
            self.accelerator.wait_for_everyone()
            if written is not None and self.config.push_to_hub is not None:
                push(written, self.config.push_to_hub, self.folder)

    def _write_model(self, model):
        """Write model, adapter and, if the tokenizer is at hand, pipeline, and tell of it.

        Returns:
            The pipeline, or else the model.
        """
        if self.config.lora_rank is not None:
            save_adapter(self._unwrapped(), self.folder / ADAPTER_FOLDER)
        model.save_pretrained(self.folder)
        model.card_results = describe_run(self.folder, self.progress, self.config, self.accelerator.num_processes)
        label = model.config.id2label[0]
        if self.vqvae is None:
            written, folder = model, self.folder
            values = (model.config, model.generation_config, model.num_parameters())
            card = make_card(folder.resolve().name, *values, results=model.card_results)
        else:
            written, folder = make_pipeline(model, self.vqvae), self.folder / "pipeline"
            written.save_pretrained(folder)
            card = written.make_card("pipeline")
            card.save(folder / "README.md")
        kind = f"{type(written).__name__} with {model.num_parameters():,} parameters"
        command = next_command(self.folder, self.config, None if written is model else folder, label)
        self.report(kind, folder, str(card), command)
        return written

    def current_model(self):
        """The model to save or to draw with, for the main process; called on every process.

        An adapter is merged into a copy, shared weights are gathered into one. RAR's knows how far it is annealed.
        """
        base = self._base_model()
        if self.accelerator.is_fsdp2:
            return gather_model(self.accelerator, base)
        if self.config.lora_rank is not None and self.accelerator.is_main_process:
            return merge_adapter(self._unwrapped())
        return base

    def describe(self, folder: Path) -> None:
        """Write the configurations of the model into a checkpoint."""
        model = self._base_model()
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)

    def _base_model(self):
        """The model without its adapter, whose configuration knows how far it is annealed."""
        model = self._unwrapped()
        model = model if self.config.lora_rank is None else model.get_base_model()
        if self.config.model_type == "rar":
            model.config.random_ratio = self.random_ratio
        return model

    def _unwrapped(self):
        """The model as it was before it was prepared, with its adapter if it has one."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def _make_throughput(self) -> Throughput:
        model = self._base_model()
        peak = device_peak(self.accelerator.device, self.config.mixed_precision)
        peak = peak and peak * self.accelerator.num_processes
        return Throughput(model.config.num_tokens, flops_per_image(model), peak)

    def _training_loader(self, rows):
        config = self.config
        samples = KeyedSamples(token_tensors(rows, config.seed), config.seed, self.annealing, self.grid)
        processes = self.accelerator.num_processes
        return make_loader(samples, config.batch_size, config.num_workers, True, processes, collate)

    def _validation_loader(self, rows):
        columns = token_tensors(rows)[:]
        generator = torch.Generator().manual_seed(self.config.seed)
        order = make_order(self.annealing.order, *self.grid, batch_size=len(rows), generator=generator)
        return make_loader(TensorDataset(columns["tokens"], columns["label"], order), self.config.batch_size)


def _prepare(config: TrainingConfig, accelerator: Accelerator, model):
    """The model, its optimizer and its schedule, the first two of them prepared."""
    betas, decay_embeddings = (config.adam_beta1, config.adam_beta2), config.model_type == "randar"
    rates = (config.learning_rate, config.weight_decay)
    optimizer = make_optimizer(model, *rates, betas, decay_embeddings, config.optimizer)
    steps = (config.warmup_steps, config.max_steps)
    schedule = make_schedule(config.lr_schedule, optimizer, *steps, config.final_learning_rate, config.decay_start)
    return *accelerator.prepare(model, optimizer), schedule
