"""What a step takes, told before the first one: memory by what it is for, and operations.

The step runs on fake tensors, which have a shape, a type and a device but no memory: model, loss and gradients are the
real ones, so that sizes, batch, precision and checkpointing need no formulas.
"""

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from randar_hf.memory import free_memory


# What a process takes beside the tensors that are alive: pieces of the heap that no tensor fits into, and buffers of
# the products. Measured on a CPU: 181 to 417 MiB in seven configurations of 0.3 to 1.3 GiB.
OVERHEAD = 300 * 2**20


@dataclass(frozen=True)
class StepMemory:
    """
    Bytes of one process in a training step.

    Attributes:
        parameters (`int`): how many there are.
        flops (`int`): operations of forward and backward pass.
        weights, gradients, moments, averages (`int`): bytes of what belongs to the parameters.
        activations (`int`): bytes at the peak beside weights and gradients.
        overhead (`int`): what is not in tensors.
        process (`int`): what the process takes already.
    """

    parameters: int
    flops: int
    weights: int
    gradients: int
    moments: int
    averages: int
    activations: int
    overhead: int
    process: int

    @property
    def needed(self) -> int:
        """Bytes that the run takes beside what the process has."""
        return self.weights + self.gradients + self.moments + self.averages + self.activations + self.overhead

    @property
    def total(self) -> int:
        """Bytes of the whole process at the peak."""
        return self.process + self.needed

    def describe(self) -> str:
        """The parts in one line."""
        names = ("weights", "gradients", "moments", "averages", "activations", "overhead", "process")
        return ", ".join(f"{name} {format_bytes(value)}" for name in names if (value := getattr(self, name)))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return outputs

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def measure_step(
    build: Callable[[], nn.Module],
    step: Callable[[nn.Module], torch.Tensor | None],
    device: torch.device,
    averages: bool = False,
    num_processes: int = 1,
) -> StepMemory:
    """
    The memory of a step.

    Args:
        build: makes the model in its mode, on the default device; weights are not read.
        step: runs the forward pass and returns the loss; `None` without a backward pass.
        device: where it is going to run.
        averages: whether a moving average of the trained weights is kept.
        num_processes: with several, each holds its gradients twice, to exchange them.

    Raises:
        RuntimeError: something in the step cannot run on fake tensors.
    """
    live, flops = LiveBytes(), FlopCounterMode(display=False)
    with FakeTensorMode(), live, device:
        model = build()
        before = live.now
        with flops:
            loss = step(model)
            if loss is not None:
                loss.backward()
        parameters = list(model.parameters())
        trained = [parameter for parameter in parameters if parameter.requires_grad and loss is not None]
        of_trained = sum(parameter.nbytes for parameter in trained)
        weights = sum(tensor.nbytes for tensor in (*parameters, *model.buffers()))
    gradients = of_trained * (2 if num_processes > 1 else 1)
    return StepMemory(
        parameters=sum(parameter.numel() for parameter in parameters),
        flops=flops.get_total_flops(),
        weights=weights,
        gradients=gradients,
        moments=2 * of_trained,
        averages=of_trained if averages else 0,
        activations=max(0, live.peak - before - of_trained),
        overhead=OVERHEAD,
        process=psutil.Process().memory_info().rss if device.type == "cpu" else 0,
    )


def check_fits(
    estimate: Callable[[dict], StepMemory], tries: list[dict], device: torch.device, num_processes: int, remedy: str
) -> StepMemory:
    """
    The estimate of a run, whose memory is there.

    Args:
        estimate: of changed settings, by name.
        tries: changes that need less and less, to propose what would fit.
        device: where it is going to run.
        num_processes: of the run; on a CPU those of this machine share its memory.
        remedy: says in words what to lower where none of the changes is enough.

    Raises:
        ValueError: the memory is not there; it names the settings that fit.
    """
    asked, free = estimate({}), free_memory(device)
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes)) if device.type == "cpu" else 1
    if free is None or asked.needed * sharing <= free:
        return asked
    fitting = next((change for change in tries if estimate(change).needed * sharing <= free), None)
    advice = remedy if fitting is None else ", ".join(f"`{name}` {value}" for name, value in fitting.items()) + " fits"
    each = f" in each of {sharing} processes" if sharing > 1 else ""
    raise ValueError(
        f"`batch_size` must fit the memory: a step takes about {format_bytes(asked.total)}{each} "
        f"({asked.describe()}), and {format_bytes(free)} are free; {advice}"
    )


def format_bytes(count: float) -> str:
    """A size in MiB or GiB."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
