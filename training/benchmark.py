"""Speed and memory of training on random tokens, beside the published program's."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForCausalLM

from randar_hf.bench import fill_zero_weights, model_config
from randar_hf.devices import check_device
from randar_hf.memory import peak_memory

from .accelerator import endless_batches, make_accelerator
from .model_building import build_model
from .throughput import device_peak, flops_per_image
from .trainer import Trainer
from .training_config import TrainingConfig


ROUNDS = 2  # in which two programs take turns
PRECISIONS = {"float32": "no", "bfloat16": "bf16"}  # what accelerate calls them
STATE_BYTES = 4 * 4  # of each parameter: weight, gradient and two moments, all in float32


@dataclass(frozen=True)
class TrainingBench:
    """What is measured; see [`measure_training`]."""

    size: str
    batch_size: int
    dtype: str
    device: str
    runs: int
    model_type: str
    compile: bool
    activation_checkpointing: bool
    gradient_accumulation_steps: int
    published: str | None


def measure_training(
    size: str = "demo",
    batch_size: int = 1,
    dtype: str = "float32",
    device: str = "cpu",
    runs: int = 3,
    model_type: str = "randar",
    compile: bool = False,
    activation_checkpointing: bool = True,
    gradient_accumulation_steps: int = 1,
    published: str | None = None,
) -> dict[str, Any]:
    """
    Time training steps of `randar-hf train`, and of the published RandAR's program on the same batches.

    Each program runs in a process of its own: one step that is not timed, and `runs` that are. Two programs take
    turns, two rounds each. Tokens and classes are random, and so are all weights.

    Args:
        size (`str`): a published size, `"B"`, `"L"`, `"XL"` or `"XXL"`, or `"demo"` for that of the shipped model.
        batch_size (`int`): images of a step, at least 1.
        dtype (`str`): `"float32"`, or `"bfloat16"` for mixed precision: weights and moments stay float32.
        device (`str`): `"cpu"` or `"cuda"`.
        runs (`int`): timed steps of a round, at least 1.
        model_type (`str`): `"randar"` or `"rar"`.
        compile (`bool`): compile our model; the published program does not.
        activation_checkpointing (`bool`): compute activations again in the backward pass, in both programs.
        gradient_accumulation_steps (`int`): forward passes into which ours divides the images of a step, a divisor of
            `batch_size`; the published program takes them all at once, as its configurations say.
        published (`str`, *optional*): folder of the published repository, to time its step too; for RandAR alone.

    Returns:
        `dict`: the settings, `threads`, and for each of `ours` and `published` (`None` unless asked for) the
        `parameters`, the `loss` of the first step in nats, the median, least and greatest `seconds` of a step, images
        and tokens per second, `mfu` (`None` where the device's peak is unknown), and in MiB the `peak_memory_mib`, of
        the process on a CPU and of the allocator on a GPU, and the `state_mib` among it: weights, gradients and
        moments.

    Raises:
        ValueError: for an unknown size or type, counts below 1, a device that is not there, or if memory is too small.
        FileNotFoundError: if `published` is no folder of that repository.
    """
    bench = TrainingBench(
        size,
        batch_size,
        dtype,
        device,
        runs,
        model_type,
        compile,
        activation_checkpointing,
        gradient_accumulation_steps,
        published,
    )
    _check(bench)
    programs = [time_our_steps] if published is None else ROUNDS * [time_our_steps, time_published_steps]
    rounds = [_in_own_process(program, bench) for program in programs]
    ours, theirs = rounds[::2], rounds[1::2]
    return {
        **{name: value for name, value in vars(bench).items() if name != "published"},
        "threads": torch.get_num_threads(),
        "ours": _summary(bench, ours),
        "published": _summary(bench, theirs) if theirs else None,
    }


def format_training(result: dict[str, Any]) -> str:
    """The settings of [`measure_training`] and a table of its two programs, as text."""
    settings = [f"{name}: {value}" for name, value in result.items() if not isinstance(value, dict | None)]
    ours, theirs = result["ours"], result["published"]
    head = f"{'':<18}{'ours':>12}" + (f"{'published':>12}{'ratio':>8}" if theirs else "")
    rows = []
    for name, value in ours.items():
        if value is None:
            continue
        row = f"{name:<18}{value:>12,.6g}"
        rows.append(row + (f"{theirs[name]:>12,.6g}{value / theirs[name]:>8.3f}" if theirs else ""))
    return "\n".join([*settings, "", head, *rows])


def time_our_steps(bench: TrainingBench) -> dict[str, Any]:
    """Time the steps of `randar_hf.training`."""
    config = TrainingConfig(
        dataset="random tokens",
        output_dir=".",  # nothing is written
        model_type=bench.model_type,
        batch_size=bench.batch_size // bench.gradient_accumulation_steps,
        gradient_accumulation_steps=bench.gradient_accumulation_steps,
        max_steps=360_000,
        learning_rate=4e-4,
        warmup_steps=0,
        activation_checkpointing=bench.activation_checkpointing,
        compile=bench.compile,
        mixed_precision=PRECISIONS[bench.dtype],
    )
    accelerator = make_accelerator(config, config.gradient_accumulation_steps, config.compile)
    sizes = model_config(bench.model_type, bench.size)
    if bench.model_type == "rar":
        sizes.merged_positions = False  # those of the shipped one were merged after its training
    model = build_model(config, sizes)
    fill_zero_weights(model)
    tokens, classes = random_rows(bench)
    rows = Dataset.from_dict({"tokens": tokens.numpy(), "label": classes.numpy()})
    trainer = Trainer(config, accelerator, model, rows, None, None)
    trainer.model.train()

    def steps() -> Iterator[torch.Tensor]:
        for epoch, _, batch in endless_batches(trainer.loader):
            trainer.training_step(batch, epoch)
            if accelerator.sync_gradients:
                yield torch.stack(trainer.losses).mean()
                trainer.losses.clear()

    return time_steps(steps(), model, bench)


def time_published_steps(bench: TrainingBench) -> dict[str, Any]:
    """Time the steps of the published RandAR, those of the loop in its `train_c2i.py`."""
    sys.path.insert(0, bench.published)
    try:
        from RandAR.model.randar_gpt import RandARTransformer
    except ModuleNotFoundError as error:
        raise ValueError(f"`published` must have all that it imports installed, got no {error.name!r}.") from error
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    set_seed(0)
    config = model_config("randar", bench.size)
    accelerator = Accelerator(mixed_precision=PRECISIONS[bench.dtype])
    model = RandARTransformer(
        dim=config.hidden_size,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        multiple_of=config.intermediate_size,  # the width of its feed-forward blocks: the first one from 8/3 `dim` on
        vocab_size=config.vocab_size,
        block_size=config.num_tokens,
        num_classes=config.num_classes,
        grad_checkpointing=bench.activation_checkpointing,
    ).to(accelerator.device)
    torch.nn.init.normal_(model.output.weight, std=config.initializer_range)
    optimizer = model.configure_optimizer(lr=4e-4, weight_decay=0.05, beta1=0.9, beta2=0.95, max_grad_norm=1.0)
    loader = DataLoader(TensorDataset(*random_rows(bench)), bench.batch_size, shuffle=True)
    model.train()
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    def steps() -> Iterator[torch.Tensor]:
        for tokens, classes in loader:
            with accelerator.accumulate(model):
                logits, loss, token_order = model(tokens, classes, targets=tokens)  # they live on in the next step
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                grad_norm = 0.0
                for parameter in model.parameters():
                    grad_norm += parameter.grad.data.norm(2).item()
                optimizer.step()  # the first 100 steps are taken whatever the norm
                optimizer.zero_grad()
                accelerator.gather(loss.repeat(bench.batch_size)).mean().item()
            yield loss.detach()

    return time_steps(steps(), model, bench)


def random_rows(bench: TrainingBench) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Tokens (R, N) and classes (R,) for all steps of a round, the same ones in each."""
    config = model_config(bench.model_type, bench.size)
    generator = torch.Generator().manual_seed(0)
    num_rows = bench.batch_size * (bench.runs + 1)
    tokens = torch.randint(config.vocab_size, (num_rows, config.num_tokens), generator=generator)
    return tokens, torch.randint(config.num_classes, (num_rows,), generator=generator)


def time_steps(steps: Iterator[torch.Tensor], model: nn.Module, bench: TrainingBench) -> dict[str, Any]:
    """The parameters of a model, the loss of its first step, the seconds of each later one, and the peak in bytes."""
    loss, seconds = next(steps).item(), []
    for _ in range(bench.runs):
        start = time.perf_counter()
        next(steps).item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "loss": loss,
        "seconds": seconds,
        "peak_memory": peak_memory(bench.device),
    }


