"""`randar-hf train`: RandAR on rows of tokens, by Algorithm A of the paper."""

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed, tqdm
from diffusers import VQModel
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from randar_hf import RandARConfig, RandARForCausalLM
from randar_hf.orders import make_order

from .accelerator import endless_batches, make_accelerator, make_loader, reseed, start_trackers
from .checkpoints import Progress, find_checkpoint, load_checkpoint, save_checkpoint
from .data import label_names, load_rows
from .optimization import make_optimizer, make_schedule
from .outputs import claim_output_dir
from .previews import make_pipeline, save_preview
from .token_data import check_tokenizer, load_tokenizer, read_settings, square_grid, token_dataset
from .training_config import TrainingConfig


DECODING_SHARE = 88 / 256  # decoding steps per token of the paper's main results (Table 1)


def train(config: TrainingConfig) -> Path:
    """Train a RandAR model on rows of tokens.

    Every micro-step draws its orders and dropout masks from a seed made of (seed, process, epoch, batch), so a run
    that is resumed ends with the same weights as one that was never stopped.

    Returns:
        The output folder, for `RandARForCausalLM.from_pretrained`. It also holds `metrics.jsonl`, `run.json`,
        checkpoints and, if a tokenizer was given, `previews/` and `pipeline/`, for `RandARPipeline.from_pretrained`.

    Raises:
        ValueError: the data, a column, the tokenizer, the output folder or the checkpoint is not usable.
    """
    folder = Path(config.output_dir).expanduser()
    accelerator = make_accelerator(config, config.gradient_accumulation_steps)
    train_rows = load_rows(config.dataset, config.train_split, config.dataset_config)
    validation_rows = config.validation_split and load_rows(
        config.dataset, config.validation_split, config.dataset_config
    )
    vqvae = config.tokenizer and load_tokenizer(config.tokenizer)
    model_config = make_model_config(config, train_rows, vqvae)
    checkpoint = config.resume and find_checkpoint(config.resume, folder)
    trainer = Trainer(config, accelerator, model_config, train_rows, validation_rows, vqvae)
    claim_output_dir(accelerator, config, "train", resume=bool(checkpoint))
    start_trackers(accelerator, config, "randar")
    if checkpoint:
        trainer.progress = load_checkpoint(accelerator, checkpoint)
    trainer.fit()
    trainer.save_model()
    accelerator.end_training()
    return folder


def make_model_config(config: TrainingConfig, rows, vqvae: VQModel | None) -> RandARConfig:
    """The model's configuration: sizes from `config`, vocabulary, classes and grid from the data.

    Raises:
        ValueError: a column is not there, the tokenizer does not belong to the tokens, or sizes do not fit.
    """
    tokens = token_dataset(rows, config.token_column, config.label_column)
    names = label_names(rows, config.label_column)
    settings = read_settings(config.dataset)
    if vqvae is not None:
        check_tokenizer(settings, vqvae)
    elif settings is None:
        raise ValueError("`tokenizer`: it must be given, since no tokenizer settings are stored with the tokens")
    return RandARConfig(
        vocab_size=settings.vocab_size if settings else vqvae.config.num_vq_embeddings,
        grid_size=(settings.height, settings.width) if settings else square_grid(len(tokens[0]["tokens"])),
        num_classes=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        position_instruction=config.position_instruction,
        class_dropout=config.class_dropout,
        token_dropout=config.token_dropout,
        residual_dropout=config.residual_dropout,
        mlp_dropout=config.mlp_dropout,
    )


