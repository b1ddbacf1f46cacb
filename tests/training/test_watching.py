"""What a run notices by itself: a loss that explodes, steps that others slow, a slow precision."""

from types import SimpleNamespace

import pytest
import torch

from randar_hf.training import TokenizerTrainingConfig, TrainingConfig, train, train_tokenizer
from randar_hf.training.watching import TIMED_STEPS, LossWatch, StepTimes


ALONE = SimpleNamespace(reduce=lambda value, how: value)


def watch(losses):
    noted = LossWatch(ALONE, 0.5)
    for step, loss in enumerate(losses, start=1):
        noted.note(step, torch.tensor(float(loss)))


def test_a_loss_may_rise_a_little_or_late():
    watch([2, *[5.9] * 99, *[100] * 50])
    watch([2, *[float("nan")] * 99])  # for `max_skipped_steps`
    watch([float("nan"), *[9] * 99])
    with pytest.raises(ValueError, match="in 20 steps the loss has grown from 2 to 7, got 0.5; try 0.05, or a longer"):
        watch([*[2] * 10, *[7] * 10])
    with pytest.raises(ValueError, match="in 20 steps the loss has grown from 2 to 7, got 0.5"):
        watch([*[2] * 10, *[7, float("nan")] * 5])


def test_trainings_that_explode_are_stopped(training_settings, image_folder, small_tokenizer_settings, tmp_path):
    settings = {**training_settings, "max_steps": 60, "learning_rate": 100.0, "warmup_steps": 0}
    with pytest.raises(ValueError, match="`learning_rate` must be lower: .* got 100; try 10, .*checkpoint"):
        train(TrainingConfig(**settings))
    settings = {**small_tokenizer_settings, "max_steps": 60, "learning_rate": 100.0, "warmup_steps": 0}
    with pytest.raises(ValueError, match="`learning_rate` must be lower: .* got 100; try 10, "):
        train_tokenizer(
            TokenizerTrainingConfig(dataset=str(image_folder), output_dir=str(tmp_path / "tokenizer"), **settings)
        )


@pytest.mark.parametrize(("slow", "threads", "told"), [(1.1, 2, True), (0.9, 2, False), (1.1, 1, False)])
def test_steps_that_vary_tenfold_are_told_once(slow, threads, told, monkeypatch, caplog):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    times = StepTimes(torch.device("cpu"))
    for index in range(3 * TIMED_STEPS):
        times.note(slow if index % 5 == 4 else 0.1)
    assert caplog.text.count("OMP_NUM_THREADS=1") == told
    assert not StepTimes(torch.device("cuda")).is_on


def test_the_speed_of_both_precisions_is_told(image_folder, small_tokenizer_settings, tmp_path, caplog, monkeypatch):
    config = {"dataset": str(image_folder), **small_tokenizer_settings, "max_steps": 1}
    weights = []
    for _ in range(2):
        folder = tmp_path / str(len(weights))
        train_tokenizer(TokenizerTrainingConfig(**config, output_dir=str(folder), mixed_precision="bf16"))
        weights.append((folder / "diffusion_pytorch_model.safetensors").read_bytes())
        if len(weights) == 1:  # and it changes nothing
            assert "in bf16 on this CPU and" in caplog.text and "the faster is `mixed_precision`" in caplog.text
            monkeypatch.setattr("randar_hf.training.tokenizer_training.compare_precision", lambda *arguments: None)
    assert weights[0] == weights[1] and caplog.text.count("in bf16") == 1
