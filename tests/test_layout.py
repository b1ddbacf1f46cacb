import pytest
import torch

from randar_hf.layout import Layout, SequenceForm, repeated_layout, sequence_length, take_queries, training_layout


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
    for first, second in zip(repeated_layout(N, 1, form)[:3], training_layout(N, form)[:3], strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_is_as_long_as_that_of_training(form):
    assert sequence_length(N, form) == training_layout(N, form).carried.shape[1]


def test_queries_are_the_same_slots_for_all_images_or_each_images_own():
    states, none = torch.arange(24.0).view(2, 4, 3), torch.zeros(1, 4, dtype=torch.long)
    shared = take_queries(states, Layout(none, none, torch.tensor([3, 1])))
    assert torch.equal(shared, torch.stack([states[:, 3], states[:, 1]], dim=1))
    own = take_queries(states, Layout(none, none, torch.tensor([[3, 1], [0, 0]])))
    assert torch.equal(own[0], shared[0]) and torch.equal(own[1], states[1, [0, 0]])
