"""Speed and memory of generation with random weights."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from . import RandARConfig, RARConfig, demo_checkpoint
from .cache import cache_bytes
from .checks import check_grid_size
from .configuration_randar import SIZES
from .devices import check_device
from .layout import sequence_length
from .memory import peak_memory
from .orders import make_order
from .threads import warn_of_busy_cores


CONFIGS = {"randar": RandARConfig, "rar": RARConfig}


def measure(
    size: str = "demo",
    batch_size: int = 1,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    runs: int = 3,
    grid_size: tuple[int, int] | None = None,
    known_tokens: int = 0,
    model_type: str = "randar",
    speculative_window: int | None = None,
    pack_weights: bool = False,
) -> dict[str, Any]:
    """
    Time the generation of tokens; the image decoder is not run, as in the paper's Table 4.

    Args:
        size (`str`): a published size, `"B"`, `"L"`, `"XL"` or `"XXL"`, with 256 tokens of 16,384 codes (RAR: 1,024),
            or `"demo"` for the sizes of the shipped checkpoint.
        batch_size (`int`): images at once, at least 1.
        num_inference_steps (`int`, *optional*): decoding steps; by default the model's, at most one per token: 88 for
            RandAR, one per token for RAR.
        guidance_scale (`float`, *optional*): 4 by default for RandAR, the model's own for RAR; 1 turns guidance off,
            which halves the work.
        dtype (`str`): `"float32"`, `"bfloat16"` or `"float16"`.
        device (`str`): a torch device.
        runs (`int`): timed runs after one that is not, at least 1.
        grid_size (`(int, int)`, *optional*): rows and columns of tokens, if not the trained ones: what outpainting and
            larger images cost.
        known_tokens (`int`): tokens of each image that are given, at random positions or, for a model of one order, at
            the first ones: what inpainting costs.
        model_type (`str`): `"randar"` or `"rar"`.
        speculative_window (`int`, *optional*): of lossless decoding, instead of steps. With random weights guesses
            seldom come true, so it tells what a pass costs and not how many there are: see [`count_passes`].
        pack_weights (`bool`): call [`~randar_hf.packing.PackingMixin.pack_weights`] first.

    Returns:
        `dict`: the settings, median seconds of a batch, images and tokens per second, bytes of weights and of the full
        cache, and the peak memory: of the process on a CPU, of the allocator on a GPU. Memory in MiB.

    Raises:
        ValueError: for an unknown size or type, counts below 1, or a device that is not there.
    """
    for name, value in (("batch_size", batch_size), ("runs", runs)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"`dtype` must be float32, bfloat16 or float16, got {dtype!r}.")
    check_device(device)
    warn_of_busy_cores(device)
    model: Any = random_model(model_type, size, getattr(torch, dtype), device)
    if pack_weights:
        model.pack_weights()
    config = model.config
    grid = config.grid if grid_size is None else check_grid_size(grid_size)
    num_tokens = grid[0] * grid[1]
    if not 0 <= known_tokens <= num_tokens:
        raise ValueError(f"`known_tokens` must lie between 0 and the {num_tokens} tokens, got {known_tokens}.")
    model.check_memory(batch_size, num_tokens, argument=f"a batch of {batch_size} images by `batch_size`")
    if speculative_window is not None:
        num_inference_steps = None
    elif num_inference_steps is None:
        num_inference_steps = min(88, num_tokens) if config.fixed_order is None else num_tokens
    if guidance_scale is None:
        guidance_scale = config.generation_defaults.get("guidance_scale", 4.0)
    settings = {
        "num_inference_steps": num_inference_steps,
        "speculative_window": speculative_window,
        "guidance_scale": guidance_scale,
    }
    known = _sample_known(config, batch_size, grid, known_tokens) if known_tokens else {}
    labels = torch.arange(batch_size) % config.num_classes
    seconds = [_time_once(model, labels, {"grid_size": grid, **settings, **known}) for _ in range(runs + 1)][1:]
    return {
        "model_type": model_type,
        "size": size,
        "parameters": model.num_parameters(),
        "batch_size": batch_size,
        "num_tokens": num_tokens,
        "known_tokens": known_tokens,
        **settings,
        "dtype": dtype,
        "device": device,
        "packed_weights": pack_weights,
        "threads": torch.get_num_threads(),
        **_describe_speed(seconds, batch_size, num_tokens - known_tokens),
        **_describe_memory(model, batch_size if guidance_scale == 1 else 2 * batch_size, num_tokens, device),
    }


def _describe_speed(seconds: list[float], batch_size: int, num_tokens: int) -> dict[str, float]:
    """What the runs took, each of so many images with so many tokens to decode."""
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "images_per_second": batch_size / median,
        "tokens_per_second": batch_size * num_tokens / median,
    }


def _describe_memory(model: Any, num_sequences: int, num_tokens: int, device: str) -> dict[str, float]:
    """MiB of the weights, of the full cache of so many sequences, and at the peak."""
    bytes_each = next(model.parameters()).element_size()
    length = sequence_length(num_tokens, model.base_model.form)
    return {
        "weights_mib": model.num_parameters() * bytes_each / 2**20,
        "cache_mib": cache_bytes(model.config, num_sequences, length, model.dtype) / 2**20,
        "peak_memory_mib": peak_memory(device) / 2**20,
    }


def _sample_known(config: Any, batch_size: int, grid: tuple[int, int], count: int) -> dict[str, torch.Tensor]:
    """Known tokens and their mask, (B, N) each: so many of each image, the first ones of an order."""
    order = make_order(config.fixed_order or "random", *grid, batch_size)  # (B, N)
    return {
        "known_tokens": torch.randint(config.vocab_size, order.shape),
        "known_mask": order.argsort(dim=1) < count,
    }


def _time_once(model: Any, labels: torch.Tensor, settings: dict[str, Any]) -> float:
    start = time.perf_counter()
    model.generate(labels, **settings).cpu()  # waits for the device
    return time.perf_counter() - start


def count_passes(
    model_type: str = "randar",
    windows: Sequence[int] = (4, 8, 16, 32),
    orders: Sequence[str] = ("random", "hierarchical", "subsample", "raster"),
    num_images: int = 20,
    guidance_scale: float = 4.0,
    dtype: str = "float32",
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """
    What lossless decoding with a shipped model takes, beside one step a token and the stored number of steps.

    Args:
        model_type (`str`): `"randar"`, or `"rar"`, which has one order.
        windows (`Sequence[int]`): speculative windows.
        orders (`Sequence[str]`): names of orders.
        num_images (`int`): images, class after class, with the seeds 0, 1, 2 and so on.
        guidance_scale (`float`): classifier-free guidance.
        dtype (`str`): of the weights.
        device (`str`): a torch device.

    Returns:
        `list[dict]`: for each order and way to decode, means over the images of the passes that feed one and of the
        slots fed for it, and the fraction of images whose tokens equal those of one step a token.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(demo_checkpoint(model_type), subfolder="transformer")
    model = model.to(device, getattr(torch, dtype)).eval()
    num_tokens, steps = model.config.num_tokens, model.generation_config.num_inference_steps
    ways = [{"num_inference_steps": num_tokens}, *({"speculative_window": window} for window in windows)]
    ways += [{"num_inference_steps": steps}] if steps < num_tokens else []
    rows = []
    for order in orders if model.config.fixed_order is None else [model.config.fixed_order]:
        expected = None
        for way in ways:
            tokens, passes, slots = _decode_counted(model, order, num_images, guidance_scale, way)
            expected = tokens if expected is None else expected
            equal = (tokens == expected).all(dim=1).float().mean().item()
            row = {"order": order, **dict.fromkeys(("speculative_window", "num_inference_steps")), **way}
            rows.append(row | {"passes": passes, "slots": slots, "equal": equal})
    return rows


