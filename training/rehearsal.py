"""`--dry-run`: what a run takes, told after a few of its steps and without writing anything."""

import time
from contextlib import closing

from torch.utils.flop_counter import FlopCounterMode

from randar_hf.memory import peak_memory

from .accelerator import endless_batches
from .memory_estimate import Memory, format_bytes


TIMED_STEPS = 3


def rehearse(run, memory: Memory | None, accumulation: int = 1) -> None:
    """Take a step whose operations are counted and three that are timed, and print what the whole run takes.

    Args:
        run: a `ResumableRun` that has taken no step; it cannot go on after this.
        memory: the estimate, if there is one.
        accumulation: forward passes of each process per optimizer step.
    """
    counter, is_compiled = FlopCounterMode(display=False), getattr(run.config, "compile", False)
    seconds, started = [], time.perf_counter()
    run.model.train()
    with closing(endless_batches(run.loader)) as batches:
        for epoch, _, batch in batches:
            if seconds or is_compiled:
                run.training_step(batch, epoch)
            else:
                with counter:
                    run.training_step(batch, epoch)
            if not run.accelerator.sync_gradients:
                continue
            run.progress.step += 1
            run.losses[-1].sum().item()  # waits for the device
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            if len(seconds) == 1 + TIMED_STEPS:
                break
    if not run.accelerator.is_main_process:
        return
    steps, each = run.config.max_steps, sum(seconds[1:]) / TIMED_STEPS
    passes = accumulation * run.accelerator.num_processes
    images = passes * run.config.batch_size
    lines = [
        f"randar-hf {run.command}: a dry run, nothing was written",
        *describe_memory(memory, run.accelerator.device),
    ]
    if not is_compiled:
        flops = counter.get_total_flops() * passes  # the counter's are those of the last pass, on this process
        lines.append(f"operations: {flops:.3g} FLOP a step of {images} images, {flops * steps:.3g} in {steps:,} steps")
    lines.append(f"time: {each:.3g} s a step, {format_time(each * steps)} for {steps:,} steps, without validation")
    print("\n".join(filter(None, lines)))


def describe_memory(memory: Memory | None, device) -> list[str]:
    """Parameters, the estimate, and the peak so far."""
    peak = f"memory: at most {format_bytes(peak_memory(device))} up to now" if device.type in ("cpu", "cuda") else ""
    if memory is None:
        return ["memory: no estimate", peak]
    return [f"parameters: {memory.parameters:,}", f"memory: about {memory.describe()}", peak]


def format_time(seconds: float) -> str:
    """A time in seconds, minutes, hours or days."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
