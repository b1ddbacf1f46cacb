"""What a run takes, told before its first step: memory by what it is for, by formulas with measured constants.

The constants of activations are what autograd keeps for the backward pass, counted with saved-tensor hooks; the page
docs/training.md compares the sums with measured peaks.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import psutil
import torch
from accelerate import Accelerator
from diffusers import VQModel
from torch import nn
from torch.func import functional_call

from randar_hf.loss import BLOCK_LOGITS
from randar_hf.memory import free_memory


OVERHEAD = 120 * 2**20  # what a process takes beside tensors once it trains: buffers of products, pieces of the heap
FLOAT = 4  # bytes
# What the terms of a tokenizer's loss take at the peak, in bytes for each that autograd keeps of them; measured.
PERCEPTUAL, ADVERSARIAL = 1.5, 3.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Memory:
    """Bytes of one process.

    Args:
        parameters: how many there are.
        weights, gradients, moments, averages: bytes of what belongs to the parameters.
        activations: bytes at the peak of a step.
        process: bytes that the process has already.
    """

    parameters: int
    weights: int
    gradients: int
    moments: int
    averages: int
    activations: int
    process: int

    @property
    def needed(self) -> int:
        """Bytes beside those that the process has."""
        return self.weights + self.gradients + self.moments + self.averages + self.activations + OVERHEAD

    @property
    def total(self) -> int:
        """Bytes of the process at the peak."""
        return self.needed + self.process

    def describe(self) -> str:
        """The sum and its parts."""
        names = ("weights", "gradients", "moments", "averages", "activations")
        parts = [f"{name} {format_bytes(value)}" for name in names if (value := getattr(self, name))]
        return f"{format_bytes(self.total)} ({', '.join(parts)}, process {format_bytes(self.process + OVERHEAD)})"


def training_memory(
    model: nn.Module, activations: float, accelerator: Accelerator, averages: bool = False, mixed: bool = False
) -> Memory:
    """The memory of a training step in full-precision weights with AdamW.

    Args:
        model: on the meta device, with gradients where it is trained.
        activations: bytes.
        accelerator: of the run; with several processes each has gradients twice, to exchange them.
        averages: whether a moving average of the trained weights is kept.
        mixed: whether products are computed in 16 bits, for which weights are cast.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = FLOAT * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Memory(
        parameters=parameters,
        weights=(FLOAT + 2 * mixed) * parameters,
        gradients=trained * (2 if accelerator.num_processes > 1 else 1),
        moments=2 * trained,
        averages=trained if averages else 0,
        activations=int(activations),
        process=process_memory(accelerator.device),
    )


def transformer_activations(model_config, batch_size: int, activation_checkpointing: bool, mixed: bool) -> float:
    """Bytes of activations of RandAR or RAR at the peak of a step.

    A layer keeps 12 vectors of its width, 4 of its inner width and one number a head for each slot, of which there are
    two a token; with activation checkpointing only its input, and one layer all of it. Logits exist in blocks.

    Args:
        model_config: of the model.
        batch_size: images of a forward pass.
        activation_checkpointing: whether activations are computed again.
        mixed: whether products are computed in 16 bits.
    """
    width, layers = model_config.hidden_size, model_config.num_hidden_layers
    layer = 12 * width + 4 * model_config.intermediate_size + model_config.num_attention_heads
    kept = layers * width + layer if activation_checkpointing else layers * layer
    gradients = 4 * width + 3 * model_config.intermediate_size  # of the layer that the backward pass is in
    tokens = batch_size * model_config.num_tokens
    logits = 3 * min(tokens * model_config.vocab_size, BLOCK_LOGITS)
    scale = 0.7 if mixed else 1.0
    return FLOAT * (scale * 2 * tokens * (kept + gradients) + 8 * tokens * width + logits)


