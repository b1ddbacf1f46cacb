"""
Which slots of the interleaved sequence one forward pass computes.

A sequence of N image tokens in generation order is `[class, P_0, x_0, P_1, x_1, ..., P_{N-1}, x_{N-1}]`, where the
position instruction P_i says where token x_i goes. A slot *carries* a token (the class, an image token, or nothing)
and *predicts* a token (its position instruction) or nothing. Models without separate position instruction slots merge
each P_i into the slot before it: `[class + P_0, x_0 + P_1, ...]`; RAR puts a start slot before the class. Everything
that differs between training, prefilling and decoding in parallel is which slots are fed, and that is what a layout
writes down; those of decoding come from [`~randar_hf.frontier.Frontier`].
"""

from typing import NamedTuple

import torch


class SequenceForm(NamedTuple):
    """
    How a kind of model lays out its sequence.

    Attributes:
        merged (`bool`): whether position instructions are merged into the slot before them.
        has_start (`bool`): whether a slot that carries and predicts nothing comes before the class.
    """

    merged: bool = False
    has_start: bool = False


class Layout(NamedTuple):
    """
    The slots of one forward pass, the same for all images or one row per image. S slots, Q of them queries.

    Attributes:
        carried (`torch.LongTensor` of shape (1, S) or (B, S)): index i of the image token x_i (in generation order)
            that the slot carries, N for the class, N + 1 for nothing.
        predicted (`torch.LongTensor` of shape (1, S) or (B, S)): index i of the token that the slot predicts, N for
            none.
        queries (`torch.LongTensor` of shape (Q,) or (B, Q)): the slots whose logits are wanted.
        start (`torch.LongTensor` of shape (B, 1), *optional*): the slot of the sequence that comes first, where an
            [`~randar_hf.cache.IndexedCache`] holds those before it.
    """

    carried: torch.Tensor
    predicted: torch.Tensor
    queries: torch.Tensor
    start: torch.Tensor | None = None


def take_queries(states: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The states (B, Q, D) of a layout's queries among those (B, S, D) of all its slots."""
    if layout.queries.ndim == 1:
        return states[:, layout.queries]
    return states.gather(1, layout.queries[..., None].expand(-1, -1, states.shape[-1]))


def list_slots(start: int, stop: int, num_tokens: int, form: SequenceForm, rounds: int = 1) -> list[tuple[int, int]]:
    """
    The sequence of the tokens before `start`, and the slots that ask for those from `start` to `stop` together.

    Args:
        start, stop (`int`): the tokens asked for.
        num_tokens (`int`): N.
        form ([`SequenceForm`]): of the model.
        rounds (`int`): how often the sequence is read; only the last time ends at `start`.

    Returns:
        `list[tuple[int, int]]`: (carried, predicted) of each slot, as in [`Layout`].
    """
    nothing_carried, nothing_predicted = num_tokens + 1, num_tokens
    context = num_tokens
    slots = [(nothing_carried, nothing_predicted)] if form.has_start else []
    slots += [] if form.merged else [(context, nothing_predicted)]
    for i in [*range(num_tokens)] * (rounds - 1) + [*range(start)]:
        slots += [(context, i)] if form.merged else [(nothing_carried, i), (i, nothing_predicted)]
        context = i
    slots += [(context if form.merged else nothing_carried, j) for j in range(start, stop)]
    return slots


def training_layout(num_tokens: int, form: SequenceForm, device: torch.device | str | None = None) -> Layout:
    """The whole sequence but its last token, with every token asked for: teacher forcing (Eq. 3)."""
    return repeated_layout(num_tokens, 1, form, device)


def repeated_layout(
    num_tokens: int, rounds: int, form: SequenceForm, device: torch.device | str | None = None
) -> Layout:
    """The sequence read several times, with every token asked for in the last round (Eq. 8)."""
    slots = list_slots(num_tokens - 1, num_tokens, num_tokens, form, rounds)
    queries = [slot for slot, (_, predicted) in enumerate(slots) if predicted < num_tokens][-num_tokens:]
    carried, predicted = torch.tensor(slots, device=device).T[:, None]  # (1, S) each
    return Layout(carried, predicted, torch.tensor(queries, device=device))


def parallel_layout(
    num_tokens: int, group: int, form: SequenceForm, device: torch.device | str | None = None
) -> Layout:
    """All tokens but the last `group` ones, which are asked for at once: one decoding step without a cache."""
    slots = torch.tensor(list_slots(num_tokens - group, num_tokens, num_tokens, form), device=device)  # (S, 2)
    return Layout(slots[None, :, 0], slots[None, :, 1], torch.arange(len(slots) - group, len(slots), device=device))


def sequence_length(num_tokens: int, form: SequenceForm) -> int:
    """Slots of the sequence up to the one that predicts its last token, the most that a cache comes to keep."""
    return form.has_start + (num_tokens if form.merged else 2 * num_tokens)