def _decode_counted(model, order: str, num_images: int, scale: float, way: dict[str, int]) -> tuple:
    """Tokens (B, N), and the mean passes and slots that an image took."""
    fed, num_tokens = [], model.config.num_tokens

    def count(module, arguments, inputs):
        layout = inputs["layout"]
        is_fed = (layout.carried <= num_tokens) | (layout.predicted < num_tokens)
        fed.append(is_fed.sum(dim=1)[:num_images])

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(num_images)]
    labels = torch.arange(num_images) % model.config.num_classes
    tokens = model.generate(labels, order, guidance_scale=scale, generator=generators, **way)
    hook.remove()
    slots = torch.stack(fed)  # (passes, B)
    return tokens, (slots > 0).sum(dim=0).float().mean().item(), slots.sum(dim=0).float().mean().item()


def model_config(model_type: str, size: str) -> PreTrainedConfig:
    """The configuration of a published size, or of a shipped checkpoint; raises a `ValueError` for anything else."""
    if model_type not in tuple(CONFIGS):
        raise ValueError(f"`model_type` must be one of {', '.join(CONFIGS)}, got {model_type!r}.")
    if size == "demo":
        return AutoConfig.from_pretrained(demo_checkpoint(model_type), subfolder="transformer")
    if size not in SIZES:
        raise ValueError(f"`size` must be demo or one of {', '.join(SIZES)}, got {size!r}.")
    return CONFIGS[model_type].from_size(size)


def fill_zero_weights(model: PreTrainedModel):
    """Sample the weights that start at zero, unlike trained ones: those of the head and of modulations."""
    for name, parameter in model.named_parameters():
        if name == "lm_head.weight" or "modulation" in name:
            torch.nn.init.normal_(parameter, std=model.config.initializer_range)


def random_model(model_type: str, size: str, dtype: torch.dtype, device: str) -> Any:
    """A model of a published size, or of the shipped checkpoint's, with random weights."""
    config = model_config(model_type, size)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    fill_zero_weights(model)
    return model
