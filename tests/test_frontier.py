"""What each pass of decoding feeds, asks for and leaves in the cache; index by index."""

import pytest
import torch

from randar_hf.frontier import Frontier, PaperSchedule, SpeculativeSchedule, merge_sizes
from randar_hf.layout import SequenceForm, parallel_layout, sequence_length, training_layout


N = 4
CLASS, NOTHING, NONE = N, N + 1, N
RAR = SequenceForm(merged=True, has_start=True)
FORMS = [SequenceForm(), SequenceForm(merged=True), RAR]


def slots(step, row=0):
    """(carried, predicted) of the slots of a pass, without padding."""
    pairs = list(zip(step.layout.carried[row].tolist(), step.layout.predicted[row].tolist(), strict=True))
    while pairs and pairs[-1] == (NOTHING, NONE):
        pairs.pop()
    return pairs


def training_sequence(form, num_tokens=N):
    layout = training_layout(num_tokens, form)
    return list(zip(layout.carried[0].tolist(), layout.predicted[0].tolist(), strict=True))


def test_a_pass_rewrites_the_group_before():
    first, second, third = PaperSchedule([0], [[1, 2, 1]], N, SequenceForm(), "cpu").passes
    assert slots(first) == [(CLASS, NONE), (NOTHING, 0)]
    assert slots(second) == [(0, NONE), (NOTHING, 1), (NOTHING, 2)]
    assert slots(third) == [(1, NONE), (NOTHING, 2), (2, NONE), (NOTHING, 3)]
    assert [step.layout.start.item() for step in (first, second, third)] == [0, 2, 4]
    assert [step.asked.tolist() for step in (first, second, third)] == [[[0]], [[1, 2]], [[3]]]
    assert slots(PaperSchedule([0], [[1, 3]], N, SequenceForm(merged=True), "cpu").passes[1]) == [
        (0, 1),
        (0, 2),
        (0, 3),
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [[1, 1, 1, 1], [2, 2], [1, 3], [4]])
def test_the_cache_keeps_the_sequence_of_training(form, groups):
    sequence, cache = training_sequence(form), []
    schedule = PaperSchedule([0], [groups], N, form, "cpu")
    for step in schedule:
        start = step.layout.start.item()
        assert cache[:start] == sequence[:start]
        cache = cache[:start] + slots(step)
        assert len(cache) <= step.length <= sequence_length(N, form)
        found = [cache[start + query] for query in step.layout.queries[0].tolist()]
        assert [predicted for _, predicted in found] == step.asked[0].tolist()
    assert torch.cat([step.asked[0] for step in schedule]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("form", FORMS)
def test_images_that_know_unequally_much_are_padded_at_the_end(form):
    known, groups = [3, 1, 4], [[1], [1, 2], []]
    schedule = PaperSchedule(known, groups, N, form, "cpu")
    first, second = schedule.passes
    assert first.asked.tolist() == [[3], [1], [NONE]] and second.asked.tolist() == [[NONE, NONE], [2, 3], [NONE, NONE]]
    assert first.known_fraction.tolist() == [[0.75], [0.25], [1.0]]
    assert second.known_fraction.tolist() == [[1.0], [0.5], [1.0]]
    assert first.num_decided.tolist() == [[4], [2], [4]]
    assert slots(first, 2) == slots(second, 2) == slots(second, 0) == []  # nothing is fed of an image that is whole
    for row in (0, 1):
        alone = PaperSchedule(known[row : row + 1], groups[row : row + 1], N, form, "cpu")
        for step, own in zip(schedule, alone):
            assert slots(step, row) == slots(own) and step.layout.start[row] == own.layout.start[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", [1, 3, 4])
def test_the_first_pass_with_known_tokens_is_a_parallel_layout(form, group):
    (step,) = PaperSchedule([N - group], [[group]], N, form, "cpu")
    layout = parallel_layout(N, group, form)
    assert torch.equal(step.layout.carried, layout.carried) and torch.equal(step.layout.predicted, layout.predicted)
    assert torch.equal(step.layout.queries[0], layout.queries) and step.layout.start.item() == 0


def test_groups_must_sum_to_the_unknown_tokens():
    with pytest.raises(ValueError, match="`groups` must sum to the 3 unknown tokens, got 2"):
        PaperSchedule([1], [[1, 1]], N, SequenceForm(), "cpu")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", [1, 2, 3, 9])
@pytest.mark.parametrize("known", [[0], [3], [9], [2, 7, 0]])
def test_a_window_is_laid_out_as_what_was_accepted_demands(form, window, known):
    # The schedule is told which guesses stand; a second bookkeeping, of lists, says what it must feed.
    num_tokens, generator = 9, torch.Generator().manual_seed(len(known) + window)
    schedule = SpeculativeSchedule(known, window, num_tokens, form, "cpu")
    sequence = training_sequence(form, num_tokens) + [(num_tokens - 1, num_tokens)]
    final, guessed, num_passes = list(known), [0] * len(known), 0
    for step in schedule:
        num_passes += 1
        unchanged = torch.rand(len(known), window, generator=generator) < 0.6
        for row, n in enumerate(final):
            asked = [*range(n, min(n + window, num_tokens))]
            assert step.asked[row].tolist() == asked + [num_tokens] * (window - len(asked))
            expected_fraction = torch.tensor([token / num_tokens for token in asked])
            torch.testing.assert_close(step.known_fraction[row, : len(asked)], expected_fraction)
            start, bare = step.layout.start[row].item(), n + guessed[row]
            queries = step.layout.queries[row].tolist()
            for token, query in zip(asked, queries):
                assert step.layout.predicted[row, query] == token
                in_sequence = form.has_start + (token if form.merged else 2 * token + 1)
                if token <= bare:  # context and guesses lie where they lie in training
                    assert start + query == in_sequence
            assert start + max(queries) < step.length
            if asked:
                bare = min(bare, num_tokens - 1)
                last = form.has_start + (bare if form.merged else 2 * bare + 1)
                fed = list(zip(step.layout.carried[row].tolist(), step.layout.predicted[row].tolist()))
                assert fed[: last + 1 - start] == [
                    (num_tokens if c == num_tokens else c, p) for c, p in sequence[start : last + 1]
                ]
        shown = schedule.accept(step, unchanged)
        for row, n in enumerate(final):
            count = 0
            while count < guessed[row] and unchanged[row, count]:
                count += 1
            decided = min(window, num_tokens - n)
            final[row] = n + min(count + 1, decided)
            guessed[row] = decided - min(count + 1, decided)
        assert shown.flatten().tolist() == final
    assert num_passes == num_tokens - min(known) and min(final) == num_tokens  # it offers a pass for each token


def test_passes_of_a_window_have_two_shapes():
    schedule = SpeculativeSchedule([0, 5], 4, 16, SequenceForm(), "cpu")
    shapes = []
    for step in schedule:
        shapes.append(tuple(step.layout.carried.shape))
        schedule.accept(step, torch.zeros(2, 4, dtype=torch.bool))
    assert shapes[0] == (2, 1 + 2 * 5 + 4) and set(shapes[1:]) == {(2, 8)}


def test_a_frontier_moves_by_one_token_at_least():
    frontier = Frontier([2], 8, SequenceForm(), "cpu")
    frontier.advance(torch.tensor([[0]]), torch.tensor([[3]]))
    assert (frontier.final.item(), frontier.guessed.item(), frontier.start.item()) == (3, 2, 6)
    frontier.advance(torch.tensor([[2]]), torch.tensor([[1]]))
    assert (frontier.final.item(), frontier.guessed.item(), frontier.start.item()) == (6, 0, 12)


def test_sizes_are_merged_with_the_fewest_slots_added():
    sizes = [(2, 1), (3, 2), (9, 2), (10, 4), (10, 4), (30, 9)]
    assert merge_sizes(sizes, 3) == [(3, 2)] * 2 + [(10, 4)] * 3 + [(30, 9)]
    assert merge_sizes(sizes, 1) == [(30, 9)] * 6 and merge_sizes(sizes, 9) == [*sizes[:2], (9, 2), *sizes[3:]]
    assert merge_sizes([(5, 5)] * 4, 3) == [(5, 5)] * 4
