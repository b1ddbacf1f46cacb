"""A key-value cache of full length, written by index: each image of a batch has a frontier of its own."""

import torch
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


class IndexedLayer(DynamicLayer):
    """
    One layer's keys and values in buffers of full length, and one slot more for padding beyond it.

    Args:
        max_length (`int`): slots of a sequence.
    """

    keys: torch.Tensor  # (B, H, max_length + 1, d), once initialized
    values: torch.Tensor

    def __init__(self, max_length: int):
        super().__init__()
        self.max_length, self.length = max_length, max_length

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor):
        self.dtype, self.device = key_states.dtype, key_states.device
        batch_size, num_heads, _, head_dim = key_states.shape
        # Zeros: what is masked still meets a weight of 0, and 0 times what lies in fresh memory may be NaN.
        self.keys = key_states.new_zeros(batch_size, num_heads, self.max_length + 1, head_dim)
        self.values = torch.zeros_like(self.keys)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, slots: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (B, H, S, d) keys and values to slots (B, S); returns those up to `length`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows = torch.arange(len(slots), device=slots.device)[:, None]  # (B, 1)
        self.keys[rows, :, slots] = key_states.transpose(1, 2)
        self.values[rows, :, slots] = value_states.transpose(1, 2)
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.max_length


class IndexedCache(Cache):
    """
    A cache whose slot i holds slot i of each image's sequence; buffers are made at the first update.

    Args:
        num_layers (`int`): layers of the model.
        max_length (`int`): slots of a sequence.
    """

    def __init__(self, num_layers: int, max_length: int):
        self.indexed_layers = [IndexedLayer(max_length) for _ in range(num_layers)]
        super().__init__(layers=list(self.indexed_layers))
        self.max_length = max_length

    def read_up_to(self, length: int):
        """Let updates return no more slots than this, of those that there are."""
        for layer in self.indexed_layers:
            layer.length = min(length, self.max_length + 1)

    def find_slots(self, start: torch.Tensor, num_slots: int) -> torch.Tensor:
        """Slots (B, S) of a pass that begins at `start` (B, 1); padding beyond the sequence goes to the spare one."""
        return (start + torch.arange(num_slots, device=start.device)).clamp(max=self.max_length)

    def make_mask(self, slots: torch.Tensor) -> torch.Tensor:
        """Which slots of the cache those of a pass (B, S) see, (B, 1, S, length): themselves and all before them."""
        return torch.arange(self.indexed_layers[0].length, device=slots.device) <= slots[:, None, :, None]


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


__all__ = ["IndexedCache", "cache_bytes"]
