"""Training, checkpoints and resuming."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from randar_hf import RandARForCausalLM
from randar_hf.training import TrainingConfig, train


def read_metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def same_weights(first, second) -> bool:
    first, second = load_file(Path(first) / "model.safetensors"), load_file(Path(second) / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_run_writes_model_checkpoints_metrics_and_previews(training_settings, tokenizer_folder):
    config = TrainingConfig(**training_settings, tokenizer=str(tokenizer_folder), validation_split="validation")
    folder = train(config)
    model = RandARForCausalLM.from_pretrained(folder)
    assert model.config.grid == (4, 4) and model.config.vocab_size == 16 and model.config.num_classes == 2
    assert model.config.id2label == {0: "across", 1: "down"}
    assert model.generation_config.num_inference_steps == 6  # 88 of 256, scaled to 16 tokens
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-6"}
    assert (folder / "previews" / "step-6.png").is_file()
    assert "validation_loss" in read_metrics(folder)[-1]


def test_old_checkpoints_go_beyond_the_limit(training_settings):
    folder = train(TrainingConfig(**{**training_settings, "checkpointing_steps": 2}, checkpoints_total_limit=2))
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-6"}


@pytest.mark.parametrize("accumulation", [1, 3])
def test_resumed_run_equals_undisturbed_run_bit_for_bit(training_settings, tmp_path, accumulation):
    # 4 batches an epoch: the checkpoint of step 3 lies inside an epoch.
    training_settings["gradient_accumulation_steps"] = accumulation
    whole = train(TrainingConfig(**training_settings))
    half = tmp_path / "half"
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoint-6")
    (half / "model.safetensors").unlink()
    train(TrainingConfig(**{**training_settings, "output_dir": str(half)}, resume="latest"))
    assert same_weights(whole, half)
    losses = [row["loss"] for row in read_metrics(half) if "loss" in row]
    assert losses[-3:] == losses[3:6]


def test_resume_takes_a_path_and_the_name_of_a_checkpoint(training_settings, tmp_path):
    whole = train(TrainingConfig(**training_settings))
    before = load_file(whole / "model.safetensors")
    for resume in (str(whole / "checkpoint-3"), "checkpoint-3"):
        train(TrainingConfig(**training_settings, resume=resume))
        after = load_file(whole / "model.safetensors")
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_accumulated_steps_equal_one_large_batch(training_settings, tmp_path):
    for name in ("class_dropout", "token_dropout", "residual_dropout", "mlp_dropout"):
        training_settings[name] = 0.0
    training_settings |= {"position_instruction": "none", "max_steps": 2}  # raster order: nothing is drawn
    large = train(TrainingConfig(**{**training_settings, "batch_size": 16}))
    small = train(
        TrainingConfig(
            **{**training_settings, "output_dir": str(tmp_path / "small"), "batch_size": 4},
            gradient_accumulation_steps=4,
        )
    )
    large, small = load_file(large / "model.safetensors"), load_file(small / "model.safetensors")
    for name in large:
        torch.testing.assert_close(large[name], small[name], atol=1e-5, rtol=1e-4)


def test_validation_loss_is_the_same_whatever_the_batch_size(training_settings, tmp_path):
    training_settings |= {"max_steps": 1, "learning_rate": 1e-12, "validation_split": "validation"}
    losses = []
    for batch_size in (4, 5, 4):
        folder = tmp_path / f"run-{len(losses)}"
        train(TrainingConfig(**{**training_settings, "output_dir": str(folder), "batch_size": batch_size}))
        losses.append(read_metrics(folder)[-1]["validation_loss"])
    assert losses[0] == losses[2]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_loss_falls(training_settings):
    settings = {**training_settings, "max_steps": 60, "checkpointing_steps": 60, "validation_split": "validation"}
    rows = read_metrics(train(TrainingConfig(**settings)))
    losses = [row["loss"] for row in rows if "loss" in row]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_learning_rate_counts_optimizer_steps(training_settings):
    training_settings |= {"gradient_accumulation_steps": 2, "lr_schedule": "linear"}
    rows = read_metrics(train(TrainingConfig(**training_settings)))
    rates = [row["learning_rate"] for row in rows]
    assert rates == pytest.approx([5e-3, 1e-2, 7.5e-3, 5e-3, 2.5e-3, 0.0])


def test_mixed_precision_and_tensorboard(training_settings):
    folder = train(TrainingConfig(**training_settings, mixed_precision="bf16", report_to="tensorboard"))
    assert list(folder.rglob("events.out.tfevents.*"))


def test_another_run_is_not_overwritten_unless_asked(training_settings):
    folder = train(TrainingConfig(**training_settings))
    before = (folder / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match="`output_dir`: .*holds another run"):
        train(TrainingConfig(**training_settings))
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    train(TrainingConfig(**training_settings, overwrite=True))
    assert (folder / "model.safetensors").stat().st_mtime_ns != before


def test_foreign_files_are_never_deleted(training_settings):
    folder = Path(training_settings["output_dir"])
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="`output_dir`: .*holds other files"):
        train(TrainingConfig(**training_settings, overwrite=True))
    assert (folder / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "trainer_state.json"])
def test_checkpoint_cut_in_half_is_named_and_nothing_is_lost(training_settings, name):
    folder = train(TrainingConfig(**training_settings))
    file = folder / "checkpoint-6" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=f"`resume`: .*{name}"):
        train(TrainingConfig(**training_settings, resume="latest"))
    assert sorted(folder.rglob("*")) == before


def test_resuming_nothing_is_an_error(training_settings):
    with pytest.raises(ValueError, match="`resume`: there is no checkpoint"):
        train(TrainingConfig(**training_settings, resume="latest"))
    with pytest.raises(ValueError, match="`resume`: there is no checkpoint 'elsewhere'"):
        train(TrainingConfig(**training_settings, resume="elsewhere"))


def test_missing_data_column_and_split_are_named(training_settings, tmp_path):
    missing = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="`dataset`: .*nowhere"):
        train(TrainingConfig(**{**training_settings, "dataset": missing}))
    with pytest.raises(ValueError, match="`token_column`: there is no column 'codes'; the columns are tokens, label"):
        train(TrainingConfig(**training_settings, token_column="codes"))
    with pytest.raises(ValueError, match="`label_column`: there is no column 'class'"):
        train(TrainingConfig(**training_settings, label_column="class"))
    with pytest.raises(ValueError, match="`dataset`: .*'test'"):
        train(TrainingConfig(**training_settings, validation_split="test"))
    assert not Path(training_settings["output_dir"]).exists()


def test_tokens_of_another_tokenizer_are_refused(training_settings, tokenizer_folder, tmp_path):
    from diffusers import VQModel

    other = VQModel.from_pretrained(tokenizer_folder)
    other.quantize.embedding.weight.data += 1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="`tokenizer`: the tokens were made by the tokenizer"):
        train(TrainingConfig(**training_settings, tokenizer=str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_steps", 0),
        ("warmup_steps", -5),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("lr_schedule", "step"),
        ("mixed_precision", "int4"),
    ],
)
def test_settings_out_of_range_are_named(training_settings, setting, value):
    with pytest.raises(ValueError, match=f"`{setting}`: "):
        TrainingConfig(**{**training_settings, setting: value})


def test_batch_larger_than_the_data_is_named(training_settings):
    with pytest.raises(ValueError, match="`batch_size`: 100 was given"):
        train(TrainingConfig(**{**training_settings, "batch_size": 100}))
