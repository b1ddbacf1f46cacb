"""Training, checkpoints and resuming."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from randar_hf import RandARForCausalLM
from randar_hf.training import TrainingConfig, train
from randar_hf.training.curves import save_curves
from randar_hf.training.trainer import Trainer


def test_run_writes_model_checkpoints_metrics_previews_and_report(
    training_settings, tokenizer_folder, read_metrics, capsys, curves
):
    config = TrainingConfig(**training_settings, tokenizer=str(tokenizer_folder), validation_split="validation")
    folder = train(config)
    model = RandARForCausalLM.from_pretrained(folder)
    assert model.config.grid == (4, 4) and model.config.vocab_size == 16 and model.config.num_classes == 2
    assert model.config.id2label == {0: "across", 1: "down"}
    assert model.generation_config.num_inference_steps == 6  # 88 of 256, scaled to 16 tokens
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-6"}
    assert (folder / "previews" / "step-6.png").is_file()
    rows = read_metrics(folder)
    assert [row["epoch"] for row in rows if "loss" in row] == [0, 0, 0, 0, 1, 1]  # of four batches each
    loss = rows[-1]["validation_loss"]
    assert (folder / "validation.png").is_file()
    said = f"Validation loss of {loss:.3f} nats per token after 6 steps, the best of the run."
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("RandARPipeline with ") and said in last
    assert last.endswith(f"Next: randar-hf generate across --model {folder / 'pipeline'}")
    for readme in (folder / "README.md", folder / "pipeline" / "README.md"):
        assert said in readme.read_text()
    assert "![step-6](previews/step-6.png)" in (folder / "README.md").read_text()


def test_curves_are_of_what_is_finite_and_of_whole_lines(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n{"step": 2, "lo')
    save_curves(tmp_path)
    assert not (tmp_path / "validation.png").exists()  # there is nothing to draw
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n{"step": 2, "loss": 1.5}\n')
    save_curves(tmp_path)
    assert Image.open(tmp_path / "validation.png").size == (640, 400)


@pytest.mark.parametrize("settings", [{"gradient_accumulation_steps": 3, "ema_decay": 0.9}, {"optimizer": "muon"}])
def test_resumed_run_equals_undisturbed_run_bit_for_bit(
    training_settings, tmp_path, settings, same_weights, read_metrics
):
    # 4 batches an epoch: the checkpoint of step 3 lies inside an epoch.
    training_settings |= settings
    whole = train(TrainingConfig(**training_settings))
    half = tmp_path / "half"
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoint-6")
    (half / "model.safetensors").unlink()
    train(TrainingConfig(**{**training_settings, "output_dir": str(half)}, resume="latest"))
    assert same_weights(whole, half)
    losses = [row["loss"] for row in read_metrics(half) if "loss" in row]
    assert losses[-3:] == losses[3:6]


def test_resume_takes_a_path_and_the_name_of_a_checkpoint(finished, finished_run, training_settings, same_weights):
    for resume in (str(finished_run / "checkpoint-3"), "checkpoint-3"):
        (finished_run / "model.safetensors").unlink()
        assert same_weights(train(TrainingConfig(**training_settings, resume=resume)), finished)


def test_accumulated_steps_equal_one_large_batch(training_settings, tmp_path):
    for name in ("class_dropout", "token_dropout", "residual_dropout", "mlp_dropout"):
        training_settings[name] = 0.0
    training_settings |= {"position_instruction": "none", "max_steps": 2}  # raster order: nothing is sampled
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


def test_validation_loss_is_the_same_whatever_the_batch_size(training_settings, tmp_path, read_metrics):
    training_settings |= {"max_steps": 1, "warmup_steps": 0, "learning_rate": 1e-12, "validation_split": "validation"}
    losses = []
    for batch_size in (4, 5, 4):
        folder = tmp_path / f"run-{len(losses)}"
        train(TrainingConfig(**{**training_settings, "output_dir": str(folder), "batch_size": batch_size}))
        losses.append(read_metrics(folder)[-1]["validation_loss"])
    assert losses[0] == losses[2]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_learning_rate_counts_optimizer_steps(training_settings, read_metrics):
    training_settings |= {"gradient_accumulation_steps": 2, "lr_schedule": "linear"}
    rows = read_metrics(train(TrainingConfig(**training_settings)))
    rates = [row["learning_rate"] for row in rows]
    assert rates == pytest.approx([5e-3, 1e-2, 7.5e-3, 5e-3, 2.5e-3, 0.0])


def test_mixed_precision_and_tensorboard(training_settings, tokenizer_folder):
    shown = {"tokenizer": str(tokenizer_folder), "report_to": "tensorboard"}
    folder = train(TrainingConfig(**training_settings, **shown, mixed_precision="bf16"))
    (events,) = [path for path in folder.rglob("events.out.tfevents.*") if b"previews" in path.read_bytes()]
    images = EventAccumulator(str(events), {"images": 0}).Reload().Images("previews")
    assert [(image.step, image.width, image.height) for image in images] == [(6, 2 * 16, 4 * 16)]


def test_another_run_is_not_overwritten_unless_asked(finished_run, training_settings):
    folder = finished_run
    before = (folder / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match="`output_dir` must hold no other run"):
        train(TrainingConfig(**training_settings))
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    train(TrainingConfig(**training_settings, overwrite=True))
    assert (folder / "model.safetensors").stat().st_mtime_ns != before


def test_foreign_files_are_never_deleted(training_settings):
    folder = Path(training_settings["output_dir"])
    folder.mkdir()
    for name in ("thesis.txt", ".DS_Store", "train.log"):
        (folder / name).write_text("years of work")
    (folder / "latest").symlink_to("nowhere")
    for overwrite in (False, True):
        train(TrainingConfig(**training_settings, overwrite=overwrite))
        assert (folder / "latest").is_symlink()
        for name in ("thesis.txt", ".DS_Store", "train.log"):
            assert (folder / name).read_text() == "years of work"
    other = folder.with_name("other")
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="`output_dir` must hold no other files of runs, got .* with config.json"):
        train(TrainingConfig(**{**training_settings, "output_dir": str(other)}, overwrite=True))
    assert [path.name for path in other.iterdir() if path.name != ".lock"] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("model.safetensors", r"\d+ of \d+ bytes are there"), ("trainer_state.json", "(Unterminated|Expecting)")],
)
def test_checkpoint_cut_in_half_is_named_and_nothing_is_lost(finished_run, training_settings, name, reason):
    file = finished_run / "checkpoint-6" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = sorted(finished_run.rglob("*"))
    with pytest.raises(ValueError, match=f"`resume` must be a whole checkpoint, got a damaged .*{name}': {reason}"):
        train(TrainingConfig(**training_settings, resume="checkpoint-6"))
    assert sorted(finished_run.rglob("*")) == before


def test_latest_passes_over_broken_checkpoints_with_a_warning(finished, finished_run, training_settings, same_weights):
    folder = finished_run
    (folder / "checkpoint-6" / "optimizer.bin").write_bytes(b"")
    (folder / "model.safetensors").unlink()
    with pytest.warns(
        UserWarning, match="got a damaged .*checkpoint-6/optimizer.bin': .* the checkpoint before it is taken"
    ):
        train(TrainingConfig(**training_settings, resume="latest"))
    assert same_weights(folder, finished)
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-6"}
    for checkpoint in folder.glob("checkpoint-*"):
        (checkpoint / "trainer_state.json").unlink()
    with (
        pytest.warns(UserWarning, match="checkpoint-6/"),
        pytest.raises(
            ValueError,
            match="`resume` must be .*, got a damaged .*checkpoint-3/trainer_state.json': .*No such file",
        ),
    ):
        train(TrainingConfig(**training_settings, resume="latest"))


def test_a_run_resumed_from_an_early_checkpoint_keeps_what_it_writes(training_settings, monkeypatch):
    training_settings |= {"checkpointing_steps": 1, "checkpoints_total_limit": 3}
    folder = train(TrainingConfig(**training_settings))
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-5", "checkpoint-6"}
    save, kept = Trainer.save, []

    def watch(self):
        save(self)
        kept.append(sorted(path.name for path in folder.glob("checkpoint-*")))

    monkeypatch.setattr(Trainer, "save", watch)
    train(TrainingConfig(**{**training_settings, "checkpoints_total_limit": 1}, resume="checkpoint-4"))
    assert kept == [["checkpoint-5", "checkpoint-6"], ["checkpoint-6"]]


def test_leftovers_of_killed_runs_go_with_the_next_checkpoint(training_settings):
    folder = train(TrainingConfig(**{**training_settings, "lr_schedule": "constant"}))
    (folder / ".checkpoint-5.partial").mkdir()
    (folder / ".checkpoint-5.partial" / "model.safetensors").write_bytes(b"half")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    train(TrainingConfig(**{**training_settings, "lr_schedule": "constant", "max_steps": 7}, resume="latest"))
    assert not list(folder.glob(".checkpoint*"))
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_another_recipe_is_refused_with_all_that_differs(finished_run, training_settings):
    before = {path: path.stat().st_mtime_ns for path in sorted(finished_run.rglob("*"))}
    other = {**training_settings, "seed": 1, "learning_rate": 0.5, "max_steps": 7, "hidden_size": 32}
    with pytest.raises(ValueError, match="as in '.*checkpoint-3', to resume") as error:
        train(TrainingConfig(**other, resume="checkpoint-3"))
    for part in (
        "`seed` must be 0, got 1",
        "`learning_rate` must be 0.01, got 0.5",
        "`max_steps` must be 6, got 7",
        "`hidden_size` must be 16, got 32",
    ):
        assert part in str(error.value)
    assert str(error.value).count(", got ") == 4
    assert {path: path.stat().st_mtime_ns for path in sorted(finished_run.rglob("*"))} == before


def test_the_length_may_change_while_the_learning_rate_is_constant(training_settings, tmp_path, same_weights):
    settings = {**training_settings, "lr_schedule": "constant_linear"}
    folder = train(TrainingConfig(**settings, decay_start=4))
    longer = {**settings, "max_steps": 8}
    with pytest.raises(ValueError, match="`max_steps` must be 6, got 8; `decay_start` must be 4, got 6: as in"):
        train(TrainingConfig(**longer, resume="latest"))
    train(TrainingConfig(**longer, resume="checkpoint-3"))
    whole = train(TrainingConfig(**{**longer, "output_dir": str(tmp_path / "whole")}))
    assert same_weights(folder, whole)


def test_settings_that_change_nothing_may_differ(
    finished, finished_run, training_settings, tokenizer_folder, same_weights
):
    settings = {
        **training_settings,
        "tokenizer": str(tokenizer_folder),
        "validation_split": "validation",
        "logging_steps": 2,
        "validation_steps": 1,
        "checkpointing_steps": 2,
        "checkpoints_total_limit": 1,
        "num_workers": 1,
        "class_dropout": 0.1,  # the default
    }
    (finished_run / "model.safetensors").unlink()
    assert same_weights(train(TrainingConfig(**settings, resume="checkpoint-3")), finished)


def test_resuming_nothing_is_an_error(training_settings, finished):
    with pytest.raises(ValueError, match="`output_dir` must hold the run to resume, got .*run'"):
        train(TrainingConfig(**training_settings, resume="latest"))
    assert not Path(training_settings["output_dir"]).exists()
    with pytest.raises(ValueError, match="`resume` must be latest or a checkpoint, got 'elsewhere'"):
        train(TrainingConfig(**training_settings | {"output_dir": str(finished)}, resume="elsewhere"))


def test_missing_data_column_and_split_are_named(training_settings, tmp_path):
    missing = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="`dataset` must be .*nowhere"):
        train(TrainingConfig(**{**training_settings, "dataset": missing}))
    with pytest.raises(ValueError, match="`token_column` must be one of tokens, label, got 'codes'"):
        train(TrainingConfig(**training_settings, token_column="codes"))
    with pytest.raises(ValueError, match="`label_column` must be one of tokens, label, got 'class'"):
        train(TrainingConfig(**training_settings, label_column="class"))
    with pytest.raises(ValueError, match="`dataset` must be .*'test'"):
        train(TrainingConfig(**training_settings, validation_split="test"))
    assert not Path(training_settings["output_dir"]).exists()


def test_tokens_of_another_tokenizer_are_refused(training_settings, tokenizer_folder, tmp_path):
    from diffusers import VQModel

    other = VQModel.from_pretrained(tokenizer_folder)
    other.quantize.embedding.weight.data += 1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="`tokenizer` must be the one that made the tokens"):
        train(TrainingConfig(**training_settings, tokenizer=str(tmp_path / "other")))


def test_batch_larger_than_the_data_is_named(training_settings):
    with pytest.raises(ValueError, match="`batch_size` must be at most .*, got 100"):
        train(TrainingConfig(**{**training_settings, "batch_size": 100}))
