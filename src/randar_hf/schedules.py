"""How many tokens each step decodes, and how guidance grows."""

import math

import torch

from .checks import check_int


GROUP_SCHEDULES = ("cosine", "uniform")
GUIDANCE_SCHEDULES = ("linear", "constant", "power_cosine")


def group_sizes(num_tokens: int, num_steps: int, schedule: str = "cosine") -> list[int]:
    """
    The number of tokens that each step of parallel decoding samples (Sec. 4.1).

    `"cosine"` decodes few tokens while little is known and many at the end: after step i of S,
    `floor((1 - cos(pi / 2 * (i + 1) / S)) * N + 1)` tokens are there, with at least one new one each step.
    `"uniform"` decodes equally many in each step.

    Args:
        num_tokens (`int`): tokens to decode, at least 1.
        num_steps (`int`): steps, from 1 to `num_tokens`.
        schedule (`str`): `"cosine"` or `"uniform"`.

    Returns:
        `list[int]`: `num_steps` sizes, each at least 1, that sum to `num_tokens`.

    Raises:
        ValueError: for an unknown schedule or counts out of range.
    """
    num_tokens = check_int("num_tokens", num_tokens, 1)
    num_steps = check_int("num_steps", num_steps, 1, num_tokens, note=" tokens to decode")
    if schedule not in GROUP_SCHEDULES:
        raise ValueError(f"`schedule` must be one of {', '.join(GROUP_SCHEDULES)}, got {schedule!r}.")
    sizes, done = [], 0
    for step in range(1, num_steps + 1):
        if schedule == "uniform":
            target = step * num_tokens // num_steps
        elif step == 1 < num_steps:
            target = 1
        else:
            target = math.floor((1 - math.cos(math.pi / 2 * step / num_steps)) * num_tokens + 1)
        # At least one token now, and one left for each step to come.
        target = min(max(target, done + 1), num_tokens - (num_steps - step))
        sizes.append(target - done)
        done = target
    return sizes


def guidance_weight(schedule: str, scale: float, known_fraction: torch.Tensor, power: float = 1.0) -> torch.Tensor:
    """
    Weight of classifier-free guidance at one step: `uncond + weight * (cond - uncond)`.

    Args:
        schedule (`str`): `"linear"` grows from 1 with the fraction of tokens that are known, `"constant"` is the
            scale, `"power_cosine"` (RAR's) is `1 + (scale - 1) * (1 - cos(pi * known_fraction ** power)) / 2`.
        scale (`float`): guidance scale, at least 0; 1 is no guidance.
        known_fraction (`torch.Tensor`): fraction of the image's tokens known before the step, in [0, 1).
        power (`float`): of `"power_cosine"`, at least 0: guidance grows late where it is large; 0 is the scale itself.

    Returns:
        `torch.Tensor`: the weight, in the shape of `known_fraction`.

    Raises:
        ValueError: for an unknown schedule.
    """
    if schedule not in GUIDANCE_SCHEDULES:
        raise ValueError(f"`schedule` must be one of {', '.join(GUIDANCE_SCHEDULES)}, got {schedule!r}.")
    if schedule == "constant":
        return torch.full_like(known_fraction, scale)
    growth = known_fraction if schedule == "linear" else (1.0 - torch.cos(torch.pi * known_fraction**power)) / 2.0
    return 1.0 + (scale - 1.0) * growth
