"""How much memory is free and was used, and whether decoding fits, told before it starts."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil


if TYPE_CHECKING:
    import torch

# What torch and the other libraries of a training take once they are imported, by what they take: measured.
LIBRARIES = {"memory": 450 * 2**20, "address space (`ulimit -v`)": 1500 * 2**20}
THREADS = 2**28  # addresses that threads take on top of memory: stacks, and a heap of 64 MiB each
CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# The files of a container's memory by version of Linux's control groups: the limit, what is used, and the statistics.
V2_FILES = ("memory.max", "memory.current", "inactive_file")
V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def check_libraries_fit():
    """Raise a `ValueError` if there is too little memory to import what a training needs; imports nothing itself."""
    limits = [psutil.virtual_memory().available, _free_in_container()]
    memory = min(limit for limit in limits if limit is not None)
    for (kind, needed), free in zip(LIBRARIES.items(), (memory, _free_addresses())):
        if free is not None and free < needed:
            raise ValueError(
                f"torch and the other libraries take about {needed >> 20} MiB of {kind}, got {max(0, free) >> 20} MiB "
                "that are free"
            )


def free_memory(device: "torch.device") -> int | None:
    """
    Bytes that this process can still get on a device, `None` where that is unknown.

    On a CPU it is the least of what the machine has, what a container leaves and what the limit of the process's
    address space leaves; on a CUDA device what the driver and torch's allocator hold free.
    """
    if device.type == "cuda":
        import torch  # the command line asks what is free before it imports that

        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    if device.type != "cpu":
        return None
    limits: list[int | None] = [psutil.virtual_memory().available, _free_in_container(), _free_addresses()]
    return max(0, min(limit for limit in limits if limit is not None))


def peak_memory(device: "torch.device | str") -> int:
    """Peak bytes so far: of the whole process on a CPU, of torch's allocator on a CUDA device."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows, where all else works

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def check_memory(num_tokens: int, num_bytes: int, device: "torch.device", argument: str = "`grid_size`"):
    """
    Raise a `ValueError` if decoding needs more memory than is free.

    Args:
        num_tokens (`int`): tokens of one image.
        num_bytes (`int`): bytes that decoding takes at least, beside the weights.
        device (`torch.device`): where it takes them; only the memory of CPUs and CUDA devices is known.
        argument (`str`): what gives the size, for the message.
    """
    free = free_memory(device)
    if free is not None and num_bytes > free:
        raise ValueError(
            f"{argument} gives {num_tokens} tokens an image, whose decoding takes at least "
            f"{num_bytes / 2**30:.3g} GiB for this batch; {free / 2**30:.3g} GiB are free."
        )


def _free_in_container() -> int | None:
    """The least that the control groups of this process and those above them leave; `None` without a limit."""
    free = []
    for line in _read_lines(MEMBERSHIP):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, files = (CGROUPS / "memory", V1_FILES) if controllers else (CGROUPS, V2_FILES)
        group = root / path.lstrip("/")
        free += [_free_in_group(folder, *files) for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return min((left for left in free if left is not None), default=None)


def _free_in_group(folder: Path, limit_file: str, usage_file: str, reclaimable: str) -> int | None:
    """What the limit of one group leaves, where cached files count as free; `None` if it has no limit."""
    limit, usage = (_read_lines(folder / name) for name in (limit_file, usage_file))
    if not limit or not usage or limit[0] == "max":
        return None
    statistics = dict(line.split(" ", 1) for line in _read_lines(folder / "memory.stat"))
    return int(limit[0]) - int(usage[0]) + int(statistics.get(reclaimable, 0))


def _free_addresses() -> int | None:
    """What the limit of the address space (`ulimit -v`) leaves; `None` without one."""
    process = psutil.Process()
    if not hasattr(process, "rlimit"):  # on Linux alone
        return None
    limit = process.rlimit(psutil.RLIMIT_AS)[0]
    return None if limit == psutil.RLIM_INFINITY else limit - process.memory_info().vms - THREADS


def _read_lines(path: Path) -> list[str]:
    """The lines of a file of the kernel, none if there is no such file."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


__all__ = ["check_libraries_fit", "check_memory", "free_memory", "peak_memory"]
