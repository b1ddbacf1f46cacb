"""The recipe of the shipped checkpoint, shortened to a few steps."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from randar_hf.pipelines import RandARPipeline
from randar_hf.training.experiments import digits
from randar_hf.training.experiments.digits_data import image_to_scan, scan_to_image, split_scans
from randar_hf.training.experiments.digits_evaluation import frechet_distance


def test_a_fixed_stratified_fifth_is_held_out():
    splits = split_scans()
    assert {name: len(labels) for name, (_, labels) in splits.items()} == {"train": 1437, "validation": 360}
    assert np.bincount(splits["validation"][1]).min() >= 34
    train = {scan.tobytes() for scan in splits["train"][0]}
    assert not any(scan.tobytes() in train for scan in splits["validation"][0])


def test_scan_survives_being_a_image():
    for scan in split_scans()["validation"][0][:20]:
        assert np.abs(image_to_scan(scan_to_image(scan)) - scan).mean() < 1


def test_frechet_distance_is_that_of_normal_distributions():
    scans = np.random.default_rng(0).normal(size=(20_000, 8, 8))
    assert frechet_distance(scans, scans) == pytest.approx(0, abs=1e-6)
    # Shifted by 2 in each of 64 values and three times as wide: 64 * (2 ** 2 + (3 - 1) ** 2).
    assert frechet_distance(scans, 3 * scans[:, ::-1] + 2) == pytest.approx(512, rel=0.02)


def test_recipe_end_to_end(tmp_path, monkeypatch, capsys):
    tokenizer_config, training_config = digits.tokenizer_config, digits.training_config
    shorter = {"max_steps": 3, "warmup_steps": 1}
    monkeypatch.setattr(
        digits, "tokenizer_config", lambda *a: dataclasses.replace(tokenizer_config(*a), batch_size=8, **shorter)
    )
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(
        digits, "training_config", lambda *a: dataclasses.replace(training_config(*a), **small, **shorter)
    )
    monkeypatch.setattr(digits, "IMAGES_PER_CLASS", 1)
    numbers = digits.run_recipe(digits.DigitsConfig(output_dir=str(tmp_path / "digits")))
    assert numbers == json.loads((tmp_path / "digits" / "evaluation.json").read_text())
    assert numbers["classifier_accuracy_real"] > 0.97
    assert numbers["uniform_bits_per_token"] == 6
    assert 0 <= numbers["class_accuracy"] <= 1 and numbers["repeated_share"] == 0
    pipeline = RandARPipeline.from_pretrained(tmp_path / "digits" / "pipeline")
    assert pipeline("seven").images[0].size == (32, 32)
    commands = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("randar-hf")]
    assert commands == [["randar-hf", name] for name in ("train-tokenizer", "tokenize", "tokenize", "train")]
    with pytest.raises(ValueError, match="output_dir"):
        digits.run_recipe(digits.DigitsConfig(output_dir=str(tmp_path / "digits")))


def test_importing_the_package_of_trainers_is_light():
    code = "import sys, randar_hf.training; assert not {'datasets', 'sklearn', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
