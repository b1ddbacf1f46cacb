"""
How far decoding is: which tokens are final, which are guesses, and what the next forward pass feeds.

A pass feeds the newest final token, the guesses behind their position instructions, and instructions of tokens that
are not guessed yet. Then some of the guesses are final, and so is the first token behind them. The paper's schedule
accepts every guess (Sec. 3.3, Algorithm B). Lossless decoding accepts the guesses that their own predictions, made in
the same pass, leave unchanged. Either way the cache keeps the slots up to the newest final token's instruction, a
prefix of the sequence of training, and slot i of the sequence lies at i in the cache.

Shapes: B images, R = B * branches sequences, N tokens of an image, S slots and Q queries of a pass.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, zip_longest
from typing import NamedTuple

import torch

from .layout import Layout, SequenceForm


class DecodingPass(NamedTuple):
    """
    One forward pass of decoding.

    Attributes:
        layout (`Layout`): the slots to feed, padding at the end, and where in the sequence they start.
        asked (`torch.LongTensor` of shape (R, Q)): index of the token that each query predicts, N for padding.
        known_fraction (`torch.Tensor` of shape (R, 1) or (R, Q), float32): the fraction of an image's tokens that
            guidance takes as known.
        num_decided (`torch.LongTensor` of shape (R, 1)): tokens that are final or guessed after the pass.
        length (`int`): slots of the cache that the pass may read.
    """

    layout: Layout
    asked: torch.Tensor
    known_fraction: torch.Tensor
    num_decided: torch.Tensor
    length: int


class Frontier:
    """
    The state of decoding between two passes, one row for each sequence.

    Args:
        num_known (`list[int]` of R): tokens that are context; they come first in the order.
        num_tokens (`int`): N.
        form ([`SequenceForm`]): of the model.
        device (`torch.device`): where the state lies.
    """

    def __init__(self, num_known: list[int], num_tokens: int, form: SequenceForm, device: torch.device | str):
        self.num_tokens, self.form = num_tokens, form
        self.final = torch.tensor(num_known, device=device)[:, None]  # (R, 1) tokens
        self.guessed = torch.zeros_like(self.final)  # (R, 1) tokens
        self.start = torch.zeros_like(self.final)  # (R, 1) slots that the cache keeps

    def count_slots(self, asked: torch.Tensor) -> torch.Tensor:
        """Slots (R, 1) of a pass that asks for so many tokens (R, 1) beyond the guesses; 0 where it asks for none."""
        bare = self.final + self.guessed
        return torch.where(asked > 0, self._instruction(bare) + asked - self.start, 0)

    def lay_out(
        self, asked: torch.Tensor, num_slots: int, num_queries: int, verify: bool, length: int
    ) -> DecodingPass:
        """
        The pass that asks for tokens beyond the guesses.

        Args:
            asked (`torch.LongTensor` of shape (R, 1)): how many tokens.
            num_slots, num_queries (`int`): S and Q, at least as many as any row needs.
            verify (`bool`): whether the guesses are asked for, too.
            length (`int`): see [`DecodingPass`].
        """
        num_tokens, (merged, has_start) = self.num_tokens, self.form
        bare = self.final + self.guessed  # (R, 1), the first token that is not guessed
        slots = self.start + torch.arange(num_slots, device=bare.device)  # (R, S), as if tokens followed instructions
        beyond = (slots - self._instruction(bare)).clamp(min=0)  # (R, S), instructions behind the first bare one
        index = torch.minimum(slots, self._instruction(bare)) - int(has_start)  # (R, S)
        if merged:
            carried, predicted = index - 1, index + beyond
        else:
            is_instruction = index % 2 == 1
            carried = torch.where(is_instruction, num_tokens + 1, index // 2 - 1)
            predicted = torch.where(is_instruction, index // 2 + beyond, num_tokens)
        carried = torch.where(index == 0, num_tokens, carried)  # the class
        is_over = self.guessed + asked == 0  # (R, 1), all of the image is final
        nothing = (index < 0) | (slots - self._instruction(bare) >= asked) | is_over  # the start, and padding
        layout_parts = carried.masked_fill(nothing, num_tokens + 1), predicted.masked_fill(nothing, num_tokens)

        tokens = (self.final if verify else bare) + torch.arange(num_queries, device=bare.device)  # (R, Q)
        is_asked = tokens < bare + asked
        queries = self._instruction(torch.minimum(tokens, bare)) + (tokens - bare).clamp(min=0) - self.start
        tokens = tokens.masked_fill(~is_asked, num_tokens)
        return DecodingPass(
            layout=Layout(*layout_parts, queries.masked_fill(~is_asked, 0), self.start),
            asked=tokens,
            known_fraction=(tokens if verify else bare) / num_tokens,
            num_decided=bare + asked,
            length=length,
        )

    def advance(self, accepted: torch.Tensor, asked: torch.Tensor):
        """Go on behind the accepted guesses (R, 1) and the token after them, given what the pass asked for (R, 1)."""
        decided = self.guessed + asked
        newly_final = torch.minimum(accepted + 1, decided)
        self.final, self.guessed = self.final + newly_final, decided - newly_final
        self.start = self._instruction(self.final) - (0 if self.form.merged else 1)

    def _instruction(self, token: torch.Tensor) -> torch.Tensor:
        """The slot of the sequence that predicts a token."""
        return self.form.has_start + (token if self.form.merged else 2 * token + 1)


class PaperSchedule:
    """
    Passes that accept every guess; all are laid out before the first one runs.

    Args:
        num_known (`list[int]` of R): tokens that are context.
        groups (`list[list[int]]` of R): how many tokens each pass asks for; with the known ones they sum to N.
        num_tokens, form: as for [`Frontier`].
        device (`torch.device`): where the passes lie.
        most_sizes (`int`, *optional*): pad the passes to at most so many sizes.

    Raises a `ValueError` for groups of another sum.
    """

    def __init__(
        self,
        num_known: list[int],
        groups: list[list[int]],
        num_tokens: int,
        form: SequenceForm,
        device: torch.device | str,
        most_sizes: int | None = None,
    ):
        for known, counts in zip(num_known, groups, strict=True):
            if known + sum(counts) != num_tokens:
                raise ValueError(f"`groups` must sum to the {num_tokens - known} unknown tokens, got {sum(counts)}.")
        all_asked = [torch.tensor(row, device="cpu")[:, None] for row in zip_longest(*groups, fillvalue=0)]  # (R, 1)
        frontier = Frontier(num_known, num_tokens, form, "cpu")
        sizes: list[tuple[int, int]] = []
        for asked in all_asked:
            sizes.append((int(frontier.count_slots(asked).max()), int(asked.max())))
            frontier.advance(frontier.guessed, asked)
        if most_sizes is not None and sizes:
            sizes = merge_sizes(sizes, most_sizes)
        frontier, self.passes = Frontier(num_known, num_tokens, form, "cpu"), []
        for asked, (num_slots, num_queries) in zip(all_asked, sizes, strict=True):
            length = int(frontier.start.max()) + num_slots
            step = frontier.lay_out(asked, num_slots, num_queries, verify=False, length=length)
            self.passes.append(_to_device(step, device))
            frontier.advance(frontier.guessed, asked)

    def __iter__(self) -> Iterator[DecodingPass]:
        return iter(self.passes)

    def accept(self, step: DecodingPass, unchanged: torch.Tensor) -> torch.Tensor:
        """How many tokens (R, 1) count as decided after a pass: all, guesses as well."""
        return step.num_decided


class SpeculativeSchedule:
    """
    Passes that accept the guesses that come out unchanged, at least one token each; laid out one after another.

    Args:
        num_known (`list[int]` of R): tokens that are context.
        window (`int`): tokens that a pass asks for, guesses included.
        num_tokens, form, device: as for [`Frontier`].
    """

    passes = None  # what a pass feeds depends on what the one before gave

    def __init__(
        self, num_known: list[int], window: int, num_tokens: int, form: SequenceForm, device: torch.device | str
    ):
        self.frontier = Frontier(num_known, num_tokens, form, device)
        self.window, self.num_known = window, num_known

    def __iter__(self) -> Iterator[DecodingPass]:
        form, num_tokens, window = self.frontier.form, self.frontier.num_tokens, self.window
        per_token = 1 if form.merged else 2
        most_known, fewest_known = max(self.num_known), min(self.num_known)
        for index in range(num_tokens - fewest_known):
            decided = self.frontier.final + self.frontier.guessed
            self.asked = torch.minimum(window - self.frontier.guessed, num_tokens - decided)  # (R, 1)
            if index == 0:
                num_slots = form.has_start + per_token * most_known + (not form.merged) + window
            else:
                num_slots = per_token * window
            most_final = min(most_known + index * window, num_tokens)
            length = form.has_start * (index > 0) + (per_token * most_final if index else 0) + num_slots
            yield self.frontier.lay_out(self.asked, num_slots, window, verify=True, length=length)

    def accept(self, step: DecodingPass, unchanged: torch.Tensor) -> torch.Tensor:
        """How many tokens (R, 1) are final, given which of the asked ones (R, Q) the pass left unchanged."""
        is_guess = step.asked < self.frontier.final + self.frontier.guessed  # (R, Q)
        accepted = (unchanged & is_guess).long().cumprod(dim=1).sum(dim=1, keepdim=True)  # (R, 1)
        self.frontier.advance(accepted, self.asked)
        return self.frontier.final


def merge_sizes(sizes: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """
    Round sizes of passes up to few different ones, chosen to add as few slots as possible.

    Args:
        sizes (`list[(int, int)]`): slots and queries of each pass.
        most (`int`): different sizes, at least 1.
    """
    counts = Counter(num_slots for num_slots, _ in sizes)
    *smaller, largest = sorted(counts)

    def round_up(num_slots: int, limits: tuple[int, ...]) -> int:
        return min(limit for limit in limits if limit >= num_slots)

    choices = [(*chosen, largest) for chosen in combinations(smaller, min(most - 1, len(smaller)))]
    limits = min(choices, key=lambda limits: sum(n * round_up(size, limits) for size, n in counts.items()))
    rounded = [round_up(num_slots, limits) for num_slots, _ in sizes]
    num_queries = {limit: max(size[1] for size, own in zip(sizes, rounded) if own == limit) for limit in limits}
    return [(limit, num_queries[limit]) for limit in rounded]


def _to_device(step: DecodingPass, device: torch.device | str) -> DecodingPass:
    carried, predicted, queries = (part.to(device) for part in step.layout[:3])
    start = None if step.layout.start is None else step.layout.start.to(device)
    asked, known_fraction, num_decided = (part.to(device) for part in step[1:4])
    return DecodingPass(Layout(carried, predicted, queries, start), asked, known_fraction, num_decided, step.length)


__all__ = ["DecodingPass", "Frontier", "PaperSchedule", "SpeculativeSchedule"]
