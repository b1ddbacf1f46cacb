"""Training that starts from a pretrained model, with other classes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from randar_hf import RandARForCausalLM, RARForCausalLM
from randar_hf.pipelines import RandARPipeline, RARPipeline, save_with_code
from randar_hf.training import TrainingConfig, train
from randar_hf.training.annealing import Annealing
from randar_hf.training.fine_tuning import follow_pretrained, known_class, read_pretrained
from randar_hf.training.model_building import build_model


OLD_NAMES = {0: "down", 1: "diagonal", 2: "dots"}
NEW_NAMES = {0: "across", 1: "down"}  # those of the tokens, one of which is old
TABLES = {"randar": "model.embed_classes.weight", "rar": "model.embed_tokens.weight"}
STILL = {"learning_rate": 1e-12, "weight_decay": 0.0, "max_steps": 1, "warmup_steps": 0}
CLASSES = {"randar": RandARForCausalLM, "rar": RARForCausalLM}


@pytest.fixture
def pretrain(make_model, make_rar, tmp_path):
    """`pretrain(model_type, **overrides)` saves a model of three classes for the tokens of these tests."""

    def save(model_type: str = "randar", **overrides) -> str:
        fields = {"vocab_size": 16, "num_classes": 3, "id2label": OLD_NAMES, **overrides}
        model = {"randar": make_model, "rar": make_rar}[model_type](**fields)
        model.save_pretrained(tmp_path / f"pretrained-{model_type}")
        return str(tmp_path / f"pretrained-{model_type}")

    return save


@pytest.fixture
def settings(training_settings):
    """Settings of a training whose sizes are those of the pretrained model."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {name: value for name, value in training_settings.items() if name not in sizes}


def tune(settings, folder: str, **more) -> Path:
    return train(TrainingConfig(**{**settings, "pretrained_model": folder, **more}))


