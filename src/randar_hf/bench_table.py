"""The table of `randar-hf bench --table`: sizes, batches and ways to decode, eager and captured, in limited time."""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import CompileConfig

from .bench import random_model
from .memory import peak_memory
from .modeling_randar import RandARForCausalLM
from .modeling_rar import RARForCausalLM


WAYS = ({"num_inference_steps": 88}, {"num_inference_steps": 32}, {"speculative_window": 16})


def measure_table(
    device: str = "cuda",
    dtype: str = "bfloat16",
    sizes: Sequence[str] = ("L", "XL", "XXL"),
    batch_sizes: Sequence[int] = (1, 16, 64),
    ways: Sequence[dict[str, int]] = WAYS,
    compile_config: CompileConfig | None = None,
    limit: float = 360.0,
) -> dict[str, Any]:
    """
    Time the generation of tokens with random weights of RandAR and guidance 4, each setting once after one warm-up.

    Args:
        device, dtype (`str`): as for [`~randar_hf.bench.measure`].
        sizes (`Sequence[str]`): sizes of models.
        batch_sizes (`Sequence[int]`): images at once.
        ways (`Sequence[dict]`): settings of decoding.
        compile_config (`CompileConfig`, *optional*): how the captured half is compiled; by default into one graph for
            each shape of a pass, captured where the device can.
        limit (`float`): seconds after which no setting is begun; those that are left say so.

    Returns:
        `dict`: the device, torch's version, the seconds in all, and a row for each setting: either `seconds`,
        `images_per_second`, `passes`, `seconds_of_warm_up` (compiling and capturing are in it) and `peak_memory_mib`;
        or `not_measured`, the reason. With random weights lossless decoding guesses seldom right: its row tells what a
        pass costs.
    """
    compile_config = compile_config or CompileConfig(fullgraph=True)
    start, rows = time.perf_counter(), []
    for size in sizes:
        model = random_model("randar", size, getattr(torch, dtype), device)
        # All that is eager first: compiling may use up the time.
        for config, batch_size, way in itertools.product((None, compile_config), batch_sizes, ways):
            row = {"size": size, "batch_size": batch_size, **way, "captured": config is not None}
            if time.perf_counter() - start > limit:
                rows.append(row | {"not_measured": f"{limit:g} s were over"})
                continue
            try:
                rows.append(row | _time_setting(model, batch_size, {**way, "compile_config": config}, device))
            except torch.OutOfMemoryError as error:
                rows.append(row | {"not_measured": str(error)})
        del model
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device
    about = {"device": name, "dtype": dtype, "torch": torch.__version__, "threads": torch.get_num_threads()}
    return {**about, "seconds": time.perf_counter() - start, "rows": rows}


def _time_setting(
    model: RandARForCausalLM | RARForCausalLM, batch_size: int, settings: dict[str, Any], device: str
) -> dict[str, float]:
    """The numbers of one row."""
    labels = torch.arange(batch_size) % model.config.num_classes
    torch.compiler.reset()  # torch keeps at most eight shapes of one function; a row needs up to three of its own
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        *_, last = model.generation_steps(labels, guidance_scale=4.0, **settings)
        last.tokens.cpu()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": seconds[1],
        "images_per_second": batch_size / seconds[1],
        "passes": last.step + 1,
        "seconds_of_warm_up": seconds[0],
        "peak_memory_mib": peak_memory(device) / 2**20,
    }


__all__ = ["measure_table"]
