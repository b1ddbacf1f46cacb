"""The inputs of one forward pass. B images, N image tokens of one image, S slots."""

from typing import Any

import torch
from transformers import Cache, PreTrainedConfig
from transformers.masking_utils import create_causal_mask
from transformers.utils import TransformersKwargs

from .cache import IndexedCache
from .layout import Layout


# What transformers hands on to layers and attention.
KEYWORDS = {*TransformersKwargs.__annotations__, "use_cache", "return_dict"}


def check_keywords(keywords: dict[str, Any]):
    """Raise a `TypeError` for a keyword of a forward pass that neither it nor transformers knows; `None` is none."""
    unknown = [name for name, value in keywords.items() if value is not None and name not in KEYWORDS]
    if unknown:
        raise TypeError(f"forward() got an unexpected keyword argument {unknown[0]!r}")


def complete_inputs(
    input_ids: torch.Tensor,
    class_labels: torch.Tensor | None,
    order: torch.Tensor | None,
    num_tokens: int,
    num_classes: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Classes (B,), by default the null class, and an order (B, N), by default that of the raster.

    Raises:
        ValueError: if `input_ids` is not of the shape (B, `num_tokens`), or `order` has another shape.
    """
    batch_size = input_ids.shape[0]  # `len` would fix it in an export
    if input_ids.shape != (batch_size, num_tokens):
        raise ValueError(
            f"`input_ids` must have the shape (images, {num_tokens} tokens), got {tuple(input_ids.shape)}."
        )
    if order is not None and order.shape not in ((num_tokens,), (batch_size, num_tokens)):
        raise ValueError(
            f"`order` must have the shape ({num_tokens},) or ({batch_size}, {num_tokens}), got {tuple(order.shape)}."
        )
    if class_labels is None:
        class_labels = torch.full((batch_size,), num_classes, device=input_ids.device)
    if order is None:
        order = torch.arange(num_tokens, device=input_ids.device)
    return class_labels, order.expand(batch_size, -1)


def drop_classes(
    class_labels: torch.Tensor, dropped: torch.Tensor | None, fraction: float, null_class: int
) -> torch.Tensor:
    """Replace classes (B,) by the null class, which guidance needs: those `dropped`, by default a random fraction."""
    if dropped is None:
        if fraction == 0:
            return class_labels
        dropped = torch.rand(class_labels.shape, device=class_labels.device) < fraction
    return class_labels.masked_fill(dropped, null_class)


def read_slots(
    input_ids: torch.Tensor, order: torch.Tensor, layout: Layout
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    What the slots of a layout hold.

    Args:
        input_ids (`torch.LongTensor` of shape (B, N)): tokens in raster order.
        order (`torch.LongTensor` of shape (B, N)): raster positions in the order of the sequence.
        layout ([`Layout`]): the slots.

    Returns:
        Four tensors of shape (B, S): the index of what each slot carries, as in the layout; the raster position of the
        token that it carries, N for none; the position of the token that it predicts, N for none; the carried token, 0
        for none.
    """
    num_tokens = order.shape[1]
    carried, predicted = (part.expand(order.shape[0], -1) for part in layout[:2])  # (B, S)
    # Class and nothing, at the indices N and N + 1, lie at the position N, which is none.
    order = torch.nn.functional.pad(order, (0, 2), value=num_tokens)  # (B, N + 2)
    carried_positions, predicted_positions = order.gather(1, carried), order.gather(1, predicted)  # (B, S)
    ids = torch.nn.functional.pad(input_ids, (0, 1)).gather(1, carried_positions)  # (B, S)
    return carried, carried_positions, predicted_positions, ids


def find_context(
    config: PreTrainedConfig,
    hidden_states: torch.Tensor,
    layout: Layout,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
) -> tuple[Any, torch.Tensor | None]:
    """
    What the slots of a pass see, and where the cache keeps them.

    Args:
        config (`PreTrainedConfig`): of the model, with its attention implementation.
        hidden_states (`torch.Tensor` of shape (B, S, D)): embeddings of the slots.
        layout ([`Layout`]): the slots.
        attention_mask (`torch.Tensor` of shape (B, cached + S), *optional*): false for slots that are padding.
        past_key_values (`Cache`, *optional*): keys and values of the slots before.

    Returns:
        The mask as the attention implementation takes it, and slots (B, S) of an [`~randar_hf.cache.IndexedCache`].

    Raises a `ValueError` for a mask of another shape.
    """
    if attention_mask is not None and attention_mask.ndim == 2 and past_key_values is None:
        expected, given = tuple(hidden_states.shape[:2]), tuple(attention_mask.shape)
        if given != expected:
            raise ValueError(f"`attention_mask` must have the shape {expected} of the slots, got {given}.")
    if not isinstance(past_key_values, IndexedCache) or layout.start is None:
        return create_causal_mask(config, hidden_states, attention_mask, past_key_values), None
    slots = past_key_values.find_slots(layout.start, hidden_states.shape[1])  # (B, S)
    mask = past_key_values.make_mask(slots)  # (B, 1, S, cached)
    if config._attn_implementation != "sdpa":
        lowest = torch.finfo(hidden_states.dtype).min
        mask = torch.zeros_like(mask, dtype=hidden_states.dtype).masked_fill(~mask, lowest)
    return mask, slots


__all__ = ["complete_inputs", "drop_classes", "find_context", "read_slots"]