@pytest.mark.parametrize("model_type", ["randar", "rar"])
def test_known_classes_and_all_else_are_kept_and_new_classes_are_fresh(settings, pretrain, model_type):
    folder = pretrain(model_type)
    tuned = CLASSES[model_type].from_pretrained(tune(settings, folder, model_type=model_type, seed=5, **STILL))
    assert tuned.config.num_classes == 2 and tuned.config.id2label == NEW_NAMES
    old, new = CLASSES[model_type].from_pretrained(folder).state_dict(), tuned.state_dict()
    torch.manual_seed(5)
    fresh = CLASSES[model_type](tuned.config).state_dict()
    old, new, fresh = ([tensors.pop(TABLES[model_type]), tensors] for tensors in (old, new, fresh))
    assert all((old[1][name] - new[1][name]).abs().max() < 1e-9 for name in old[1])
    classes = [table[-n:] for table, n in ((old[0], 4), (new[0], 3), (fresh[0], 3))]
    expected = torch.stack([classes[2][0], classes[0][0], classes[0][3]])  # across, down, null
    torch.testing.assert_close(classes[1], expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(new[0][:-3], old[0][:-4], atol=1e-9, rtol=0)  # codes of RAR


def test_a_fine_tuned_model_starts_where_the_pretrained_one_ended(training_settings, settings, tmp_path, read_metrics):
    longer = {"max_steps": 20, "checkpointing_steps": 60, "validation_split": "validation"}
    folder = train(TrainingConfig(**{**training_settings, **longer}))
    before = read_metrics(folder)[-1]["validation_loss"]
    settings |= {"validation_split": "validation", "output_dir": str(tmp_path / "tuned")}
    assert read_metrics(tune(settings, str(folder), **STILL))[-1]["validation_loss"] == pytest.approx(before, abs=1e-6)
    settings["output_dir"] = str(tmp_path / "fresh")
    fresh = {**training_settings, **settings, **STILL}
    assert read_metrics(train(TrainingConfig(**fresh)))[-1]["validation_loss"] > before + 0.1


@pytest.mark.parametrize(
    ("model_type", "more"),
    [
        ("randar", {"gradient_accumulation_steps": 2, "lora_rank": 2, "ema_decay": 0.9}),
        ("rar", {"ema_decay": 0.9}),
    ],
)
def test_resumed_run_equals_undisturbed_run_bit_for_bit(
    settings, pretrain, tmp_path, same_weights, read_metrics, model_type, more
):
    folder = pretrain(model_type, residual_dropout=0.1)
    more = {"model_type": model_type, **more}
    whole = tune(settings, folder, **more)
    half = tmp_path / "half"
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoint-6")
    (half / "model.safetensors").unlink()
    Path(folder, "model.safetensors").unlink()  # the weights are those of the checkpoint
    tune({**settings, "output_dir": str(half)}, folder, **more, resume="latest")
    assert same_weights(whole, half)
    assert read_metrics(half) == read_metrics(whole)
    assert (half / "generation_config.json").read_text() == (whole / "generation_config.json").read_text()


def test_a_killed_run_ends_as_an_undisturbed_one(start_training, settings, pretrain, tmp_path, same_weights):
    settings |= {"pretrained_model": pretrain(), "lora_rank": 2, "checkpointing_steps": 1}
    whole = train(TrainingConfig(**{**settings, "output_dir": str(tmp_path / "whole")}))
    for kill_at in (40, None):
        (process,) = start_training(settings, kill_at=kill_at)
        process.join()
        assert process.exitcode == (0 if kill_at is None else -9)
    assert same_weights(whole, settings["output_dir"])


def test_another_start_is_another_recipe(settings, pretrain, tmp_path):
    folder = pretrain()
    tune(settings, folder)
    tune(settings, folder, hidden_size=32, order="random", resume="latest")  # as in the pretrained model
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(ValueError, match=r"`pretrained_model` must be .*other'.*`lora_rank` must be .*, got 2"):
        tune(settings, str(tmp_path / "other"), lora_rank=2, resume="latest")


@pytest.mark.parametrize(("model_type", "with_code"), [("randar", True), ("rar", False)])
def test_a_pipeline_lends_its_transformer_and_class_names(
    settings, make_model, make_rar, make_vqvae, tmp_path, model_type, with_code
):
    model = {"randar": make_model, "rar": make_rar}[model_type](vocab_size=16, num_classes=3)
    pipeline = {"randar": RandARPipeline, "rar": RARPipeline}[model_type]
    pipeline = pipeline(model, make_vqvae(num_vq_embeddings=16), id2label=OLD_NAMES)
    folder = tmp_path / "pipeline"
    save_with_code(pipeline, folder) if with_code else pipeline.save_pretrained(folder)
    tuned = tune(settings, str(folder), model_type=model_type, **STILL)
    table = load_file(tuned / "model.safetensors")[TABLES[model_type]]
    torch.testing.assert_close(table[-2], model.state_dict()[TABLES[model_type]][-4], atol=1e-9, rtol=0)
    assert "auto_map" not in json.loads((tuned / "config.json").read_text())


def test_names_decide_which_classes_are_known():
    names = {0: "tench", 1: "great white shark, white shark", 2: "crane", 3: "crane"}
    known = [known_class(name, names) for name in ("white shark", "tench", "crane", "salmon")]
    assert known == [1, 0, None, None]
    assert known_class("tench", {}) is None


def test_settings_of_generation_stay_but_for_order_and_steps(settings, pretrain):
    folder = pretrain()
    file = Path(folder, "generation_config.json")
    stored = {**json.loads(file.read_text()), "guidance_scale": 2.5, "top_k": 7, "order": "hierarchical"}
    file.write_text(json.dumps(stored))
    generation = RandARForCausalLM.from_pretrained(tune(settings, folder, **STILL)).generation_config
    assert (generation.guidance_scale, generation.top_k) == (2.5, 7)
    assert (generation.order, generation.num_inference_steps) == ("random", 6)
    tuned = tune({**settings, "overwrite": True}, folder, order="spiral_in", **STILL)
    generation = RandARForCausalLM.from_pretrained(tuned).generation_config
    assert (generation.order, generation.num_inference_steps) == ("spiral_in", 16)
    file.unlink()
    tuned = tune({**settings, "overwrite": True}, folder, **STILL)
    assert RandARForCausalLM.from_pretrained(tuned).generation_config.guidance_scale == 4.0


def test_dropouts_may_be_given_all_else_stays_and_training_is_in_full_precision(settings, pretrain):
    folder = pretrain(mlp_dropout=0.3, residual_dropout=0.2, num_key_value_heads=2)
    RandARForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    tuned = RandARForCausalLM.from_pretrained(tune(settings, folder, mlp_dropout=0.0, class_dropout=0.5, **STILL))
    config = tuned.config
    assert (config.mlp_dropout, config.residual_dropout, config.class_dropout) == (0.0, 0.2, 0.5)
    assert config.num_key_value_heads == 2 and {weight.dtype for weight in tuned.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match=r"`mlp_dropout` must lie in \[0, 1\), got 1.5"):
        tune({**settings, "overwrite": True}, folder, mlp_dropout=1.5)


def orders_of(settings, folder: str, **more) -> Annealing:
    config = TrainingConfig(**{**settings, "pretrained_model": folder, **more})
    return follow_pretrained(config, read_pretrained(folder)).annealing


def test_a_pretrained_rar_is_trained_in_its_order_alone(settings, pretrain, read_metrics):
    folder = pretrain("rar", scan_order="z_curve", random_ratio=0.5)
    settings["model_type"] = "rar"
    assert orders_of(settings, folder) == Annealing("z_curve")
    assert orders_of(settings, folder, order="raster") == Annealing("raster")
    assert orders_of(settings, folder, annealing_start=2, annealing_end=4) == Annealing("z_curve", 2, 4)
    tuned = tune(settings, folder)
    config = RARForCausalLM.from_pretrained(tuned).config
    assert (config.scan_order, config.random_ratio) == ("z_curve", 0)
    assert not any("random_ratio" in row for row in read_metrics(tuned))
    annealed = {"annealing_start": 0, "annealing_end": 10, "order": "raster", "overwrite": True}
    config = RARForCausalLM.from_pretrained(tune(settings, folder, **annealed)).config
    assert config.scan_order == "raster" and config.random_ratio == pytest.approx(0.5)


def test_merged_positions_are_trained_in_their_order_alone(settings, pretrain):
    folder = pretrain("rar", scan_order="z_curve")
    RARForCausalLM.from_pretrained(folder).merge_positions().save_pretrained(folder)
    settings["model_type"] = "rar"
    for change in (
        {"order": "raster"},
        {"order": "random"},
        {"annealing_start": 1, "annealing_end": 2},
        {"order": "z_curve", "annealing_start": 0, "annealing_end": 2},
    ):
        with pytest.raises(ValueError, match="`order` must be 'z_curve', without annealing"):
            tune(settings, folder, **change)
    assert not Path(settings["output_dir"]).exists()
    tuned = RARForCausalLM.from_pretrained(tune(settings, folder, annealing_start=0, annealing_end=0))
    assert tuned.config.merged_positions and tuned.config.random_ratio == 0
    assert tuned.generate([0, 1]).shape == (2, 16)


def test_a_model_without_position_instructions_is_trained_in_raster_order(settings, pretrain):
    folder = pretrain(position_instruction="none")
    assert orders_of(settings, folder) == Annealing("raster")
    with pytest.raises(ValueError, match="`order` must be 'raster', without annealing, .* got 'z_curve'"):
        tune(settings, folder, order="z_curve")
    tuned = RandARForCausalLM.from_pretrained(tune(settings, folder))
    assert tuned.config.position_instruction == "none" and tuned.generation_config.order == "raster"


@pytest.mark.parametrize(
    ("overrides", "change", "message"),
    [
        ({}, {"model_type": "rar"}, "`model_type` must be 'randar', that of `pretrained_model`, .*, got 'rar'"),
        (
            {},
            {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "position_instruction": "dense"},
            "`hidden_size` must be 32, got 64; `num_attention_heads` must be 4, got 8; "
            "`position_instruction` must be 'rope', got 'dense': as in `pretrained_model`, ",
        ),
        (
            {"vocab_size": 32},
            {},
            r"`pretrained_model` must be of the tokens' 16 codes .*, got .* of 32 codes on a grid of \(4, 4\)",
        ),
        ({"grid_size": (2, 8)}, {}, r"`pretrained_model` must .* grid of \(4, 4\), got .* grid of \(2, 8\)"),
    ],
)
def test_what_does_not_fit_the_pretrained_model_is_named(settings, pretrain, overrides, change, message):
    with pytest.raises(ValueError, match=message):
        tune(settings, pretrain(**overrides), **change)
    assert not Path(settings["output_dir"]).exists()


def test_a_pretrained_model_that_is_none_is_named(settings, pretrain, tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="`pretrained_model` must be a folder, found none at '.*nowhere'"):
        tune(settings, str(tmp_path / "nowhere"))
    with pytest.raises(
        FileNotFoundError, match="`pretrained_model` must be a model, found none in 'nobody/nothing': "
    ):
        tune(settings, "nobody/nothing")
    with pytest.raises(ValueError, match="`pretrained_model` must be RandAR or RAR, got another one in '.*tokenizer'"):
        tune(settings, str(tokenizer_folder))
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="`pretrained_model` must be of the type 'randar' or 'rar', got 'bert'"):
        tune(settings, str(tmp_path / "bert"))
    folder = pretrain()
    weights = Path(folder, "model.safetensors")
    RandARForCausalLM.from_pretrained(folder).model.save_pretrained(tmp_path / "headless")
    with pytest.raises(
        ValueError, match="`pretrained_model` must have all weights, got '.*headless' without lm_head.weight"
    ):
        tune(settings, str(tmp_path / "headless"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="`pretrained_model` must have whole weights that fit, got others"):
        tune(settings, folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="`pretrained_model` must have weights, found none in "):
        tune(settings, folder)
    assert not Path(settings["output_dir"]).exists()


def test_the_pretrained_model_is_not_overwritten(settings, pretrain):
    folder = pretrain()
    for output_dir in (folder, str(Path(folder).parent)):
        with pytest.raises(ValueError, match="`output_dir` must not hold `pretrained_model`"):
            tune(settings, folder, output_dir=output_dir, overwrite=True)
    assert RandARForCausalLM.from_pretrained(folder)


def test_new_rows_follow_the_seed(settings, pretrain):
    folder = pretrain()
    pretrained = read_pretrained(folder)
    rows = []
    for seed in (1, 1, 2):
        config = TrainingConfig(**settings, pretrained_model=folder, seed=seed)
        rows.append(build_model(config, pretrained.config, pretrained).model.embed_classes.weight)
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])  # all classes are known
    pretrained.id2label.clear()
    rows = [
        build_model(TrainingConfig(**settings, pretrained_model=folder, seed=seed), pretrained.config, pretrained)
        for seed in (1, 1, 2)
    ]
    rows = [model.model.embed_classes.weight for model in rows]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    assert torch.equal(rows[0][-1], rows[2][-1])  # the null class
