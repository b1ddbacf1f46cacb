import pytest
import torch

from randar_hf.layout import (
    SequenceForm,
    decoding_steps,
    list_slots,
    longest_sequence,
    parallel_layout,
    repeated_layout,
    training_layout,
)


N = 4
CLASS, NOTHING, NONE = N, N + 1, N
RAR = SequenceForm(merged=True, has_start=True)
FORMS = [SequenceForm(), SequenceForm(merged=True), RAR]


def test_training_sequence_interleaves():
    layout = training_layout(N, SequenceForm())
    assert layout.carried.tolist() == [[CLASS, NOTHING, 0, NOTHING, 1, NOTHING, 2, NOTHING]]
    assert layout.predicted.tolist() == [[NONE, 0, NONE, 1, NONE, 2, NONE, 3]]
    assert layout.queries.tolist() == [1, 3, 5, 7]


def test_training_sequence_merges():
    layout = training_layout(N, SequenceForm(merged=True))
    assert layout.carried.tolist() == [[CLASS, 0, 1, 2]]
    assert layout.predicted.tolist() == [[0, 1, 2, 3]]
    assert layout.queries.tolist() == [0, 1, 2, 3]


def test_a_step_rewrites_the_previous_group():
    # After 1 and 2 were decoded together: x_1, P_2, x_2, then the new query P_3.
    assert list_slots(1, 3, 4, N, SequenceForm()) == [(1, NONE), (NOTHING, 2), (2, NONE), (NOTHING, 3)]
    assert list_slots(1, 3, 4, N, SequenceForm(merged=True)) == [(1, 2), (2, 3)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [[1, 1, 1, 1], [2, 2], [1, 3], [4]])
def test_kept_slots_are_the_training_sequence(groups, form):
    steps = decoding_steps([0], [groups], N, form, "cpu")
    kept = []
    for step in steps:
        kept += list(zip(step.layout.carried[0].tolist(), step.layout.predicted[0].tolist(), strict=True))
        del kept[len(kept) - step.num_rewound :]
    training = training_layout(N, form)
    sequence = list(zip(training.carried[0].tolist(), training.predicted[0].tolist(), strict=True))
    assert kept == sequence[: len(kept)]
    asked = torch.cat([step.layout.predicted[0, step.layout.queries] for step in steps])
    assert asked.tolist() == [0, 1, 2, 3]


def test_images_with_unequal_unknown_tokens_are_padded():
    steps = decoding_steps([3, 1, 4], [[1], [1, 2], []], N, SequenceForm(), "cpu")
    assert len(steps) == 2
    first, second = steps
    assert first.attention_mask.sum(dim=1).tolist() == [8, 4, 0]
    assert first.layout.predicted[:, first.layout.queries].tolist() == [[3], [1], [NONE]]
    assert second.layout.predicted[:, second.layout.queries].tolist() == [[NONE, NONE], [2, 3], [NONE, NONE]]
    assert second.known_fraction.tolist() == [1.0, 0.5, 1.0]


def test_groups_must_sum_to_the_unknown_tokens():
    with pytest.raises(ValueError, match="group_sizes"):
        decoding_steps([1], [[1, 1]], N, SequenceForm(), "cpu")


def test_the_sequence_read_twice_interleaves():
    layout = repeated_layout(N, 2, SequenceForm())
    one_round = [NOTHING, 0, NOTHING, 1, NOTHING, 2, NOTHING, 3]
    assert layout.carried.tolist() == [[CLASS, *one_round, *one_round[:-1]]]
    assert layout.predicted.tolist() == [[NONE, *[0, NONE, 1, NONE, 2, NONE, 3, NONE] * 2][:-1]]
    assert layout.queries.tolist() == [9, 11, 13, 15]


def test_a_start_slot_comes_before_the_class_and_only_once():
    layout = training_layout(N, RAR)
    assert layout.carried.tolist() == [[NOTHING, CLASS, 0, 1, 2]]
    assert layout.predicted.tolist() == [[NONE, 0, 1, 2, 3]]
    assert layout.queries.tolist() == [1, 2, 3, 4]
    assert list_slots(1, 2, 3, N, RAR) == [(1, 2)]
    twice = repeated_layout(N, 2, RAR)
    assert twice.carried.tolist() == [[NOTHING, CLASS, 0, 1, 2, 3, 0, 1, 2]]
    assert twice.queries.tolist() == [5, 6, 7, 8]


def test_the_merged_sequence_read_twice_goes_on_with_its_last_token():
    layout = repeated_layout(N, 2, SequenceForm(merged=True))
    assert layout.carried.tolist() == [[CLASS, 0, 1, 2, 3, 0, 1, 2]]
    assert layout.predicted.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    assert layout.queries.tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("form", FORMS)
def test_the_sequence_read_once_is_that_of_training(form):
    for first, second in zip(repeated_layout(N, 1, form), training_layout(N, form), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", [1, 3, 4])
def test_a_parallel_layout_is_a_first_step_with_known_tokens(form, group):
    layout = parallel_layout(N, group, form)
    (step,) = decoding_steps([N - group], [[group]], N, form, "cpu")
    for first, second in zip(layout, step.layout, strict=True):
        assert torch.equal(first, second)
    assert layout.predicted[0, layout.queries].tolist() == list(range(N - group, N))
    if group == 1:
        assert torch.equal(layout.carried, training_layout(N, form).carried)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("known", "groups"), [([0], [[1, 1, 1, 1]]), ([0], [[1, 3]]), ([3, 1, 4], [[1], [1, 2], []])])
def test_the_cache_never_holds_more_than_the_longest_sequence(form, known, groups):
    steps, length, lengths = decoding_steps(known, groups, N, form, "cpu"), 0, []
    for step in steps:
        length += step.layout.carried.shape[1]
        lengths.append(length)
        length -= step.num_rewound
    assert longest_sequence(steps) == max(lengths)
    assert longest_sequence([]) == 0
