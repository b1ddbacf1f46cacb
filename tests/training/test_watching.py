"""What a run notices by itself: a loss that explodes, steps that others slow, a slow precision."""

from functools import partial
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


@pytest.mark.parametrize("module", ["tokenizer_training", "trainer"])
def test_the_speed_of_both_precisions_is_told(
    image_folder, small_tokenizer_settings, training_settings, tmp_path, caplog, monkeypatch, module
):
    if module == "trainer":
        run, config, file = train, partial(TrainingConfig, **training_settings | {"warmup_steps": 0}), "model"
    else:
        settings = {"dataset": str(image_folder), **small_tokenizer_settings}
        run, config, file = train_tokenizer, partial(TokenizerTrainingConfig, **settings), "diffusion_pytorch_model"
    weights = []
    for name in ("told", "not told"):
        run(config(output_dir=str(tmp_path / name), mixed_precision="bf16", max_steps=1))
        weights.append((tmp_path / name / f"{file}.safetensors").read_bytes())
        monkeypatch.setattr(f"randar_hf.training.{module}.compare_precision", lambda *arguments: None)
    assert weights[0] == weights[1]  # it changes nothing
    assert caplog.text.count("in bf16 on this CPU and") == caplog.text.count("the faster is `mixed_precision`") == 1