class Trainer:
    """A run: model, optimizer, schedule, data and progress, and the steps that move it on."""

    def __init__(self, config, accelerator: Accelerator, model_config, train_rows, validation_rows, vqvae):
        self.config, self.accelerator, self.vqvae = config, accelerator, vqvae
        self.folder = Path(config.output_dir).expanduser()
        self.grid = model_config.grid
        self.order = "raster" if model_config.position_instruction == "none" else "random"
        set_seed(config.seed)
        model = RandARForCausalLM(model_config)
        model.generation_config.num_inference_steps = max(1, round(DECODING_SHARE * model_config.num_tokens))
        betas = (config.adam_beta1, config.adam_beta2)
        optimizer = make_optimizer(model, config.learning_rate, config.weight_decay, betas)
        self.schedule = make_schedule(config.lr_schedule, optimizer, config.warmup_steps, config.max_steps)
        rows = token_dataset(train_rows, config.token_column, config.label_column)
        loader = make_loader(rows, config.batch_size, config.num_workers, shuffle=True)
        self.model, self.optimizer, self.loader = accelerator.prepare(model, optimizer, loader)
        accelerator.register_for_checkpointing(self.schedule)
        self.validation_loader = validation_rows and accelerator.prepare(self._validation_loader(validation_rows))
        self.progress = Progress()
        self.losses = []  # of the micro-steps since the last log line; they stay on the device

    def fit(self) -> None:
        """Take steps until `max_steps`, and log, validate, preview and save when it is time."""
        config, progress = self.config, self.progress
        if progress.step >= config.max_steps:
            return
        bar = tqdm(total=config.max_steps, initial=progress.step, desc="RandAR")
        self.model.train()
        for epoch, number, batch in endless_batches(self.loader, progress.epoch, progress.batch):
            gradient_norm = self.micro_step(batch, epoch, number)
            progress.epoch, progress.batch = epoch, number + 1
            if not self.accelerator.sync_gradients:
                continue
            progress.step += 1
            bar.update()
            last = progress.step == config.max_steps
            if last or progress.step % config.logging_steps == 0:
                bar.set_postfix(loss=f"{self.log_training(gradient_norm):.4f}")
            if last or progress.step % config.validation_steps == 0:
                self.validate()
            if last or progress.step % config.checkpointing_steps == 0:
                save_checkpoint(self.accelerator, self.folder, progress, config.checkpoints_total_limit)
            if last:
                break
        bar.close()

    def micro_step(self, batch: dict, epoch: int, number: int) -> torch.Tensor | None:
        """Algorithm A on one batch: an order per picture, the loss, its gradient, and a step when enough are summed.

        Args:
            batch: `tokens` (B, N) and `label` (B,).
            epoch: which pass over the data.
            number: of the batch in it.

        Returns:
            The norm of the gradient before clipping, when the optimizer stepped.
        """
        accelerator, config = self.accelerator, self.config
        generator = reseed(config.seed, accelerator.process_index, epoch, number)
        tokens, labels = batch["tokens"], batch["label"]  # (B, N), (B,)
        order = make_order(self.order, *self.grid, batch_size=len(tokens), generator=generator)  # (B, N)
        gradient_norm = None
        with accelerator.accumulate(self.model):
            output = self.model(input_ids=tokens, class_labels=labels, order=order.to(tokens.device), labels=tokens)
            accelerator.backward(output.loss)
            if accelerator.sync_gradients:
                gradient_norm = accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
            self.optimizer.step()
            if accelerator.sync_gradients:
                self.schedule.step()
            self.optimizer.zero_grad()
        self.losses.append(output.loss.detach())
        return gradient_norm

    def log_training(self, gradient_norm: torch.Tensor) -> float:
        """Log the mean loss since the last line, the gradient norm and the learning rate; returns the loss in nats."""
        loss = self.accelerator.reduce(torch.stack(self.losses).mean(), "mean").item()
        self.losses.clear()
        rate = self.schedule.get_last_lr()[0]
        self.log({"loss": loss, "gradient_norm": gradient_norm.item(), "learning_rate": rate})
        return loss

    def log(self, values: dict) -> None:
        """Hand `values` to the tracker and append them to `metrics.jsonl`."""
        self.accelerator.log(values, step=self.progress.step)
        if self.accelerator.is_main_process:
            with open(self.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"step": self.progress.step, "epoch": self.progress.epoch, **values}) + "\n")

    def validate(self) -> None:
        """Log the validation loss and draw previews, as far as a split and a tokenizer were given."""
        if self.validation_loader is not None:
            self.log({"validation_loss": self.validation_loss()})
        if self.vqvae is not None and self.accelerator.is_main_process:
            model = self.accelerator.unwrap_model(self.model).eval()
            vqvae = self.vqvae.to(self.accelerator.device)
            save_preview(model, vqvae, self.folder / "previews" / f"step-{self.progress.step}.png", self.config.seed)
        self.model.train()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean cross-entropy in nats per token on the validation split, every picture in its own fixed order."""
        self.model.eval()
        losses = []
        for tokens, labels, order in self.validation_loader:  # (B, N), (B,), (B, N)
            logits = self.model(input_ids=tokens, class_labels=labels, order=order).logits.float()  # (B, N, V)
            loss = F.cross_entropy(logits.mT, tokens.gather(1, order), reduction="none").mean(1)  # (B,)
            losses.append(self.accelerator.gather_for_metrics(loss))
        return torch.cat(losses).double().mean().item()

    def save_model(self) -> None:
        """Write the trained model to the output folder, and as a pipeline in it if the tokenizer is at hand."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            model = self.accelerator.unwrap_model(self.model)
            model.save_pretrained(self.folder)
            if self.vqvae is not None:
                make_pipeline(model, self.vqvae).save_pretrained(self.folder / "pipeline")
        self.accelerator.wait_for_everyone()

    def _validation_loader(self, rows):
        columns = token_dataset(rows, self.config.token_column, self.config.label_column)[:]
        generator = torch.Generator().manual_seed(self.config.seed)
        order = make_order(self.order, *self.grid, batch_size=len(rows), generator=generator)
        return make_loader(TensorDataset(columns["tokens"], columns["label"], order), self.config.batch_size)
