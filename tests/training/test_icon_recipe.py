"""The recipe of the shipped icons on a few icons, and what is measured with its models, in a few steps."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from randar_hf.pipelines import RandARPipeline, RARPipeline
from randar_hf.pipelines.loading import load_pipeline
from randar_hf.training import trainer
from randar_hf.training.annealing import Annealing
from randar_hf.training.icons import claims, recipe, zero_shot
from randar_hf.training.icons.classifier import load_classifier


pytestmark = pytest.mark.filterwarnings("ignore:The Frechet distance")
RECIPE = """
about: Tiny.
based_on: {name}
train-tokenizer:
  block_out_channels: [4, 4, 4]
  codebook_size: 16
  code_dim: 2
  batch_size: 4
  max_steps: 2
  warmup_steps: 1
train:
  hidden_size: 16
  intermediate_size: 32
  num_hidden_layers: 2
  num_attention_heads: 2
  batch_size: 4
  max_steps: 4
  warmup_steps: 1
  checkpointing_steps: 2
"""
MORE = {"icons": "  decay_start: 2\n", "icons-rar": "  annealing_start: 1\n  annealing_end: 2\n"}


@pytest.fixture(scope="module", autouse=True)
def no_previews():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "draw_preview", lambda *_: Image.new("RGB", (8, 8)))
        yield


@pytest.fixture(scope="module")
def run(icon_package, tmp_path_factory):
    """A finished run of the recipe, and its settings."""
    folder = tmp_path_factory.mktemp("recipe")
    for name, more in MORE.items():
        (folder / f"{name}.yaml").write_text(RECIPE.format(name=name) + more)
    config = recipe.IconRecipeConfig(
        source=str(icon_package), output_dir=str(folder / "out"), recipe=str(folder / "icons.yaml"),
        rar_recipe=str(folder / "icons-rar.yaml"), num_images=3,
    )  # fmt: skip
    return recipe.run_recipe(config), config, folder / "out"


def test_the_recipe_makes_what_ships(run):
    numbers, _, folder = run
    assert set(numbers) == {"icons", "icons-rar"}
    assert "object_accuracy_third_of_steps" in numbers["icons"] and "_third_" not in " ".join(numbers["icons-rar"])
    for name, kind in {"icons": RandARPipeline, "icons-rar": RARPipeline}.items():
        assert numbers[name]["lossless_equal_fraction"] == 1
        trained, shipped = (load_pipeline("model", path) for path in (folder / f"{name}-run/pipeline", folder / name))
        assert type(shipped) is kind and shipped.transformer.dtype == torch.float32
        generation = shipped.transformer.generation_config
        assert {key: getattr(generation, key) for key in recipe.GENERATION[name]} == recipe.GENERATION[name]
        stored = load_file(folder / name / "transformer" / "model.safetensors")
        assert {value.dtype for value in stored.values()} == {torch.float16}
        assert str(folder) not in "".join(file.read_text() for file in (folder / name).rglob("*.json"))
        images = [pipe("heart", generator=torch.Generator().manual_seed(0), num_inference_steps=64, guidance_scale=2.0)
                  .images[0] for pipe in (trained, shipped)]  # fmt: skip
        assert np.abs(np.asarray(images[0], dtype=int) - np.asarray(images[1])).mean() < 32
    assert load_pipeline("model", folder / "icons-rar").transformer.config.merged_positions


def test_what_is_finished_is_kept_and_what_was_interrupted_goes_on(run, capsys):
    numbers, config, folder = run
    stays = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert recipe.run_recipe(config) == numbers
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == stays
    weights = (folder / "icons" / "transformer" / "model.safetensors").read_bytes()
    for left in ("checkpoint-2", "nothing"):
        for path in [folder / "icons", folder / "icons-run/pipeline", *(folder / "icons-run").glob("checkpoint-*")]:
            if path.name != left:
                shutil.rmtree(path)
        assert recipe.run_recipe(config) == numbers
        assert (folder / "icons" / "transformer" / "model.safetensors").read_bytes() == weights
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("randar-hf")]
    assert ["--resume latest" in line for line in commands] == [True, False] and "--overwrite" in commands[1]


def test_a_folder_that_is_no_package_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`source` must be .*; `npm pack @iconify/json@[\d.]+`"):
        recipe.run_recipe(recipe.IconRecipeConfig(source=str(tmp_path), output_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_what_was_not_trained_is_measured(run, icon_package, tmp_path, monkeypatch):
    _, _, folder = run
    monkeypatch.setattr(zero_shot, "EXTRAPOLATIONS", {"hierarchical": {}, "flat": {"hierarchical": False}})
    config = zero_shot.ZeroShotConfig(
        model=str(folder / "icons"), dataset=str(folder / "images"), classifier=str(folder / "classifier"),
        source=str(icon_package), output=str(tmp_path / "out" / "numbers.json"), num_images=2, num_classified=1,
        num_orders=1, num_probed=8,
    )  # fmt: skip
    numbers = zero_shot.evaluate_zero_shot(config)
    assert numbers == json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert numbers["inpainting"]["known_pixels_equal"]
    assert set(numbers["extrapolation"]) == {
        "training_icons_drawn_large",
        "trained_size_enlarged",
        "hierarchical",
        "flat",
    }
    bits = numbers["bits_per_token_by_known_fraction"]
    assert list(bits) == ["0.0", "0.25", "0.5", "0.75"] and all(2 < each < 6 for each in bits.values())  # of 16 codes
    assert len(numbers["probe_accuracy"]) == 2 * 2
    assert Image.open(tmp_path / "out" / "enlarged.png").height == 4 * 68
    with pytest.raises(ValueError, match="`num_probed` must be above 0, got 0"):
        dataclasses.replace(config, num_probed=0)


def test_icons_drawn_large_are_as_far_from_themselves_as_nothing(run, icon_package):
    _, _, folder = run
    classifier = load_classifier(folder / "classifier")
    drawn = zero_shot.draw_large(icon_package)
    assert {split: len(images) for split, images in drawn.items()} == {"train": 3, "validation": 2}
    features = zero_shot.large_features(classifier, drawn["train"])
    assert features.shape == (3, 128) and drawn["train"][0].size == (64, 64)
    assert zero_shot.frechet_distance(features, features) == pytest.approx(0, abs=1e-4)


def test_the_probe_finds_what_is_linear():
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(48, 160, generator=generator)
    labels = torch.arange(480) % 48 * 2
    features = [5 + 7 * (centres[labels // 2] + torch.randn(480, 160, generator=generator)) for _ in range(2)]
    probe = zero_shot.fit_probe(features[0].clone(), labels)
    assert (probe(features[1]).argmax(1) == labels).double().mean() > 0.95
    assert torch.equal(probe(features[1])[:7], probe(features[1][:7]))  # no batch decides for another


def test_claims_in_two_steps(run, tmp_path, monkeypatch):
    _, _, folder = run
    names = ("A second round (RandAR, Table 5)", "Annealing (RAR, its ablation)")
    monkeypatch.setattr(claims, "CLAIMS", {name: claims.CLAIMS[name][-1:] for name in names})
    config = claims.ClaimsConfig(
        tokens=str(folder / "tokens"), tokenizer=str(folder / "tokenizer"), dataset=str(folder / "images"),
        classifier=str(folder / "classifier"), output_dir=str(tmp_path), max_steps=2, batch_size=4,
        num_images=3, num_probed=8,
    )  # fmt: skip
    results = claims.measure_claims(config)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert {path.name for path in tmp_path.glob("*-0")} == {"randar-0", "rar-annealed-0"}
    assert (tmp_path / "table.md").read_text().count("\n| ") == 2 + 2
    stays = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert claims.measure_claims(config) == results
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == stays


def test_claims_on_a_finished_model_need_no_other():
    config = claims.ClaimsConfig(tokens="t", tokenizer="z", dataset="d", classifier="c", output_dir="o", model="m")
    rows = claims.chosen_rows(config)
    assert {row.model for _, row in rows} == {"randar"} and len(rows) == 10 + 5 + 2 + 2
    assert {claims.trained_pipeline(config, row.model, 0).name for _, row in rows} == {"m"}
    everything = claims.chosen_rows(dataclasses.replace(config, model=None))
    assert len(everything) == sum(len(rows) for rows in claims.CLAIMS.values()) > len(rows)


def test_models_of_the_claims_differ_in_what_they_are_named_after():
    config = claims.ClaimsConfig(tokens="t", tokenizer="z", dataset="d", classifier="c", output_dir="o", max_steps=100)
    settings = {name: dataclasses.asdict(claims.training_config(config, name, 0)) for name in claims.MODELS}

    def differing(name, base):
        return {key for key in settings[name] if settings[name][key] != settings[base][key]} - {"output_dir"}

    assert differing("dense", "randar") == differing("merge", "randar") == {"position_instruction"}
    assert differing("raster", "randar") == {"order"}
    assert differing("larger", "randar") == set(claims.LARGE)
    annealing = {name: claims.training_config(config, name, 0).annealing for name in settings if "rar-" in name}
    assert annealing == {
        "rar-raster": Annealing("raster"),
        "rar-random": Annealing("raster", 100, 100),
        "rar-annealed": Annealing("raster", 50, 75),
    }


def test_what_disagrees_with_a_paper_is_told_first():
    claim = "Annealing (RAR, its ablation)"
    distances = {"raster order": 5.0, "random orders": 4.0, "annealed": 4.5}
    results = {
        claim: {name: {"0": {"frechet_distance": value, "object_accuracy": 0.5}} for name, value in distances.items()}
    }
    told = claims.make_table(results).splitlines()
    assert told[2] == f"- {claim}: 1 of 3 pairs are the other way round; best here is random orders, there annealed."
    assert told[6] == f"| {claim} | raster order | 5.00 | 50.0% |  | 3.08 FID |"
    second = results[claim]["annealed"] | {"1": {"frechet_distance": 2.5, "object_accuracy": 0.7}}
    results[claim]["annealed"] = second
    told = claims.make_table(results)
    assert "nothing that was measured" in told
    assert f"| {claim} | annealed | 3.50 ± 1.41 | 60.0% ± 14.1% |  | 2.18 FID |" in told
    assert claims.quality(second) == pytest.approx(3.5)
    with pytest.raises(ValueError, match=r"`seeds` must be one or more, each at least 0, got \[\]"):
        claims.ClaimsConfig(tokens="t", tokenizer="z", dataset="d", classifier="c", output_dir="o", seeds=[])
