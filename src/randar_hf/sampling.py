"""Drawing tokens from logits. R rows, V codebook entries."""

import torch


def sample_tokens(logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """
    Draw one token per row by inverting the cumulative distribution at a given uniform number.

    The caller draws the numbers, one per token, before decoding starts: an image then depends on its own generator
    alone, however it is batched, and no step waits for the host.

    Args:
        logits (`torch.Tensor` of shape (R, V)): scores, float32; entries of `-inf` are never drawn.
        uniforms (`torch.Tensor` of shape (R,)): numbers in [0, 1).

    Returns:
        `torch.LongTensor` of shape (R,): the drawn tokens.
    """
    # float32 sums would lose the tail of a large codebook; Apple's GPUs have nothing wider.
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulative = logits.softmax(dim=-1).to(wide).cumsum(dim=-1)  # (R, V)
    # A number below 1 stays below the total, so that the first entry above it exists and has weight.
    threshold = uniforms.to(wide)[:, None] * cumulative[:, -1:]  # (R, 1)
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