def _in_own_process(program: Callable[[TrainingBench], dict[str, Any]], bench: TrainingBench) -> dict[str, Any]:
    """What a program gives in a process that runs nothing else, whose peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_on_its_device, program, bench).result()
        except BrokenProcessPool as error:
            raise ValueError(
                f"`batch_size` must be smaller for this machine, got {bench.batch_size}: a process was ended, as "
                "happens when memory is short."
            ) from error


def _on_its_device(program: Callable[[TrainingBench], dict[str, Any]], bench: TrainingBench) -> dict[str, Any]:
    """What a program gives, in this process, on a CPU also where there is a GPU if that is asked for."""
    if bench.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    return program(bench)


def _check(bench: TrainingBench):
    for name in ("batch_size", "gradient_accumulation_steps", "runs"):
        if getattr(bench, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(bench, name)}.")
    if bench.batch_size % bench.gradient_accumulation_steps:
        raise ValueError(
            f"`gradient_accumulation_steps` must divide `batch_size`, {bench.batch_size}, "
            f"got {bench.gradient_accumulation_steps}."
        )
    if bench.dtype not in PRECISIONS:
        raise ValueError(f"`dtype` must be one of {', '.join(PRECISIONS)} in training, got {bench.dtype!r}.")
    if bench.device not in ("cpu", "cuda"):
        raise ValueError(f"`device` must be cpu or cuda in training, got {bench.device!r}.")
    check_device(bench.device)
    model_config(bench.model_type, bench.size)
    if bench.published is None:
        return
    if bench.model_type != "randar":
        raise ValueError(f"`model_type` must be 'randar' beside `published`, got {bench.model_type!r}.")
    if not (Path(bench.published) / "RandAR" / "model" / "randar_gpt.py").is_file():
        raise FileNotFoundError(
            "`published` must be a folder of the published repository, with RandAR/model/randar_gpt.py, "
            f"got {bench.published!r}."
        )


def _summary(bench: TrainingBench, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One program's rounds as numbers: times of all steps, the highest peak."""
    config = model_config(bench.model_type, bench.size)
    seconds = [each for part in rounds for each in part["seconds"]]
    median = statistics.median(seconds)
    with torch.device("meta"):
        flops = flops_per_image(AutoModelForCausalLM.from_config(config))
    peak = device_peak(torch.device(bench.device), PRECISIONS[bench.dtype])
    parameters = rounds[0]["parameters"]
    return {
        "parameters": parameters,
        "loss": rounds[0]["loss"],
        "seconds": median,
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "images_per_second": bench.batch_size / median,
        "tokens_per_second": bench.batch_size * config.num_tokens / median,
        "mfu": peak and flops * bench.batch_size / median / peak,
        "peak_memory_mib": max(part["peak_memory"] for part in rounds) / 2**20,
        "state_mib": STATE_BYTES * parameters / 2**20,
    }
