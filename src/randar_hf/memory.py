"""Whether decoding fits into memory, told before it starts."""

import psutil
import torch


def check_memory(num_tokens: int, num_bytes: int, device: torch.device, argument: str = "`grid_size`"):
    """
    Raise a `ValueError` if decoding needs more memory than is free.

    Args:
        num_tokens (`int`): tokens of one image.
        num_bytes (`int`): bytes that decoding takes at least, beside the weights.
        device (`torch.device`): where it takes them; only the memory of CPUs and CUDA devices is known.
        argument (`str`): what gives the size, for the message.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        free -= torch.cuda.memory_allocated(device)
    elif device.type == "cpu":
        free = psutil.virtual_memory().available
    else:
        return
    if num_bytes > free:
        raise ValueError(
            f"{argument} gives {num_tokens} tokens an image, whose decoding takes at least "
            f"{num_bytes / 2**30:.3g} GiB for this batch; {free / 2**30:.3g} GiB are free."
        )
