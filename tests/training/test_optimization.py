"""Schedules of the learning rate, averaged weights, saved memory and compilation."""

import pytest
import torch
from safetensors.torch import load_file

from randar_hf import RandARForCausalLM
from randar_hf.modeling_randar import RandARAttention
from randar_hf.training import TrainingConfig, train
from randar_hf.training.optimization import make_optimizer, make_schedule
from randar_hf.training.trainer import Trainer


def rates(name: str, steps: int, **settings) -> list[float]:
    """The learning rate of each step."""
    optimizer = make_optimizer(torch.nn.Linear(2, 2), 4e-4, 0.0)
    schedule = make_schedule(name, optimizer, max_steps=steps, **settings)
    values = []
    for _ in range(steps + 1):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return values


def test_muon_takes_the_matrices_of_the_layers(make_model):
    """Each part steps as torch's own optimizers do, with the same rate."""
    model, expected = make_model(), make_model()
    expected.load_state_dict(model.state_dict())
    optimizer = make_optimizer(model, 0.01, 0.1, optimizer="muon")
    matrices = {name for name, p in expected.named_parameters() if ".layers." in name and p.ndim == 2}
    named = dict(expected.named_parameters())
    parts = [
        torch.optim.Muon([named[name] for name in matrices], 0.01, 0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([p for n, p in named.items() if p.ndim >= 2 and n not in matrices], 0.01, (0.9, 0.95),
                          weight_decay=0.1, fused=True),
        torch.optim.AdamW([p for p in named.values() if p.ndim < 2], 0.01, (0.9, 0.95), weight_decay=0, fused=True),
    ]  # fmt: skip
    labels = torch.zeros(2, model.config.num_tokens, dtype=torch.long)
    for _ in range(3):
        for each in (model, expected):
            each.zero_grad()
            each(input_ids=labels, class_labels=labels[:, 0], order=None, labels=labels).loss.backward()
        optimizer.step()
        for part in parts:
            part.step()
    assert matrices and all(torch.equal(p, named[name]) for name, p in model.named_parameters())


def test_the_published_cosine_ends_at_its_final_rate():
    values = rates("cosine", 360, warmup_steps=50, final_learning_rate=2e-5)
    assert values[0] == 0 and values[25] == pytest.approx(2e-4) and values[50] == pytest.approx(4e-4)
    assert values[205] == pytest.approx(2.1e-4) and values[360] == pytest.approx(2e-5)


def test_the_published_constant_then_linear_schedule():
    values = rates("constant_linear", 300, warmup_steps=0, decay_start=250, final_learning_rate=1e-5)
    assert values[:251] == pytest.approx([4e-4] * 251)
    assert values[275] == pytest.approx(2.05e-4) and values[300] == pytest.approx(1e-5)
    values = rates("constant_linear", 300, warmup_steps=100, decay_start=250)
    assert values[50] == pytest.approx(2e-4) and values[100] == values[250] == pytest.approx(4e-4)
    assert values[300] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr_schedule": "constant_linear", "decay_start": 6}, "`decay_start` must be .*below `max_steps`, 6, got 6"),
        (
            {"lr_schedule": "constant_linear", "decay_start": 1},
            "`decay_start` must be .*`warmup_steps`, 2, .*got 1",
        ),
        ({"decay_start": 3}, "`decay_start` must be None for the schedule 'cosine', got 3"),
        (
            {"lr_schedule": "linear", "final_learning_rate": 1e-3},
            "`final_learning_rate` must be 0 for 'linear'",
        ),
        ({"final_learning_rate": 0.1}, "`final_learning_rate` must be .*`learning_rate`, 0.01, got 0.1"),
        ({"final_learning_rate": -0.1}, "`final_learning_rate` must be at least 0 .*got -0.1"),
        ({"ema_decay": 1.0}, "`ema_decay` must be at least 0 and below 1, got 1.0"),
        ({"optimizer": "lion"}, "`optimizer` must be one of 'adamw', 'muon', got 'lion'"),
    ],
)
def test_settings_that_make_no_sense_are_named(training_settings, change, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**{**training_settings, **change})


def test_the_average_becomes_the_model(training_settings, monkeypatch):
    seen = []
    step = Trainer.after_step

    def watch(self, *args):
        seen.append({name: tensor.detach().clone() for name, tensor in self.model.named_parameters()})
        return step(self, *args)

    monkeypatch.setattr(Trainer, "after_step", watch)
    folder = train(TrainingConfig(**training_settings, ema_decay=0.5, validation_split="validation"))
    average = seen[0]
    for step, weights in enumerate(seen[1:], start=1):
        decay = min(0.5, (1 + step) / (10 + step))  # the ramp of diffusers
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in weights}
    saved, trained = load_file(folder / "model.safetensors"), load_file(folder / "checkpoint-6" / "model.safetensors")
    for name in saved:
        torch.testing.assert_close(saved[name], average[name])
        assert not torch.equal(saved[name], trained[name])


def test_validation_is_of_the_average(training_settings, read_metrics, tmp_path):
    settings = {**training_settings, "validation_split": "validation", "validation_steps": 3}
    rows = {}
    for decay in (None, 0.9):
        folder = train(TrainingConfig(**{**settings, "output_dir": str(tmp_path / str(decay))}, ema_decay=decay))
        rows[decay] = read_metrics(folder)
    losses = {decay: [row["loss"] for row in rows[decay] if "loss" in row] for decay in rows}
    assert losses[None] == losses[0.9]  # training goes on with its own weights
    validations = [[row["validation_loss"] for row in rows[decay] if "validation_loss" in row] for decay in rows]
    assert len(validations[0]) == 2 and not set(validations[0]) & set(validations[1])


def test_activation_checkpointing_changes_nothing_but_memory(training_settings, finished, same_weights, monkeypatch):
    calls, forward = [], RandARAttention.forward
    monkeypatch.setattr(RandARAttention, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    assert same_weights(train(TrainingConfig(**training_settings, activation_checkpointing=True)), finished)
    assert len(calls) == 6 + 6  # forward passes once more in backward passes


def test_mixed_precision_keeps_no_casts_of_the_weights(training_settings, monkeypatch):
    seen, forward = [], RandARAttention.forward

    def spy(self, hidden_states, *args, **kwargs):
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()))
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(RandARAttention, "forward", spy)
    monkeypatch.setattr("randar_hf.training.trainer.compare_precision", lambda *arguments: None)  # passes in both
    train(TrainingConfig(**training_settings, mixed_precision="bf16"))
    assert set(seen) == {(True, False)}


@pytest.mark.slow
def test_a_compiled_run_is_the_same_up_to_rounding_and_can_be_resumed(
    training_settings, read_metrics, same_weights, tokenizer_folder, tmp_path
):
    for name in ("token_dropout", "residual_dropout", "mlp_dropout"):
        training_settings[name] = 0.0
    training_settings |= {"validation_split": "validation", "tokenizer": str(tokenizer_folder), "max_steps": 4}
    training_settings |= {"checkpointing_steps": 2}
    plain = read_metrics(train(TrainingConfig(**training_settings)))
    settings = {**training_settings, "output_dir": str(tmp_path / "compiled"), "compile": True}
    folder = train(TrainingConfig(**settings))
    for row, other in zip(plain, read_metrics(folder), strict=True):
        assert row == pytest.approx(other, rel=1e-3)
    before = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    train(TrainingConfig(**settings, resume="checkpoint-2"))
    after = load_file(folder / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert RandARForCausalLM.from_pretrained(folder).generate([0]).shape == (1, 16)
