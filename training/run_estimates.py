"""The estimates of the three commands: whether a run fits into memory, what it costs, and how long it takes."""

import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers import VQModel

from randar_hf.vq import encode_images

from .memory_estimate import StepMemory, check_fits, format_bytes, measure_step
from .model_building import build_model


AUTOCAST = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}
PLAIN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def check_training_memory(config, model_config, accelerator: Accelerator) -> StepMemory | None:
    """The memory of a training step of `train`; raises a `ValueError` with settings that fit if it is not there."""

    def estimate(change: dict) -> StepMemory:
        changed = replace(config, **change)
        tokens = (changed.batch_size, model_config.num_tokens)

        def loss(model):
            ids = torch.zeros(tokens, dtype=torch.long, device=accelerator.device)  # (B, N)
            arguments = {"class_labels": ids[:, 0], "dropped_classes": ids[:, 0] > 0, "labels": ids}
            return model(input_ids=ids, **arguments, return_logits=False).loss

        return _measure(changed, accelerator, lambda: build_model(changed, model_config).train(), loss)

    batches = [
        {"batch_size": size, "gradient_accumulation_steps": -(-config.batch_size // size) * steps}
        for size in _halves(config.batch_size)
        for steps in [config.gradient_accumulation_steps]
    ]
    checkpointing = {"activation_checkpointing": True}
    tries = [*batches, checkpointing, *(batch | checkpointing for batch in batches)]
    remedy = "a smaller `hidden_size` or fewer `num_hidden_layers` are needed"
    return _check("train", estimate, tries, accelerator, remedy)


def check_tokenizer_memory(config, accelerator: Accelerator, build: Callable, loss: Callable) -> StepMemory | None:
    """The memory of a training step of `train-tokenizer`; raises a `ValueError` with settings that fit.

    Args:
        config: the settings.
        accelerator: of the run.
        build: makes the model of some settings.
        loss: of a model, images (B, 3, H, W) and settings, as training computes it.
    """

    def estimate(change: dict) -> StepMemory:
        changed = replace(config, **change)
        size = (changed.batch_size, 3, changed.image_size, changed.image_size)

        def run(model):
            return loss(model, torch.zeros(size, device=accelerator.device), changed)

        return _measure(changed, accelerator, lambda: build(changed).train(), run)

    tries = [{"batch_size": size} for size in _halves(config.batch_size)]
    remedy = "a smaller `image_size` or smaller `block_out_channels` are needed"
    return _check("train-tokenizer", estimate, tries, accelerator, remedy)


def check_tokenizing_memory(config, vqvae: VQModel, image_size: int, accelerator: Accelerator) -> StepMemory | None:
    """The memory of a batch of `tokenize`, beside the tokenizer; raises a `ValueError` with settings that fit."""

    def estimate(change: dict) -> StepMemory:
        shape = (change.get("batch_size", config.batch_size), 3, image_size, image_size)

        @torch.no_grad()
        def encode(model):
            encode_images(model, torch.zeros(shape, device=accelerator.device))

        step = measure_step(lambda: VQModel.from_config(vqvae.config).eval(), encode, accelerator.device)
        return replace(step, weights=0)  # they are in the process already

    tries = [{"batch_size": size} for size in _halves(config.batch_size)]
    return _check("tokenize", estimate, tries, accelerator, "a smaller `image_size` is needed")


def describe_run(command: str, memory: StepMemory | None, seconds: float, config, images_per_step: int) -> str:
    """What `--dry-run` prints: parameters, memory, operations, and the time to the end at the speed of a few steps."""
    steps = config.max_steps
    lines = [f"randar-hf {command}: a dry run, nothing was written"]
    if memory is not None:
        total = memory.flops * images_per_step / config.batch_size * steps
        lines += [
            f"parameters: {memory.parameters:,}",
            f"memory: {format_bytes(memory.total)} ({memory.describe()})",
            f"operations: {total:.3g} FLOP in {steps} steps of {images_per_step} images",
        ]
    lines.append(f"time: {seconds:.3g} s a step, {format_time(seconds * steps)} for {steps} steps")
    return "\n".join(lines)


def describe_tokenizing(memory: StepMemory | None, seconds: float, num_images: int | None) -> str:
    """What `--dry-run` of `tokenize` prints, for the seconds of one image; streams do not tell how many there are."""
    lines = ["randar-hf tokenize: a dry run, nothing was written"]
    if memory is not None:
        lines.append(f"memory: {format_bytes(memory.total)} ({memory.describe()})")
    end = "" if num_images is None else f", {format_time(seconds * num_images)} for {num_images} images"
    return "\n".join([*lines, f"time: {seconds:.3g} s an image{end}"])


def format_time(seconds: float) -> str:
    """A time in seconds, minutes, hours or days."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _measure(config, accelerator: Accelerator, build: Callable, loss: Callable) -> StepMemory:
    """The memory of a step in the precision of the settings."""
    dtype, device = AUTOCAST[config.mixed_precision], accelerator.device

    def step(model):
        with torch.autocast(device.type, dtype, enabled=dtype is not None, cache_enabled=False):
            return loss(model)

    averages = getattr(config, "ema_decay", None) is not None
    return measure_step(build, step, device, averages, accelerator.num_processes)


def _check(
    command: str, estimate: Callable, tries: list[dict], accelerator: Accelerator, remedy: str
) -> StepMemory | None:
    """Check and say what a step takes; `None`, and a word of it, where no estimate can be made."""
    try:
        if accelerator.distributed_type not in PLAIN:
            raise RuntimeError(f"weights are shared among processes by {accelerator.distributed_type.value}")
        memory = check_fits(estimate, tries, accelerator.device, accelerator.num_processes, remedy)
        words = f"about {format_bytes(memory.total)} ({memory.describe()})"
    except RuntimeError as error:
        memory, words = None, f"an amount of memory that cannot be told ({str(error).splitlines()[0]})"
    if accelerator.is_local_main_process:
        print(f"randar-hf {command}: a step takes {words}", file=sys.stderr)
    return memory


def _halves(count: int) -> list[int]:
    """Half a count, a quarter and so on, down to 1."""
    return [count >> bits for bits in range(1, count.bit_length())]
