import pytest
import torch

from randar_hf.layout import (
    decoding_steps,
    list_slots,
    longest_sequence,
    parallel_layout,
    repeated_layout,
    training_layout,
)


N = 4
CLASS, NOTHING, NONE = N, N + 1, N


def test_training_sequence_interleaves():
    layout = training_layout(N, merged=False)
    assert layout.carried.tolist() == [[CLASS, NOTHING, 0, NOTHING, 1, NOTHING, 2, NOTHING]]
    assert layout.predicted.tolist() == [[NONE, 0, NONE, 1, NONE, 2, NONE, 3]]
    assert layout.queries.tolist() == [1, 3, 5, 7]


def test_training_sequence_merges():
    layout = training_layout(N, merged=True)
    assert layout.carried.tolist() == [[CLASS, 0, 1, 2]]
    assert layout.predicted.tolist() == [[0, 1, 2, 3]]
    assert layout.queries.tolist() == [0, 1, 2, 3]


def test_a_step_rewrites_the_previous_group():
    # After 1 and 2 were decoded together: x_1, P_2, x_2, then the new query P_3.
    assert list_slots(1, 3, 4, N, merged=False) == [(1, NONE), (NOTHING, 2), (2, NONE), (NOTHING, 3)]
    assert list_slots(1, 3, 4, N, merged=True) == [(1, 2), (2, 3)]


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("groups", [[1, 1, 1, 1], [2, 2], [1, 3], [4]])
def test_kept_slots_are_the_training_sequence(groups, merged):
    steps = decoding_steps([0], [groups], N, merged, "cpu")
    kept = []
    for step in steps:
        kept += list(zip(step.layout.carried[0].tolist(), step.layout.predicted[0].tolist(), strict=True))
        del kept[len(kept) - step.num_rewound :]
    training = training_layout(N, merged)
    sequence = list(zip(training.carried[0].tolist(), training.predicted[0].tolist(), strict=True))
    assert kept == sequence[: len(kept)]
    asked = torch.cat([step.layout.predicted[0, step.layout.queries] for step in steps])
    assert asked.tolist() == [0, 1, 2, 3]


def test_images_with_unequal_unknown_tokens_are_padded():
    steps = decoding_steps([3, 1, 4], [[1], [1, 2], []], N, False, "cpu")
    assert len(steps) == 2
    first, second = steps
    assert first.attention_mask.sum(dim=1).tolist() == [8, 4, 0]
    assert first.layout.predicted[:, first.layout.queries].tolist() == [[3], [1], [NONE]]
    assert second.layout.predicted[:, second.layout.queries].tolist() == [[NONE, NONE], [2, 3], [NONE, NONE]]
    assert second.done.tolist() == [1.0, 0.5, 1.0]


def test_groups_must_sum_to_the_unknown_tokens():
    with pytest.raises(ValueError, match="group_sizes"):
        decoding_steps([1], [[1, 1]], N, False, "cpu")


def test_the_sequence_read_twice_interleaves():
    layout = repeated_layout(N, 2, merged=False)
    one_round = [NOTHING, 0, NOTHING, 1, NOTHING, 2, NOTHING, 3]
    assert layout.carried.tolist() == [[CLASS, *one_round, *one_round[:-1]]]
    assert layout.predicted.tolist() == [[NONE, *[0, NONE, 1, NONE, 2, NONE, 3, NONE] * 2][:-1]]
    assert layout.queries.tolist() == [9, 11, 13, 15]


def test_the_merged_sequence_read_twice_goes_on_with_its_last_token():
    layout = repeated_layout(N, 2, merged=True)
    assert layout.carried.tolist() == [[CLASS, 0, 1, 2, 3, 0, 1, 2]]
    assert layout.predicted.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    assert layout.queries.tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("merged", [False, True])
def test_the_sequence_read_once_is_that_of_training(merged):
    for first, second in zip(repeated_layout(N, 1, merged), training_layout(N, merged), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("group", [1, 3, 4])
def test_a_parallel_layout_is_a_first_step_with_known_tokens(merged, group):
    layout = parallel_layout(N, group, merged)
    (step,) = decoding_steps([N - group], [[group]], N, merged, "cpu")
    for first, second in zip(layout, step.layout, strict=True):
        assert torch.equal(first, second)
    assert layout.predicted[0, layout.queries].tolist() == list(range(N - group, N))
    if group == 1:
        assert torch.equal(layout.carried, training_layout(N, merged).carried)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(("known", "groups"), [([0], [[1, 1, 1, 1]]), ([0], [[1, 3]]), ([3, 1, 4], [[1], [1, 2], []])])
def test_the_cache_never_holds_more_than_the_longest_sequence(merged, known, groups):
    steps, length, lengths = decoding_steps(known, groups, N, merged, "cpu"), 0, []
    for step in steps:
        length += step.layout.carried.shape[1]
        lengths.append(length)
        length -= step.num_rewound
    assert longest_sequence(steps) == max(lengths)
    assert longest_sequence([]) == 0
