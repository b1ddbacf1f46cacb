"""Recipes: those that are shipped say what was published, files of one's own, and the recipe that a run leaves."""

import dataclasses
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from randar_hf import RandARConfig, RARConfig
from randar_hf.cli import main
from randar_hf.training import (
    TokenizingConfig,
    TrainingConfig,
    load_recipe,
    tokenize_images,
    train,
)
from randar_hf.training.icons.data import IMAGE_SIZE
from randar_hf.training.icons.names import class_names
from randar_hf.training.outputs import claim_output_dir
from randar_hf.training.recipe_files import COMMANDS, read_recipe, shipped_recipes
from randar_hf.training.run_settings import recipe_text
from randar_hf.training.throughput import flops_per_image
from randar_hf.training.training_config import model_class


PLACES = {"dataset": "data", "output_dir": "run"}
DENSE, MERGE, NONE = ({"position_instruction": name} for name in ("dense", "merge", "none"))
# Model, its published number of parameters (where one was published), images a step of 8 GPUs, steps.
PUBLISHED = {
    "randar-l-256": (RandARConfig.from_size("L"), 342_912_000, 1024, 360_000),
    "randar-xl-256": (RandARConfig.from_size("XL"), 774_700_800, 1024, 360_000),
    "randar-xxl-256": (RandARConfig.from_size("XXL"), 1_410_974_208, 1024, 360_000),
    "randar-xl-384": (RandARConfig.from_size("XL"), 774_700_800, 1024, 360_000),
    "randar-l-256-raster": (RandARConfig.from_size("L"), 342_912_000, 1024, 360_000),
    "randar-xl-256-dense": (RandARConfig.from_size("XL", **DENSE), None, 1024, 100_000),
    "randar-xl-256-merge": (RandARConfig.from_size("XL", **MERGE), None, 1024, 100_000),
    "llamagen-l-256": (RandARConfig.from_size("L", **NONE), 342_910_976, 256, 300 * (1_281_167 // 256)),
    "rar-b": (RARConfig.from_size("B"), 260_923_648, 2048, 250_000),
    "rar-l": (RARConfig.from_size("L"), 461_668_352, 2048, 250_000),
    "rar-xl": (RARConfig.from_size("XL"), 955_425_024, 2048, 250_000),
    "rar-xxl": (RARConfig.from_size("XXL"), 1_498_520_704, 2048, 250_000),
}
TWINS = {
    f"{name}-paper": name
    for name in ("randar-l-256", "randar-xl-256", "randar-xxl-256", "randar-xl-384", "randar-l-256-raster")
}
PUBLISHED |= {twin: PUBLISHED[name] for twin, name in TWINS.items()}
ICONS = {"vocab_size": 256, "num_classes": len(class_names()), "grid_size": 8}
SMALL = {"cifar10": {"vocab_size": 1024, "num_classes": 10, "grid_size": 8}, "icons": ICONS, "icons-rar": ICONS}


def settings_of(name: str, command: str) -> dict:
    """All settings of a command by a recipe, defaults included."""
    places = PLACES | ({"tokenizer": "tokenizer"} if command == "tokenize" else {})
    config = COMMANDS[command](**load_recipe(name, command), **places)
    return dataclasses.asdict(config)


def differences(first: str, second: str) -> dict:
    """What differs between the trainings of two recipes: (value of the first, value of the second) by name."""
    pairs = {}
    for command in ("tokenize", "train"):
        one, other = settings_of(first, command), settings_of(second, command)
        pairs |= {name: (one[name], other[name]) for name in one if one[name] != other[name]}
    return pairs


def model_config(name: str) -> RandARConfig | RARConfig:
    """The configuration of the model that a recipe trains on its own data."""
    config = TrainingConfig(**load_recipe(name, "train"), **PLACES)
    tokenizing = load_recipe(name, "tokenize")
    shapes = {}
    if name in SMALL:
        shapes = SMALL[name]
    elif tokenizing["image_size"] != 256:
        shapes = {"grid_size": tokenizing["image_size"] // 16}
    return model_class(config.model_type).config_class(**config.model_fields, **shapes)


@cache
def sizes_of_model(name: str) -> tuple[int, float]:
    """Parameters of the model of a recipe, and operations for an image."""
    config = model_config(name)
    with torch.device("meta"):
        model = model_class(config.model_type)(config)
    return model.num_parameters(), flops_per_image(model)


@pytest.fixture
def write(tmp_path):
    """`write(text, name="mine.yaml")` writes a recipe and returns its path."""

    def write(text: str, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_all_that_are_asked_for_are_shipped():
    assert set(shipped_recipes()) == {*PUBLISHED, *SMALL}


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_and_say_what_they_are_for(name):
    recipe = read_recipe(name)
    for label in ("For: ", "Hardware: ", "How long: ", "Should reach"):
        assert re.search(f"^{label}", recipe.about, re.MULTILINE), label
    assert set(recipe.sections) == {"tokenize", "train"} | ({"train-tokenizer"} if name in SMALL else set())
    for command in recipe.sections:
        settings_of(name, command)


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_batches_and_steps_are_the_published_ones(name):
    expected, parameters, batch, steps = PUBLISHED[name]
    if "384" in name:
        expected = RandARConfig.from_size("XL", grid_size=24)
    assert model_config(name).to_dict() == expected.to_dict()
    assert parameters is None or sizes_of_model(name)[0] == parameters
    config = TrainingConfig(**load_recipe(name, "train"), **PLACES)
    assert config.batch_size * config.gradient_accumulation_steps * 8 == batch
    assert config.max_steps == steps
    assert config.mixed_precision == "bf16" and config.ema_decay is None and config.max_grad_norm == 1
    assert config.activation_checkpointing == name.startswith("randar-")


def test_optimizers_are_the_published_ones():
    names = ("learning_rate", "lr_schedule", "warmup_steps", "final_learning_rate", "weight_decay", "adam_beta2")
    trainings = {name: settings_of(name, "train") for name in ("randar-l-256", "rar-b", "llamagen-l-256")}
    assert {recipe: tuple(settings[name] for name in names) for recipe, settings in trainings.items()} == {
        "randar-l-256": (4e-4, "cosine", 50_000, 2e-5, 0.05, 0.95),
        "rar-b": (4e-4, "cosine", 62_500, 1e-5, 0.03, 0.96),
        "llamagen-l-256": (1e-4, "constant", 0, 0, 0.05, 0.95),
    }
    annealing = TrainingConfig(**load_recipe("rar-b", "train"), **PLACES).annealing
    assert (annealing.order, annealing.start, annealing.end) == ("raster", 125_000, 187_500)


@pytest.mark.parametrize(("twin", "name"), TWINS.items())
def test_paper_and_repository_differ_in_crops_and_schedule_alone(twin, name):
    assert differences(name, twin) == {
        "augmentation": ("adm", "ten_crop"),
        "lr_schedule": ("cosine", "constant_linear"),
        "warmup_steps": (50_000, 0),
        "decay_start": (None, 300_000),
        "final_learning_rate": (2e-5, 1e-5),
    }


def test_variants_differ_in_what_they_are_named_after():
    assert differences("randar-l-256", "randar-l-256-raster") == {"order": ("random", "raster")}
    assert differences("randar-xl-256", "randar-xl-384") == {
        "image_size": (256, 384),
        "batch_size": (128, 64),
        "gradient_accumulation_steps": (1, 2),
    }
    assert differences("randar-xl-256-paper", "randar-xl-256-dense") == {
        "position_instruction": ("rope", "dense"),
        "max_steps": (360_000, 100_000),
        "lr_schedule": ("constant_linear", "constant"),
        "decay_start": (300_000, None),
        "final_learning_rate": (1e-5, 0.0),
    }
    assert differences("randar-xl-256-dense", "randar-xl-256-merge") == {"position_instruction": ("dense", "merge")}
    sizes = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    assert set(differences("randar-l-256", "randar-xxl-256")) == sizes
    assert set(differences("rar-b", "rar-xxl")) == sizes - {"num_attention_heads"}


def test_operations_and_hours_that_are_told_are_computed():
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", page, re.MULTILINE))
    assert set(rows) == set(shipped_recipes())
    for name, row in rows.items():
        config = TrainingConfig(**load_recipe(name, "train"), **PLACES)
        batch = config.batch_size * (1 if name in SMALL else config.gradient_accumulation_steps * 8)
        flops = sizes_of_model(name)[1] * batch * config.max_steps
        told = f"{flops:.1e}".replace("e+", "e")
        assert f"| {batch:,} x {config.max_steps:,} | {told} |" in row, name
        about = " ".join(read_recipe(name).about.split())
        if name not in SMALL:
            hours = float(re.search(r"([\d,]+) hours of one H100 if 30%", about)[1].replace(",", ""))
            assert hours == pytest.approx(flops / (0.3 * 989e12) / 3600, rel=0.04)
        if not name.startswith("icons"):
            assert f"{config.max_steps:,} steps" in about and f"{told} FLOP" in about, name


def test_the_icons_are_as_large_as_their_images():
    assert load_recipe("icons", "train-tokenizer")["image_size"] == IMAGE_SIZE


def test_values_have_the_types_of_their_fields(write):
    recipe = write(
        "about: Types.\n"
        "train-tokenizer: {block_out_channels: [8, 16], image_size: 32}\n"
        "train: {learning_rate: 4e-4, ema_decay: 1, compile: true, decay_start: null, mixed_precision: 'no',\n"
        "        resume: null, max_steps: 360_000, train_split: 'train[:90%]'}\n"
    )
    assert load_recipe(recipe, "train-tokenizer") == {"block_out_channels": [8, 16], "image_size": 32}
    settings = load_recipe(recipe, "train")
    assert settings == {
        "learning_rate": 0.0004,
        "ema_decay": 1.0,
        "compile": True,
        "decay_start": None,
        "mixed_precision": "no",
        "resume": None,
        "max_steps": 360_000,
        "train_split": "train[:90%]",
    }
    types = [type(value).__name__ for value in settings.values()]
    assert types == ["float", "float", "bool", "NoneType", "str", "NoneType", "int", "str"]


def test_the_command_line_wins(settings_from, capsys):
    words = ["--dataset", "tokens", "--output-dir", "model"]
    config = settings_from(["train", "--recipe", "randar-xl-256-paper", *words])
    assert config == TrainingConfig(
        **load_recipe("randar-xl-256-paper", "train"), dataset="tokens", output_dir="model"
    )
    changed = ["--max-steps", "7", "--activation-checkpointing", "false", "--hidden-size", "1536", "--lr-schedule"]
    changed += ["constant", "--decay-start", "null", "--final-learning-rate", "0", "--compile"]
    config = settings_from(["train", *words, *changed, "--recipe=randar-xl-256-paper"])
    assert (config.max_steps, config.hidden_size, config.num_hidden_layers) == (7, 1536, 36)
    assert config.activation_checkpointing is False and config.decay_start is None and config.compile is True
    config = settings_from(["train-tokenizer", "--block-out-channels", "8", "8", "--recipe", "cifar10", *words])
    assert config.block_out_channels == [8, 8] and config.image_size == 32
    assert main(["train", *words, "--hidden_size", "8"]) == 2 and "--hidden-size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--compile", "maybe"], "--compile"),
        (["--hidden-size", "wide"], "--hidden-size"),
        (["--max-steps", "1.5"], "--max-steps"),
        (["--learning-rate", "nan"], "learning_rate"),
        (["--dataset", ""], "dataset"),
    ],
)
def test_words_of_other_types_are_one_line(words, named, capsys):
    assert main(["train", "--recipe", "icons", "--dataset", "tokens", "--output-dir", "model", *words]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


def test_a_recipe_may_tell_what_is_required(write, settings_from, capsys):
    recipe = write("about: Mine.\ntrain: {dataset: tokens, output_dir: model}\n")
    assert settings_from(["train", "--recipe", recipe]) == TrainingConfig(dataset="tokens", output_dir="model")
    assert main(["train", "--recipe", "icons", "--dataset", "tokens"]) == 2
    assert "--output-dir" in capsys.readouterr().err


def test_files_are_based_on_others(write, tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    write("about: Base.\nbased_on: icons\ntrain: {max_steps: 5, learning_rate: 1e-3}\n", "base.yaml")
    recipe = write("about: Mine.\nbased_on: ../base.yaml\ntrain: {max_steps: 6, warmup_steps: 0}\n", "below/mine.yaml")
    assert read_recipe(recipe).about == "Mine."
    expected = load_recipe("icons", "train") | {"max_steps": 6, "learning_rate": 1e-3, "warmup_steps": 0}
    assert load_recipe(recipe, "train") == expected
    assert load_recipe(recipe, "train-tokenizer") == load_recipe("icons", "train-tokenizer")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("below/mine.yaml", "train") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "about: Mine.\ntrain: {max_step: 5}",
            "`recipe` must hold settings of `train`, got 'max_step' in .*mine.yaml'",
        ),
        ("about: Mine.\ntrain: {max-steps: 5}", "`recipe` must hold settings of `train`, got 'max-steps'"),
        ("about: Mine.\ntrain: {recipe: icons}", "`recipe` must hold settings of `train`, got 'recipe'"),
        (
            "about: Mine.\ntrain: {max_steps: many}",
            "`max_steps` must be .*, got 'many' in the `recipe` .*mine.yaml'",
        ),
        (
            "about: Mine.\ntrain: {mixed_precision: no}",
            "`mixed_precision` must be a text in quotes, got False",
        ),
        (
            "about: Mine.\ntrian: {max_steps: 5}",
            "`recipe` must hold keys of about, .*, got 'trian' in .*mine.yaml'",
        ),
        ("about: Mine.\ntrain: 5", "`train` of a `recipe` must be a mapping of settings, or .*, got 5"),
        ("about: Mine.\ntrain:", "`train` of a `recipe` must be a mapping of settings, or .*, got None"),
        ("about: Mine.\ntokenize: {}", "`recipe` must have a section 'train', got .*mine.yaml' with tokenize"),
        ("about: Mine.", "`recipe` must have a section 'train', got .* with none"),
        ("about: [1]\ntrain: {}", r"`about` of a `recipe` must be a text, got \[1\]"),
        ("train: {}", "`recipe` must have an `about`"),
        ("- 1", "`recipe` must hold keys of .*, got list"),
        ("", "`recipe` must hold keys of .*, got NoneType"),
        ("about: [1", "`recipe` must be YAML, got .*mine.yaml'"),
        ("about: " + "[" * 1_000, "`recipe` must be YAML, got .*mine.yaml'"),
        ("about: 2026-99-99", "`recipe` must be YAML, got .*mine.yaml'"),
        (
            "about: Mine.\nbased_on: mine.yaml\ntrain: {}",
            "`recipe` must not be based on itself, got .* based on .*mine.yaml",
        ),
        (
            "about: Mine.\nbased_on: nothing\ntrain: {}",
            "`recipe` must be a file or one of cifar10, icons, .*, got 'nothing'",
        ),
        ("about: Mine.\nbased_on: [icons]\ntrain: {}", "`based_on` of a `recipe` must be a text, got "),
    ],
)
def test_wrong_recipes_are_refused_with_one_line(text, message, write, capsys):
    recipe = write(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_recipe(recipe, "train")
    assert "`recipe`" in str(error.value)
    assert main(["train", "--recipe", recipe, "--dataset", "tokens", "--output-dir", "model"]) == 2
    assert re.fullmatch(r"randar-hf train: error: .*`recipe`.*\n", capsys.readouterr().err)


def test_a_loop_of_several_files_is_refused(write):
    recipe = write("about: One.\nbased_on: two.yaml\ntrain: {}\n", "one.yaml")
    write("about: Two.\nbased_on: one.yaml\n", "two.yaml")
    with pytest.raises(ValueError, match=r"itself, got .*one.yaml based on .*two.yaml based on .*one.yaml"):
        load_recipe(recipe, "train")


def test_unknown_names_files_commands_and_binaries_are_named(tmp_path):
    for recipe in ("randar-m", str(tmp_path / "none.yaml"), str(tmp_path)):
        with pytest.raises(
            FileNotFoundError, match=f"`recipe` must be a file or one of cifar10, icons, .*, got '{recipe}'"
        ):
            load_recipe(recipe, "train")
    with pytest.raises(ValueError, match="`command` must be one of 'train-tokenizer', .*, got 'sample'"):
        load_recipe("icons", "sample")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="`recipe` must be YAML, got .*binary'"):
        load_recipe(str(tmp_path / "binary"), "train")


