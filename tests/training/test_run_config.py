"""The settings that both trainers share: types and finiteness of every field, named."""

import json
from pathlib import Path

import numpy as np
import pytest

from randar_hf.training import TokenizerTrainingConfig, TokenizingConfig, TrainingConfig


PLACES = {"dataset": "data", "output_dir": "run"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": True}, "`max_steps` must be a whole number or null, got True"),
        ({"batch_size": "3"}, "`batch_size` must be a whole number or null, got '3'"),
        ({"batch_size": 2.0}, "`batch_size` must be a whole number or null, got 2.0"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a finite number or null, got nan"),
        ({"max_grad_norm": float("inf")}, "`max_grad_norm` must be a finite number, got inf"),
        ({"weight_decay": "0.1"}, "`weight_decay` must be a finite number, got '0.1'"),
        ({"overwrite": 1}, "`overwrite` must be true or false, got 1"),
        ({"validation_split": 5}, "`validation_split` must be a text in quotes or null, got 5"),
        ({"dataset": None}, "`dataset` must be a text in quotes, got None"),
        ({"lr_schedule": "step"}, "`lr_schedule` must be one of 'cosine', .*, got 'step'"),
        ({"mixed_precision": "fp8"}, "`mixed_precision` must be one of 'no', 'fp16', 'bf16', got 'fp8'"),
    ],
)
def test_wrong_types_and_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**PLACES | change)


@pytest.mark.parametrize(
    ("number", "allowed", "names"),
    [
        (0, "above 0", "batch_size max_steps learning_rate max_grad_norm logging_steps checkpointing_steps patience"),
        (0, "above 0", "checkpoints_total_limit validation_steps gradient_accumulation_steps lora_rank"),
        (-1, "at least 0", "warmup_steps weight_decay num_workers max_skipped_steps seed"),
    ],
)
def test_numbers_out_of_range_are_named(number, allowed, names):
    for name in names.split():
        with pytest.raises(ValueError, match=f"`{name}` must be {allowed}, got {number}"):
            TrainingConfig(**PLACES, **{name: number})


def test_entries_of_lists_have_types_too():
    for channels in ([8, "8"], [8, 8.5], [True, 8]):
        with pytest.raises(ValueError, match="`block_out_channels` must be a whole number, got "):
            TokenizerTrainingConfig(**PLACES, block_out_channels=channels)
    with pytest.raises(ValueError, match="`block_out_channels` must be a list, each entry a whole number, got 8"):
        TokenizerTrainingConfig(**PLACES, block_out_channels=8)


def test_numbers_of_numpy_and_paths_are_taken():
    config = TrainingConfig(
        dataset=Path("data"), output_dir=Path("run"), max_steps=np.int64(5), ema_decay=np.float32(0)
    )
    assert config == TrainingConfig(**PLACES, max_steps=5, ema_decay=0.0)
    json.dumps(vars(config))
    tokenizing = TokenizingConfig(**PLACES, tokenizer=Path("tokenizer"), batch_size=np.uint8(3))
    assert (tokenizing.tokenizer, tokenizing.batch_size) == ("tokenizer", 3)
