"""
Which slots of the interleaved sequence one forward pass computes.

A sequence of N image tokens in generation order is `[class, P_0, x_0, P_1, x_1, ..., P_{N-1}, x_{N-1}]`, where the
position instruction P_i says where token x_i goes. A slot *carries* a token (the class, an image token, or nothing)
and *predicts* a token (its position instruction) or nothing. Models without separate position instruction slots merge
each P_i into the slot before it: `[class + P_0, x_0 + P_1, ...]`; RAR puts a start slot before the class. Everything
that differs between training, prefilling and decoding in parallel is which slots are fed, and that is what this module
writes down.
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
        queries (`torch.LongTensor` of shape (Q,)): the slots whose logits are wanted.
    """

    carried: torch.Tensor
    predicted: torch.Tensor
    queries: torch.Tensor


def list_slots(
    newest: int | None, start: int, stop: int, num_tokens: int, form: SequenceForm
) -> list[tuple[int, int]]:
    """
    Slots that bring the tokens before `start` into the sequence and ask for those from `start` to `stop`.

    Args:
        newest (`int`, *optional*): index of the first token that the cache does not hold yet, though it holds its
            position instruction; `None` when there is no cache, and the sequence begins with the class.
        start, stop (`int`): the tokens asked for, decoded together.
        num_tokens (`int`): N.
        form ([`SequenceForm`]): of the model.

    Returns:
        `list[tuple[int, int]]`: (carried, predicted) of each slot, as in [`Layout`]. All but the last
        `stop - start - 1` slots are in the order of training, so exactly those last ones leave the cache afterwards.
    """
    nothing_carried, nothing_predicted = num_tokens + 1, num_tokens
    context, done = (num_tokens, 0) if newest is None else (newest, newest + 1)
    slots = [(nothing_carried, nothing_predicted)] if form.has_start and newest is None else []
    slots += [] if form.merged else [(context, nothing_predicted)]
    for i in range(done, start):
        slots += [(context, i)] if form.merged else [(nothing_carried, i), (i, nothing_predicted)]
        context = i
    slots += [(context if form.merged else nothing_carried, j) for j in range(start, stop)]
    return slots


def training_layout(num_tokens: int, form: SequenceForm, device: torch.device | str | None = None) -> Layout:
    """The whole sequence but its last token, with every token asked for: teacher forcing (Eq. 3)."""
    slots = list_slots(None, num_tokens - 1, num_tokens, num_tokens, form)
    queries = [slot for slot, (_, predicted) in enumerate(slots) if predicted < num_tokens]
    slots = torch.tensor(slots, device=device)  # (S, 2)
    return Layout(slots[None, :, 0], slots[None, :, 1], torch.tensor(queries, device=device))


def repeated_layout(
    num_tokens: int, rounds: int, form: SequenceForm, device: torch.device | str | None = None
) -> Layout:
    """The sequence read several times, with every token asked for in the last round (Eq. 8)."""
    slots = [(num_tokens + 1, num_tokens)] if form.has_start else []
    slots += [] if form.merged else [(num_tokens, num_tokens)]
    context = num_tokens
    for i in [*range(num_tokens)] * rounds:
        slots += [(context, i)] if form.merged else [(num_tokens + 1, i), (i, num_tokens)]
        context = i
    slots = torch.tensor(slots, device=device)  # (S, 2)
    queries = (slots[:, 1] < num_tokens).nonzero().squeeze(1)[-num_tokens:]
    slots = slots[: queries[-1] + 1]  # nothing comes after the last query
    return Layout(slots[None, :, 0], slots[None, :, 1], queries)


def parallel_layout(
    num_tokens: int, group: int, form: SequenceForm, device: torch.device | str | None = None
) -> Layout:
    """All tokens but the last `group` ones, which are asked for at once: one decoding step without a cache."""
    slots = torch.tensor(list_slots(None, num_tokens - group, num_tokens, num_tokens, form), device=device)  # (S, 2)
    return Layout(slots[None, :, 0], slots[None, :, 1], torch.arange(len(slots) - group, len(slots), device=device))


