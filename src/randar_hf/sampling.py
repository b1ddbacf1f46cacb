"""
Sampling tokens by the Gumbel-max trick, with noise that belongs to a token and not to a call.

The noise is a hash of the image's seed, the raster position and the code, computed where the logits are. So a token
meets the same noise in whatever group, pass, batch or order it is sampled, and small differences of logits seldom
change it. Shapes: B images, G tokens of each, V codebook entries.
"""

import torch


def gumbel_noise(seeds: torch.Tensor, positions: torch.Tensor, num_codes: int) -> torch.Tensor:
    """
    Standard Gumbel noise: the argmax of logits plus noise is a sample of their softmax.

    Args:
        seeds (`torch.LongTensor` of shape (B,)): one for each image, any of 64 bits.
        positions (`torch.LongTensor` of shape (B, G)): raster positions, at least 0.
        num_codes (`int`): V.

    Returns:
        `torch.Tensor` of shape (B, G, V), float32. The integers behind it are the same on every device; their
        logarithms may differ in the last bits.
    """
    low, high = (part.to(torch.int32)[:, None] for part in (seeds << 32 >> 32, seeds >> 32))  # (B, 1)
    positions = positions.to(torch.int32)
    first = _mix(_mix(low) ^ (high + positions * 0x3C6EF35F))[..., None]  # (B, G, 1)
    second = _mix(_mix(high ^ 0x5BD1E995) ^ (low + positions * 0x2545F491))[..., None]  # (B, G, 1)
    codes = torch.arange(num_codes, dtype=torch.int32, device=seeds.device)  # (V,)
    bits = _mix(_mix(codes * 0x1B873593 + first) ^ second)  # (B, G, V)
    # 31 bits, close to 0 with all digits of a float: there the exponential is small and its Gumbel large.
    uniforms = ((bits & 0x7FFFFFFF).float() + 0.5) * 2.0**-31
    return -torch.log(-torch.log1p(-uniforms.clamp(max=1 - 2.0**-24)))


def sample_tokens(
    scores: torch.Tensor, seeds: torch.Tensor | None, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    One token for each position.

    Args:
        scores (`torch.Tensor` of shape (B, G, V)): logits, float32; entries of `-inf` are never sampled.
        seeds (`torch.LongTensor` of shape (B,), *optional*): of the images; without, the most likely token is taken.
        positions (`torch.LongTensor` of shape (B, G)): raster positions.

    Returns:
        The tokens (B, G), always of the codebook, and the highest scores (B, G), not finite where there is no law to
        sample from.
    """
    if seeds is None:
        return scores.max(dim=-1)[::-1]
    noisy = scores + gumbel_noise(seeds, positions, scores.shape[-1])
    highest, tokens = noisy.max(dim=-1)
    return tokens, highest


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """A permutation of 32-bit integers in which each bit depends on all (Wellons' lowbias32)."""
    bits = (bits ^ (bits >> 16 & 0xFFFF)) * 0x21F0AAAD
    bits = (bits ^ (bits >> 15 & 0x1FFFF)) * (0xD35A2D97 - 2**32)
    return bits ^ (bits >> 15 & 0x1FFFF)
