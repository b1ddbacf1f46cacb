"""A key-value cache whose length is known before decoding starts."""

import torch
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """
    One layer's keys and values in buffers of full length, so that a step writes its slots and copies nothing else.

    Args:
        max_length (`int`): slots that the buffers hold.
    """

    def __init__(self, max_length: int):
        super().__init__()
        self.max_length, self.length = max_length, 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor):
        self.dtype, self.device = key_states.dtype, key_states.device
        batch_size, num_heads, _, head_dim = key_states.shape
        self.keys = key_states.new_empty(batch_size, num_heads, self.max_length, head_dim)
        self.values = torch.empty_like(self.keys)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, H, S, d) keys and values; returns all of them so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.max_length

    def crop(self, tokens_to_remove: int):
        """Forget the last slots; their number is given as a negative one, as for every cache."""
        self.length += tokens_to_remove


def preallocated_cache(num_layers: int, max_length: int) -> Cache:
    """A cache of `num_layers` layers with room for `max_length` slots; buffers are made at the first update."""
    return Cache(layers=[PreallocatedLayer(max_length) for _ in range(num_layers)])


def cache_bytes(config: PreTrainedConfig, num_sequences: int, num_slots: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of so many slots of so many sequences."""
    return (
        2
        * config.num_hidden_layers
        * config.num_key_value_heads
        * config.head_dim
        * num_sequences
        * num_slots
        * dtype.itemsize
    )
