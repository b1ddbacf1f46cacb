"""The comparison of RAR's schedules, shortened to a few steps."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from randar_hf import RARConfig, RARForCausalLM, demo_checkpoint
from randar_hf.pipelines import RARPipeline
from randar_hf.training.annealing import Annealing
from randar_hf.training.data.token_files import load_tokenizer, read_settings, tokenizer_hash
from randar_hf.training.experiments import digits_rar
from randar_hf.training.experiments.digits_rar import DigitsRARConfig, run_comparison


@pytest.fixture
def four_steps(monkeypatch):
    """Runs of four steps of a tiny model, with a checkpoint every two."""
    training_config = digits_rar.training_config
    tiny = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    short = {"warmup_steps": 1, "checkpointing_steps": 2, "logging_steps": 1}
    monkeypatch.setattr(digits_rar, "MAX_STEPS", 4)
    monkeypatch.setattr(digits_rar, "IMAGES_PER_CLASS", 1)
    monkeypatch.setattr(
        digits_rar, "training_config", lambda *a: dataclasses.replace(training_config(*a), **tiny, **short)
    )


def test_comparison_end_to_end(four_steps, tmp_path):
    config = DigitsRARConfig(output_dir=str(tmp_path), seeds=[0], schedules=["annealed"])
    results = run_comparison(config)
    assert results == json.loads((tmp_path / "results.json").read_text())
    run = tmp_path / "annealed-0"
    numbers = results["runs"]["annealed"]["0"]
    assert numbers == json.loads((run / "evaluation.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert numbers["validation_bits_per_token"] * math.log(2) == pytest.approx(rows[-1]["validation_loss"], abs=1e-5)
    assert [row["random_ratio"] for row in rows[:-1]] == [1, 1, 1, 0]
    assert "class_accuracy_third_of_steps" not in numbers  # one token a step, nothing else
    shipped = load_tokenizer(f"{demo_checkpoint()}/vqvae")
    assert read_settings(str(tmp_path / "tokens")).tokenizer_hash == tokenizer_hash(shipped)

    trained, merged = (RARPipeline.from_pretrained(folder) for folder in (run / "pipeline", tmp_path / "pipeline"))
    assert merged.transformer.config.merged_positions and not trained.transformer.config.merged_positions
    generation = merged.transformer.generation_config
    guidance = (digits_rar.GUIDANCE_SCALE, digits_rar.GUIDANCE_POWER)
    assert (generation.guidance_scale, generation.guidance_power) == guidance
    drawn = [
        pipeline(["three", 7], generator=torch.Generator().manual_seed(0), output_type="latent").images
        for pipeline in (trained, merged)
    ]
    assert drawn[0].equal(drawn[1])
    assert str(tmp_path) not in "".join(file.read_text() for file in (tmp_path / "pipeline").rglob("*.json"))

    stays = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    assert run_comparison(config) == results
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == stays


def test_an_interrupted_run_goes_on_or_starts_over(four_steps, tmp_path, read_metrics):
    digits_rar.prepare_tokens(tmp_path)
    run = digits_rar.train_run(tmp_path, "random", 0)
    weights, rows = (run / "model.safetensors").read_bytes(), read_metrics(run)
    assert RARForCausalLM.from_pretrained(run).config.random_ratio == 1
    for left in ("checkpoint-2", "nothing"):
        for path in [run / "pipeline", *run.glob("checkpoint-*")]:
            if path.name != left:
                shutil.rmtree(path)
        (run / "model.safetensors").unlink()
        assert digits_rar.train_run(tmp_path, "random", 0) == run
        assert (run / "model.safetensors").read_bytes() == weights
        assert read_metrics(run) == rows


def test_schedules_are_what_they_are_called():
    annealings = {name: digits_rar.training_config(Path("runs"), name, 0).annealing for name in digits_rar.SCHEDULES}
    steps = digits_rar.MAX_STEPS
    assert annealings == {
        "raster": Annealing("raster"),
        "random": Annealing("raster", steps, steps),
        "annealed": Annealing("raster", steps // 2, steps * 3 // 4),
    }


def test_the_pipeline_is_small_enough_to_ship():
    fields = digits_rar.training_config(Path("runs"), "annealed", 0).model_fields
    model = RARForCausalLM(RARConfig(vocab_size=64, num_classes=10, grid_size=8, **fields)).merge_positions()
    tokenizer = Path(demo_checkpoint(), "vqvae", "diffusion_pytorch_model.safetensors")
    assert 4 * model.num_parameters() + tokenizer.stat().st_size < 3.95e6


def test_table_has_mean_and_deviation():
    runs = [
        {"validation_bits_per_token": bits, "class_accuracy": share, "frechet_distance": 7, "repeated_share": 0.0}
        for bits, share in ((3.0, 0.9), (4.0, 1.0))
    ]
    table = digits_rar.make_table(digits_rar.summarize({"raster": runs, "annealed": runs[:1]})).splitlines()
    assert table[2] == "| raster | 2.426 ± 0.490 | 3.500 ± 0.707 | 95.0% ± 7.1% | 7.0 ± 0.0 | 0.0% ± 0.0% |"
    assert table[3] == "| annealed | 2.079 ± 0.000 | 3.000 ± 0.000 | 90.0% ± 0.0% | 7.0 ± 0.0 | 0.0% ± 0.0% |"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedules": ["raster", "spiral"]}, r"`schedules` must be of 'raster', .*, got \['spiral'\]"),
        ({"schedules": []}, "`schedules` must be of .*, got none"),
        ({"seeds": []}, r"`seeds` must be .*, got \[\]"),
        ({"seeds": [-1]}, r"`seeds` must be .*, got \[-1\]"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        DigitsRARConfig(output_dir="runs", **change)
