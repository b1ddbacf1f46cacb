"""Cross-entropy over a large codebook whose logits never exist all at once."""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


BLOCK_LOGITS = 2**23  # of one block: 512 rows of 16,384 codes, 128 MiB at the peak of its backward pass
IGNORED = -100  # a target that no loss is computed for, by torch's convention


def head_cross_entropy(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden_states: torch.Tensor,
    targets: torch.Tensor,
    vocab_size: int,
) -> torch.Tensor:
    """
    The mean cross-entropy of a head's predictions, computed in blocks of rows.

    A block's logits are dropped after its loss and made again in the backward pass, so that memory holds those of one
    block. Torch's own `linear_cross_entropy` is not used: it came with torch 2.13, computes in float32 under autocast,
    breaks the graph of `torch.compile`, and takes a weight instead of a head, which may be quantised or have an
    adapter.

    Args:
        head (`Callable`): maps states of shape (R, D) to logits of shape (R, V).
        hidden_states (`torch.Tensor` of shape (R, D)): states to predict from.
        targets (`torch.LongTensor` of shape (R,)): the codes to predict; -100 is ignored, as in
            `nn.functional.cross_entropy`.
        vocab_size (`int`): V, at least 1.

    Returns:
        `torch.Tensor`: a scalar in nats, float32, the mean over the targets that count; logarithms and sums are
        computed in float32 whatever the head gives.

    Raises:
        ValueError: if there is not one target for each state.
    """
    if targets.shape != hidden_states.shape[:-1] or targets.ndim != 1:
        raise ValueError(
            f"`targets` must be one code for each of the states {tuple(hidden_states.shape)}, "
            f"got the shape {tuple(targets.shape)}."
        )

    def summed(states: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(head(states).float(), codes, reduction="sum")

    count = (targets != IGNORED).sum()
    rows = max(1, BLOCK_LOGITS // vocab_size)
    if len(targets) <= rows:
        return summed(hidden_states, targets) / count
    blocks = zip(hidden_states.split(rows), targets.split(rows))
    losses = [checkpoint(summed, states, codes, use_reentrant=False) for states, codes in blocks]
    return torch.stack(losses).sum() / count


__all__ = ["head_cross_entropy"]
