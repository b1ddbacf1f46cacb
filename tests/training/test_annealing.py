"""The orders of training: what is sampled, what is trained, and what a resumed run must keep."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from randar_hf import RandARForCausalLM, RARConfig, RARForCausalLM
from randar_hf.orders import FIXED_ORDER_NAMES, make_order
from randar_hf.pipelines import RARPipeline
from randar_hf.training import TrainingConfig, train
from randar_hf.training.annealing import Annealing
from randar_hf.training.optimization import make_optimizer
from randar_hf.training.randomness import key_seed, sample_orders


RASTER = torch.arange(16)
# Twelve steps: permuted images alone up to step 3, none from step 9 on.
RAMP = {"model_type": "rar", "annealing_start": 3, "annealing_end": 9, "max_steps": 12}
CURVE = [1, 1, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0, 0]


@pytest.fixture
def settings(training_settings):
    return {**training_settings, "num_attention_heads": 4, "checkpointing_steps": 100}


def is_permuted(orders: torch.Tensor) -> torch.Tensor:
    return (orders != RASTER).any(dim=1)


def test_the_fraction_falls_from_start_to_end():
    annealing = Annealing("raster", 10, 20)
    fractions = [annealing.random_ratio(step) for step in (0, 9, 10, 11, 15, 19, 20, 21, 1000)]
    assert fractions == pytest.approx([1, 1, 1, 0.9, 0.5, 0.1, 0, 0, 0], abs=1e-12)
    assert [Annealing("raster", 5, 5).random_ratio(step) for step in (0, 4, 5, 6)] == [1, 1, 0, 0]
    assert [Annealing("raster").random_ratio(step) for step in (0, 1000)] == [0, 0]
    assert [Annealing("random").random_ratio(step) for step in (0, 1000)] == [1, 1]


def choose_orders(annealing: Annealing, step: int, generators: list[torch.Generator]) -> torch.Tensor:
    orders = sample_orders(annealing.order, 4, 4, generators)
    chances = torch.stack([torch.rand((), generator=generator) for generator in generators])
    return annealing.choose_orders(step, orders, chances)


def make_generators(count: int, *key: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(key_seed(*key, index)) for index in range(count)]


@pytest.mark.parametrize(("step", "fraction"), [(0, 1.0), (25, 0.75), (90, 0.1), (100, 0.0)])
def test_the_fraction_of_permuted_images_is_the_ratio(step, fraction):
    orders = choose_orders(Annealing("raster", 0, 100), step, make_generators(4000, step))
    assert orders.sort(dim=1).values.equal(RASTER.expand(4000, -1))
    deviation = (fraction * (1 - fraction) / 4000) ** 0.5
    assert abs(is_permuted(orders).double().mean().item() - fraction) <= 4 * deviation


def test_without_a_choice_the_orders_are_those_of_make_order():
    for annealing, step, name in (
        (Annealing("raster", 5, 10), 4, "random"),
        (Annealing("alternate", 5, 10), 10, "alternate"),
        *((Annealing(name), 0, name) for name in ("random", *FIXED_ORDER_NAMES)),
    ):
        sampled = choose_orders(annealing, step, make_generators(6))
        assert sampled.equal(make_order(name, 4, 4, 6, make_generators(6)))
    hierarchical = choose_orders(Annealing("hierarchical", 5, 10), 10, make_generators(6))
    assert (hierarchical[:, :4].sort(dim=1).values == torch.tensor([0, 2, 8, 10])).all()


def test_the_model_is_trained_in_the_sampled_orders(settings, monkeypatch):
    seen = []
    forward = RARForCausalLM.forward

    def watch(self, *args, order, **kwargs):
        seen.append(order)
        return forward(self, *args, order=order, **kwargs)

    monkeypatch.setattr(RARForCausalLM, "forward", watch)
    train(TrainingConfig(**{**settings, **RAMP, "batch_size": 16}))
    fractions = [is_permuted(order).double().mean().item() for order in seen]
    assert fractions[:4] == [1] * 4 and fractions[9:] == [0] * 3
    assert all(0 < fraction < 1 for fraction in fractions[5:8])
    assert sum(fractions[4:9]) == pytest.approx(sum(CURVE[4:9]), abs=0.7)


def test_run_resumed_on_the_ramp_equals_undisturbed_run_bit_for_bit(settings, tmp_path, same_weights, read_metrics):
    settings |= {**RAMP, "gradient_accumulation_steps": 3, "checkpointing_steps": 6}
    whole = train(TrainingConfig(**settings))
    half = tmp_path / "half"
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoint-12")
    (half / "model.safetensors").unlink()
    train(TrainingConfig(**{**settings, "output_dir": str(half)}, resume="latest"))
    assert same_weights(whole, half)
    assert read_metrics(half) == read_metrics(whole)
    assert [row["random_ratio"] for row in read_metrics(whole)] == pytest.approx(CURVE)
    before = {path: path.stat().st_mtime_ns for path in sorted(whole.rglob("*"))}
    for field, change, stored in (
        ("annealing_start", {"annealing_start": 4}, 3),
        ("annealing_end", {"annealing_end": 10}, 9),
        ("order", {"order": "z_curve"}, "'raster'"),
        ("model_type", {"model_type": "randar", "order": "raster"}, "'rar'"),
    ):
        with pytest.raises(ValueError, match=f"`{field}` must be {stored}, got .* as in .*checkpoint-12"):
            train(TrainingConfig(**{**settings, **change}, resume="latest"))
    assert {path: path.stat().st_mtime_ns for path in sorted(whole.rglob("*"))} == before


def test_older_runs_count_as_trained_without_annealing(settings, read_metrics):
    settings["lr_schedule"] = "constant"
    folder = train(TrainingConfig(**settings))
    file = folder / "run.json"
    run = json.loads(file.read_text())
    for name in ("model_type", "order", "annealing_start", "annealing_end", "ema_decay", "decay_start", "compile"):
        del run["config"][name]
    del run["num_processes"]
    run["config"] |= {"class_dropout": 0.1, "position_instruction": "rope"}  # defaults were written out
    file.write_text(json.dumps(run))
    with pytest.raises(ValueError, match="`order` must be 'random', got 'raster'"):
        train(TrainingConfig(**settings, order="raster", resume="latest"))
    train(TrainingConfig(**{**settings, "max_steps": 7}, resume="latest"))
    assert read_metrics(folder)[-1]["step"] == 7


@pytest.mark.parametrize(
    ("model_type", "order"), [("rar", "z_curve"), ("rar", "random"), ("randar", "hierarchical"), ("randar", "random")]
)
def test_training_validation_and_generation_are_in_one_order(settings, read_metrics, monkeypatch, model_type, order):
    model_class = {"randar": RandARForCausalLM, "rar": RARForCausalLM}[model_type]
    forward, validated = model_class.forward, []

    def watch(self, *args, order, **kwargs):
        validated.extend([] if self.training else order)
        return forward(self, *args, order=order, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(model_class, "forward", watch)
        settings |= {"max_steps": 2, "warmup_steps": 0, "validation_split": "validation"}
        folder = train(TrainingConfig(**settings, model_type=model_type, order=order))
    rows = read_metrics(folder)
    assert rows[-1]["validation_loss"] < 5
    assert ("random_ratio" in rows[0]) == ((model_type, order) == ("rar", "z_curve"))  # the only one that is annealed
    orders = torch.stack(validated)  # (6, N)
    same = make_order(order, 4, 4, 6, torch.Generator().manual_seed(0))  # each image has its own, as ever
    assert orders.equal(same) and (is_permuted(orders).all() or order != "random")
    model = model_class.from_pretrained(folder)
    assert model.generation_config.order == order
    assert model.generate([0]).shape == (1, 16)
    assert model_type == "randar" or model.config.scan_order == order


@pytest.mark.parametrize(("start", "end", "ratio"), [(0, 6, 0.5), (None, None, 0.0)])
def test_the_trained_model_says_how_far_it_is_annealed(settings, tokenizer_folder, start, end, ratio):
    settings |= {"max_steps": 4, "annealing_start": start, "annealing_end": end, "tokenizer": str(tokenizer_folder)}
    folder = train(TrainingConfig(**settings, model_type="rar"))
    assert RARForCausalLM.from_pretrained(folder).config.random_ratio == pytest.approx(ratio)
    pipeline = RARPipeline.from_pretrained(folder / "pipeline")
    assert pipeline.transformer.config.random_ratio == pytest.approx(ratio)
    assert pipeline("across", generator=torch.Generator().manual_seed(0)).images[0].size == (16, 16)
    assert (folder / "previews" / "step-4.png").is_file()
    if ratio:
        with pytest.raises(ValueError, match="annealing has ended"):
            pipeline.transformer.merge_positions()
    else:
        assert pipeline.transformer.merge_positions().config.merged_positions


def test_randar_can_be_annealed_and_stores_its_order(settings, read_metrics):
    settings |= {"order": "spiral_in", "annealing_start": 1, "annealing_end": 5}
    folder = train(TrainingConfig(**settings))
    generation = RandARForCausalLM.from_pretrained(folder).generation_config
    assert generation.order == "spiral_in" and generation.num_inference_steps == 16
    assert [row["random_ratio"] for row in read_metrics(folder)] == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0])


def test_embeddings_of_rar_do_not_decay():
    config = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = RARForCausalLM(RARConfig(**config))
    decayed = {id(p) for p in make_optimizer(model, 1e-3, 0.1, decay_embeddings=False).param_groups[0]["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert "lm_head.weight" in names and "model.layers.0.modulation.weight" in names
    assert not any("embed" in name or "norm.weight" in name or name.endswith("bias") for name in names)


def test_defaults_are_the_published_ones():
    paths = {"dataset": "tokens", "output_dir": "model"}
    rar = TrainingConfig(**paths, model_type="rar", max_steps=400)
    assert rar.annealing == Annealing("raster", 200, 300)
    assert TrainingConfig(**paths).annealing == Annealing("random")
    assert TrainingConfig(**paths, position_instruction="none").annealing == Annealing("raster")
    assert TrainingConfig(**paths, order="z_curve").annealing == Annealing("z_curve")
    assert TrainingConfig(**paths, model_type="rar", order="random").annealing == Annealing("random")
    assert not rar.model_fields and not TrainingConfig(**paths).model_fields


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "`model_type` must be one of 'randar', 'rar', got 'llama'"),
        ({"order": "rows"}, "`order` must be one of 'random', .*got 'rows'"),
        ({"annealing_start": 1}, "`annealing_end` must be given, since `annealing_start` is"),
        ({"annealing_end": 1}, "`annealing_start` must be given, since `annealing_end` is"),
        ({"annealing_start": -1, "annealing_end": 3}, "`annealing_start` must be at least 0, got -1"),
        ({"annealing_start": 0, "annealing_end": -3}, "`annealing_end` must be at least 0, got -3"),
        ({"annealing_start": 4, "annealing_end": 3}, "`annealing_end` must be at least `annealing_start`, 4, got 3"),
        ({"token_dropout": 0.1}, "`token_dropout` must be None for .* 'rar', got 0.1"),
        (
            {"model_type": "randar", "annealing_start": 1, "annealing_end": 2},
            "`order` must be one of 'hierarchical', .*got 'random'",
        ),
        (
            {"model_type": "randar", "position_instruction": "none", "order": "z_curve"},
            "`position_instruction` must be .*, got 'none'",
        ),
        (
            {"model_type": "randar", "position_instruction": "none", "annealing_start": 0, "annealing_end": 4},
            "`position_instruction` must be .*, got 'none'",
        ),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, change, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**{**settings, "model_type": "rar", **change})
    assert not Path(settings["output_dir"]).exists()
