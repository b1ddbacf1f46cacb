"""`randar-hf bench --train`: the real trainer's steps on random tokens, in processes of their own."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from randar_hf import cli
from randar_hf.training import benchmark
from randar_hf.training.benchmark import format_training, measure_training, time_published_steps


# A program with the interface of the published one, which counts what it is asked for.
PROGRAM = """
import torch
from torch import nn


class RandARTransformer(nn.Module):
    def __init__(self, dim, n_layer, n_head, multiple_of, vocab_size, block_size, num_classes, grad_checkpointing):
        super().__init__()
        assert (dim, n_layer, n_head, multiple_of) == (160, 5, 5, 448)
        assert (vocab_size, block_size, num_classes, grad_checkpointing) == (256, 64, 96, True)
        self.embedding, self.output = nn.Embedding(vocab_size, dim), nn.Linear(dim, vocab_size, bias=False)

    def configure_optimizer(self, lr, weight_decay, beta1, beta2, max_grad_norm):
        return torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=weight_decay, betas=(beta1, beta2))

    def forward(self, tokens, classes, targets):
        assert tokens.shape == (2, 64) and classes.shape == (2,)
        logits = self.output(self.embedding(tokens))
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()), None
"""


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "RandAR" / "model"
    folder.mkdir(parents=True)
    (folder / "randar_gpt.py").write_text(PROGRAM)
    return tmp_path


@pytest.fixture
def in_this_process(monkeypatch):
    """Programs run here, which is quicker; `test_both_programs_are_timed` has processes."""
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # which they set, and this takes away again


@pytest.mark.slow
def test_both_programs_are_timed(published, monkeypatch):
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    result = measure_training("demo", batch_size=2, runs=1, dtype="bfloat16", published=str(published))
    ours, theirs = result["ours"], result["published"]
    assert result["dtype"] == "bfloat16" and result["activation_checkpointing"]
    assert "ACCELERATE_USE_CPU" not in os.environ  # what this process does later is not held to the CPU
    assert ours["parameters"] == 1_686_560 and theirs["parameters"] == 2 * 256 * 160
    assert 5.3 < ours["loss"] < 5.9 and 5.3 < theirs["loss"] < 5.9  # the logarithm of 256 is 5.55
    for program in (ours, theirs):
        assert 0 < program["seconds_min"] <= program["seconds"] <= program["seconds_max"]
        assert program["tokens_per_second"] == pytest.approx(2 * 64 / program["seconds"])
        assert program["state_mib"] == pytest.approx(16 * program["parameters"] / 2**20)
        assert program["peak_memory_mib"] > program["state_mib"] and program["mfu"] is None
    table = format_training(result).splitlines()
    assert table[0] == "size: demo" and not any(line.startswith("mfu") for line in table)
    (row,) = (line for line in table if line.startswith("peak_memory_mib"))
    assert float(row.split()[-1]) == pytest.approx(ours["peak_memory_mib"] / theirs["peak_memory_mib"], abs=1e-3)


def test_the_command_measures_the_trainer_alone(in_this_process, capsys):
    words = ["bench", "--train", "--model-type", "rar", "--batch-size", "2", "--runs", "1"]
    assert cli.main([*words, "--no-activation-checkpointing", "--gradient-accumulation-steps", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "activation_checkpointing: False" in lines and "model_type: rar" in lines
    assert "gradient_accumulation_steps: 2" in lines
    assert any(line.split() == ["ours"] for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train", "--steps", "3"], "`--steps` must not go with `--train`, got 3."),
        (["--train", "--grid-size", "4", "4"], "`--grid-size` must not go with `--train`"),
        (["--compile"], "`--compile` must go with `--train`"),
        (["--gradient-accumulation-steps", "2"], "`--gradient-accumulation-steps` must go with `--train`, got 2."),
        (
            ["--train", "--gradient-accumulation-steps", "0"],
            "`gradient_accumulation_steps` must be at least 1, got 0.",
        ),
        (
            ["--train", "--batch-size", "4", "--gradient-accumulation-steps", "3"],
            "`gradient_accumulation_steps` must divide `batch_size`, 4, got 3.",
        ),
        (["--published", "there"], "`--published` must go with `--train`, got 'there'."),
        (["--train", "--published", "there"], "`published` must be a folder of the published repository"),
        (
            ["--train", "--model-type", "rar", "--published", "there"],
            "`model_type` must be 'randar' beside `published`, got 'rar'.",
        ),
        (["--train", "--dtype", "float16"], "`dtype` must be one of float32, bfloat16 in training, got 'float16'."),
        (["--train", "--device", "mps"], "`device` must be cpu or cuda in training, got 'mps'."),
        (["--train", "--batch-size", "0"], "`batch_size` must be at least 1, got 0."),
        (["--train", "--size", "M"], "`size` must be demo or one of"),
    ],
)
def test_wrong_input_is_one_line(capsys, words, message):
    assert cli.main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_what_the_published_program_lacks_is_named(published, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (published / "RandAR" / "model" / "randar_gpt.py").write_text("import omegaconf_of_old")
    settings = {
        "size": "demo",
        "batch_size": 1,
        "dtype": "float32",
        "device": "cpu",
        "runs": 1,
        "model_type": "randar",
    }
    training = {"compile": False, "activation_checkpointing": True, "gradient_accumulation_steps": 1}
    bench = benchmark.TrainingBench(**settings, **training, published=str(published))
    with pytest.raises(
        ValueError, match="`published` must have all that it imports installed, got no 'omegaconf_of_old'"
    ):
        time_published_steps(bench)


def test_programs_take_turns(in_this_process, monkeypatch, published):
    taken = []

    def program(name):
        def run(bench):
            taken.append(name)
            seconds = [1.0 + len(taken)]
            return {"parameters": 1, "loss": 0.5, "seconds": seconds, "peak_memory": 2**20 * len(taken)}

        return run

    for name in ("time_our_steps", "time_published_steps"):
        monkeypatch.setattr(benchmark, name, program(name))
    result = measure_training("demo", batch_size=4, published=str(published))
    assert taken == 2 * ["time_our_steps", "time_published_steps"]
    assert (result["ours"]["seconds"], result["published"]["seconds"]) == (3.0, 4.0)
    assert (result["ours"]["peak_memory_mib"], result["published"]["peak_memory_mib"]) == (3.0, 4.0)