def tokenizer_activations(config, batch_size: int, is_trained: bool) -> float:
    """Bytes of activations of a `VQModel` at the peak of a step, or of encoding where it is not trained.

    For each pixel of a level and each of its channels encoder and decoder keep 7 numbers and 12 more for each residual
    block; the deepest level 41 more, of the middle blocks; a level 2.5 for each channel of the next one.

    Args:
        config: has `image_size`, `block_out_channels`, `layers_per_block` and `codebook_size`.
        batch_size: images of a forward pass.
        is_trained: whether there is a backward pass.
    """
    channels, side = config.block_out_channels, config.image_size
    levels = list(enumerate(zip(channels, [*channels[1:], 0])))
    tokens = (side >> (len(channels) - 1)) ** 2
    distances = 3 * tokens * config.codebook_size
    if not is_trained:
        widest = max((side >> level) ** 2 * own for level, (own, _) in levels)
        return FLOAT * batch_size * (6 * widest + distances)
    each = 7 + 12 * config.layers_per_block
    kept = sum((side >> level) ** 2 * (each * own + 2.5 * below) for level, (own, below) in levels)
    kept += tokens * 41 * channels[-1] + 18 * side**2
    gradients = 4 * max((side >> level) ** 2 * own for level, (own, _) in levels)
    return FLOAT * batch_size * (kept + gradients + distances)


def kept_activations(module: nn.Module, *inputs: torch.Tensor) -> int:
    """Bytes that autograd keeps of a forward pass for the backward pass; nothing is computed.

    Args:
        module: on any device.
        inputs: of it, on the meta device.
    """
    tensors = {name: tensor.to("meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        functional_call(module, tensors, inputs)
    for tensor in tensors.values():
        kept.pop(tensor.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in kept.values())


def encoding_memory(vqvae: VQModel, image_size: int, batch_size: int) -> Memory:
    """The memory of a batch of `tokenize`, beside the tokenizer, which the process has."""
    sizes = SimpleNamespace(
        image_size=image_size,
        block_out_channels=vqvae.config.block_out_channels,
        layers_per_block=vqvae.config.layers_per_block,
        codebook_size=vqvae.config.num_vq_embeddings,
    )
    activations = int(tokenizer_activations(sizes, batch_size, is_trained=False))
    parameters = sum(parameter.numel() for parameter in vqvae.parameters())
    return Memory(parameters, 0, 0, 0, 0, activations, process_memory(vqvae.device))


def process_memory(device: torch.device) -> int:
    """Bytes that this process has on a device: all of it on a CPU."""
    return psutil.Process().memory_info().rss if device.type == "cpu" else torch.cuda.memory_reserved(device)


def check_fits(
    command: str, estimate: Callable[..., Memory], tries: list[dict], remedy: str, accelerator: Accelerator
) -> Memory | None:
    """Say what a run takes, and whether that is free, before anything is written.

    Args:
        command: of the run, for messages.
        estimate: the memory of the run with some of its settings changed, given by name.
        tries: changes to look for one that fits, in turn.
        remedy: what else to change, for the message.
        accelerator: of the run, whose processes on a CPU share its memory.

    Returns:
        The estimate; None where none can be made, which is said.

    Raises:
        ValueError: the memory is not free; the message tells which changes fit.
    """
    device = accelerator.device
    if device.type not in ("cpu", "cuda") or getattr(accelerator, "is_fsdp2", False):
        reason = f"on {device.type}" if device.type not in ("cpu", "cuda") else "of weights that processes share"
        logger.warning("memory cannot be estimated %s; going on without", reason)
        return None
    asked, free = estimate(), free_memory(device)
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes)) if device.type == "cpu" else 1
    if free is None or asked.needed * sharing <= free:
        return asked
    fitting = next((change for change in tries if estimate(**change).needed * sharing <= free), None)
    advice = remedy if fitting is None else " with ".join(f"`{name}` {value}" for name, value in fitting.items())
    raise ValueError(
        f"`batch_size` must fit the memory: `{command}` takes about {asked.describe()}"
        f"{f' in each of {sharing} processes' if sharing > 1 else ''}, got {format_bytes(free)} that are free; "
        f"{'what fits: ' if fitting else ''}{advice}"
    )


def smaller_batches(batch_size: int, accumulation: int | None = None) -> list[dict]:
    """Halves of a batch down to 1, with as much more accumulation where there is such."""
    sizes = [batch_size >> bits for bits in range(1, batch_size.bit_length())]
    if accumulation is None:
        return [{"batch_size": size} for size in sizes]
    steps = [-(-batch_size * accumulation // size) for size in sizes]
    return [{"batch_size": size, "gradient_accumulation_steps": count} for size, count in zip(sizes, steps)]


def format_bytes(count: float) -> str:
    """A size in MiB or GiB."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"
