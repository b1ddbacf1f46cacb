"""The cache: written by index, read up to a length, with a spare slot for padding."""

import torch

from randar_hf.cache import IndexedCache


def states(first, count):
    """Keys of one head of width 1 for one image: `first`, `first` + 1 and so on."""
    return torch.arange(first, first + count, dtype=torch.float32).view(1, 1, count, 1)


def test_slots_are_written_by_index_and_read_up_to_a_length():
    cache = IndexedCache(num_layers=2, max_length=5)
    slots = cache.find_slots(torch.tensor([[3]]), 4)
    assert slots.tolist() == [[3, 4, 5, 5]]  # padding beyond the sequence goes to the spare slot
    for length in (4, 5, 6, 9):
        cache.read_up_to(length)
        keys, values = cache.update(states(10, 4), states(20, 4), 1, slots)
        assert keys.shape == values.shape == (1, 1, min(length, 6), 1)
        assert keys.flatten().tolist()[:5] == [0, 0, 0, 10, 11][:length]
        assert values.flatten().tolist()[:5] == [0, 0, 0, 20, 21][:length]
        assert cache.make_mask(slots).shape == (1, 1, 4, min(length, 6))
    assert not cache.layers[0].is_initialized


def test_each_image_has_its_own_slots_and_sees_those_up_to_itself():
    cache = IndexedCache(num_layers=1, max_length=4)
    slots = cache.find_slots(torch.tensor([[0], [2]]), 2)
    keys, _ = cache.update(states(1, 2).expand(2, 1, 2, 1), states(1, 2).expand(2, 1, 2, 1), 0, slots)
    assert keys.flatten(1).tolist() == [[1, 2, 0, 0], [0, 0, 1, 2]]
    assert cache.make_mask(slots)[:, 0].int().tolist() == [
        [[1, 0, 0, 0], [1, 1, 0, 0]],
        [[1, 1, 1, 0], [1, 1, 1, 1]],
    ]