class DecodingStep(NamedTuple):
    """
    One forward pass of parallel decoding.

    Attributes:
        layout (`Layout`): the slots to feed; the last G are the queries. An image that asks for fewer than G tokens in
            this step has padding after its queries, whose `predicted` is N.
        attention_mask (`torch.BoolTensor` of shape (B, cached + S), *optional*): false for padding; `None` when there
            is none.
        known_fraction (`torch.Tensor` of shape (B,), float32): fraction of each image's tokens known before the step.
        num_rewound (`int`): slots to drop from the end of the cache after the step, G - 1.
    """

    layout: Layout
    attention_mask: torch.Tensor | None
    known_fraction: torch.Tensor
    num_rewound: int


def decoding_steps(
    num_known: list[int], group_sizes: list[list[int]], num_tokens: int, form: SequenceForm, device: torch.device | str
) -> list[DecodingStep]:
    """
    Lay out all forward passes of decoding before the first one runs (Sec. 3.3, Algorithm B).

    Args:
        num_known (`list[int]`): per image, how many tokens are context; they come first in its order.
        group_sizes (`list[list[int]]`): per image, how many tokens each step decodes; sums to N minus the known ones.
        num_tokens (`int`): N.
        form ([`SequenceForm`]): of the model.
        device (`torch.device`): where the steps' tensors lie.

    Returns:
        `list[DecodingStep]`: as many as the longest list of groups. Images with equal counts share one row of slots.

    Raises:
        ValueError: if an image's group sizes do not sum to its unknown tokens.
    """
    for known, groups in zip(num_known, group_sizes, strict=True):
        if known + sum(groups) != num_tokens:
            raise ValueError(f"`group_sizes` must sum to {num_tokens - known} unknown tokens, got {sum(groups)}.")
    alike = all(pair == (num_known[0], group_sizes[0]) for pair in zip(num_known, group_sizes, strict=True))
    plans = zip(num_known[:1], group_sizes[:1], strict=True) if alike else zip(num_known, group_sizes, strict=True)
    rows = [_lay_out_image(known, groups, num_tokens, form) for known, groups in plans]

    steps, kept_mask = [], torch.ones(len(rows), 0, dtype=torch.bool)
    for index in range(max(map(len, rows))):
        fed = [row[index] if index < len(row) else ([], 0, num_tokens) for row in rows]
        slots, mask, group = _pad(fed, num_tokens)
        mask = torch.cat([kept_mask, mask], dim=1)  # (B, cached + S)
        kept_mask = mask[:, : mask.shape[1] - (group - 1)]
        length = slots.shape[1]
        layout = Layout(slots[..., 0], slots[..., 1], torch.arange(length - group, length))
        known_fraction = torch.tensor([before / num_tokens for _, _, before in fed])
        steps.append(DecodingStep(layout, None if mask.all() else mask, known_fraction, group - 1))
    return [_to_device(step, device) for step in steps]


def sequence_length(num_tokens: int, form: SequenceForm) -> int:
    """Slots of the sequence up to the one that predicts its last token, the most that a cache comes to keep."""
    return form.has_start + (num_tokens if form.merged else 2 * num_tokens)


def longest_sequence(steps: list[DecodingStep]) -> int:
    """The most slots that the cache holds while these steps are taken."""
    longest = length = 0
    for step in steps:
        length += step.layout.carried.shape[1]
        longest, length = max(longest, length), length - step.num_rewound
    return longest


def _lay_out_image(known: int, groups: list[int], num_tokens: int, form: SequenceForm) -> list[tuple]:
    """(slots, queries, tokens known before) of each step of one image."""
    steps, newest, start = [], None, known
    for size in groups:
        steps.append((list_slots(newest, start, start + size, num_tokens, form), size, start))
        newest, start = start, start + size
    return steps


def _pad(fed: list[tuple], num_tokens: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Align the images' slots at their first query: padding before the context, and after the last query."""
    group = max(size for _, size, _ in fed)
    context = max(len(slots) - size for slots, size, _ in fed)
    rows, masks = [], []
    for slots, size, _ in fed:
        before, after = context - (len(slots) - size), group - size
        rows.append([(num_tokens, num_tokens)] * before + slots + [(num_tokens, num_tokens)] * after)
        masks.append([False] * before + [True] * len(slots) + [False] * after)
    return torch.tensor(rows), torch.tensor(masks), group


def _to_device(step: DecodingStep, device: torch.device | str) -> DecodingStep:
    mask = None if step.attention_mask is None else step.attention_mask.to(device)
    layout = Layout(*(part.to(device) for part in step.layout))
    return DecodingStep(layout, mask, step.known_fraction.to(device), step.num_rewound)
