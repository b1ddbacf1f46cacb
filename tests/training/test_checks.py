"""What is checked before a run: once, and before anything is written."""

import cProfile
import pstats
from collections import Counter

import pytest

from randar_hf.training import (
    TokenizerTrainingConfig,
    TokenizingConfig,
    TrainingConfig,
    tokenize_images,
    train,
    train_tokenizer,
)


CHECKS = ("check_column", "check_labels", "check_tokens", "check_tokenizer", "check_output_dir", "check_free",
          "check_fits", "check_checkpoint", "check_resumed_settings", "undecoded")  # fmt: skip


def count_checks(function, config) -> Counter:
    """How often each of the checks is called."""
    profile = cProfile.Profile()
    profile.runcall(function, config)
    calls = Counter()
    for (_, _, name), (count, *_) in pstats.Stats(profile).stats.items():
        calls[name] += count if name in CHECKS else 0
    return +calls


@pytest.mark.parametrize("resume", [None, "latest"])
def test_a_model(resume, finished_run, training_settings, tokenizer_folder):
    config = TrainingConfig(**training_settings, tokenizer=str(tokenizer_folder), validation_split="validation",
                            resume=resume, overwrite=resume is None)  # fmt: skip
    splits, once = 2, dict.fromkeys(("check_tokenizer", "check_output_dir", "check_fits"), 1)
    resumed = {"check_checkpoint": 1, "check_resumed_settings": 1} if resume else {}
    columns = {"check_column": 2 * splits, "check_labels": splits, "check_tokens": splits}
    assert count_checks(train, config) == once | resumed | columns


def test_a_tokenizer(image_folder, small_tokenizer_settings, tmp_path):
    settings = {**small_tokenizer_settings, "image_size": None}  # which is told by the images
    config = TokenizerTrainingConfig(
        **settings, dataset=str(image_folder), output_dir=str(tmp_path / "run"), validation_split="validation"
    )
    once = dict.fromkeys(("check_output_dir", "check_fits"), 1)
    assert count_checks(train_tokenizer, config) == once | {"check_column": 2, "undecoded": 2}  # of two splits


def test_tokens(image_folder, tokenizer_folder, tmp_path):
    config = TokenizingConfig(
        dataset=str(image_folder), tokenizer=str(tokenizer_folder), output_dir=str(tmp_path / "tokens")
    )
    once = dict.fromkeys(("check_free", "check_fits", "check_labels", "undecoded"), 1)
    assert count_checks(tokenize_images, config) == once | {"check_column": 2}  # of images and of labels