def test_help_tells_recipes_and_what_one_is_for(capsys):
    def help_text(*words):
        assert main(["train", *words, "--help"]) == 0
        return " ".join(capsys.readouterr().out.replace("│", " ").split())

    plain = help_text()
    assert "--recipe NAME|FILE" in plain and all(name in plain for name in shipped_recipes())
    told = help_text("--recipe", "rar-xl")
    assert " ".join(read_recipe("rar-xl").about.split()) in told
    assert "[default: 1280]" in told and "[default: 1280]" not in plain
    assert "RAR-XL" not in help_text()


@pytest.mark.parametrize(
    "change",
    [{"model_type": "rar"}, {"order": "raster", "gradient_accumulation_steps": 2, "ema_decay": 0.5}],
    ids=["rar", "averaged in raster order"],
)
def test_the_recipe_of_a_run_repeats_it_bit_for_bit(change, training_settings, same_weights, tmp_path):
    folder = train(TrainingConfig(**training_settings, **change))
    again = tmp_path / "again"
    assert main(["train", "--recipe", str(folder / "recipe.yaml"), "--output-dir", str(again)]) == 0
    assert same_weights(folder, again)
    assert (again / "recipe.yaml").read_text() == (folder / "recipe.yaml").read_text()


def test_a_setting_beside_the_recipe_of_a_run_makes_another(finished, same_weights, tmp_path):
    other = tmp_path / "other"
    assert main(["train", "--recipe", str(finished / "recipe.yaml"), "--output-dir", str(other), "--seed", "1"]) == 0
    assert not same_weights(finished, other)


def test_the_recipe_of_a_run_has_every_setting_in_effect(training_settings):
    config = TrainingConfig(**training_settings, model_type="rar", push_to_hub="user/name")
    text = recipe_text(config, "train", 3)
    content = yaml.safe_load(text)
    assert "`randar-hf train` by 3 processes" in content["about"] and torch.__version__ in content["about"]
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    assert names - set(content["train"]) == {"output_dir", "push_to_hub", "resume", "overwrite", "dry_run"}
    defaults = RARConfig()
    assert content["train"]["attention_dropout"] == defaults.attention_dropout == 0.1
    assert (content["train"]["order"], content["train"]["annealing_end"]) == ("raster", 4)
    assert content["train"]["batch_size"] == 4
    assert content["train"]["token_dropout"] is None  # a RAR has none


def test_the_recipes_of_tokenizers_and_tokens_repeat_them(image_folder, tokenizer_folder, tmp_path):
    again, recipe = tmp_path / "again", tokenizer_folder / "recipe.yaml"
    assert main(["train-tokenizer", "--recipe", str(recipe), "--output-dir", str(again)]) == 0
    weights = "diffusion_pytorch_model.safetensors"
    assert (tokenizer_folder / weights).read_bytes() == (again / weights).read_bytes()

    tokens = [tmp_path / "tokens", tmp_path / "tokens-again"]
    config = TokenizingConfig(
        dataset=str(image_folder), tokenizer=str(again), output_dir=str(tokens[0]), augmentation="adm"
    )
    tokenize_images(config)
    recipe = tokens[0] / ".train" / "recipe.yaml"
    assert main(["tokenize", "--recipe", str(recipe), "--output-dir", str(tokens[1])]) == 0
    assert pq.read_table(tokens[0] / "train.parquet").equals(pq.read_table(tokens[1] / "train.parquet"))
    tokenize_images(dataclasses.replace(config, augmentation="none", overwrite=True))
    assert load_recipe(str(recipe), "tokenize")["augmentation"] == "none"


def test_overwriting_replaces_the_recipe_and_resuming_keeps_it(finished_run, training_settings):
    recipe = finished_run / "recipe.yaml"
    before = recipe.read_text()
    train(TrainingConfig(**{**training_settings, "logging_steps": 2}, resume="checkpoint-3"))
    assert recipe.read_text() == before
    train(TrainingConfig(**{**training_settings, "logging_steps": 2}, overwrite=True))
    assert load_recipe(str(recipe), "train")["logging_steps"] == 2


def test_only_the_main_process_writes(training_settings, tmp_path):
    config = TrainingConfig(**training_settings)
    process = SimpleNamespace(num_processes=2, is_main_process=False, wait_for_everyone=lambda: None)
    (tmp_path / "run").mkdir()
    claim_output_dir(process, config, "train")
    assert not list((tmp_path / "run").iterdir())
    process.is_main_process = True
    claim_output_dir(process, config, "train")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["recipe.yaml", "run.json"]
