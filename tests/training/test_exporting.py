"""The best checkpoint becomes the result, and every checkpoint can be loaded and exported."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import VQModel
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from randar_hf import RandARForCausalLM, cli
from randar_hf.pipelines import RandARPipeline, RARPipeline
from randar_hf.training import TokenizerTrainingConfig, TrainingConfig, export_run, train, train_tokenizer, trainer
from randar_hf.training.tokenizer_training import TokenizerRun
from randar_hf.training.trainer import Trainer


@pytest.fixture
def settings(training_settings, tokenizer_folder, monkeypatch):
    """Six steps, each validated, without previews."""
    monkeypatch.setattr(trainer, "draw_preview", lambda *_: Image.new("RGB", (8, 8)))
    more = {"tokenizer": str(tokenizer_folder), "validation_split": "validation", "validation_steps": 1}
    return {**training_settings, **more}


@pytest.fixture
def losses(monkeypatch):
    """`losses(*values)` makes these the losses of the validations to come."""

    def plan(*values):
        planned = iter(values)
        monkeypatch.setattr(Trainer, "validation_loss", lambda self: next(planned))

    return plan


def weights(folder, name="model.safetensors"):
    return load_file(Path(folder) / name)


def checkpoints(folder):
    return {int(path.name.removeprefix("checkpoint-")) for path in Path(folder).glob("checkpoint-*")}


@pytest.mark.parametrize("kind", [{"ema_decay": 0.5}, {"model_type": "rar", "annealing_start": 0, "annealing_end": 1}])
def test_the_best_checkpoint_is_kept_and_becomes_the_model(settings, losses, kind):
    losses(4.0, 2.0, 3.0, float("nan"), 3.0, 3.0)
    folder = train(TrainingConfig(**settings | {"checkpointing_steps": 1, **kind}))
    assert checkpoints(folder) == {2, 5, 6}
    pipeline = RARPipeline if "model_type" in kind else RandARPipeline
    for step in ("best", "last", "5"):
        export_run(folder, folder.parent / step, step)
        pipeline.from_pretrained(folder.parent / step)
    model, exported = weights(folder), [weights(folder.parent / step / "transformer") for step in ("best", "last")]
    assert_close(exported[0], model, rtol=0, atol=0)
    assert any(not torch.equal(exported[1][name], model[name]) for name in model)
    assert_close(weights(folder / "pipeline" / "transformer"), model, rtol=0, atol=0)


def test_without_keep_best_the_last_step_becomes_the_model(settings, losses, same_weights, tmp_path):
    losses(*range(1, 7), *range(6, 0, -1))
    last = train(TrainingConfig(**settings, keep_best=False))
    falling = train(TrainingConfig(**settings | {"output_dir": str(tmp_path / "falling")}))
    assert same_weights(last, falling) and checkpoints(last) == {3, 6} and checkpoints(falling) == {5, 6}


def test_a_run_ends_when_the_loss_has_not_fallen_for_its_patience(settings, losses, same_weights):
    losses(3.0, 2.0, 2.5, 2.0, 1.0, 1.5)
    folder = train(TrainingConfig(**settings, patience=2))
    assert checkpoints(folder) >= {2, 4} and max(checkpoints(folder)) == 4
    assert json.loads((folder / "run.json").read_text())["config"]["lr_schedule"] == "constant_linear"
    before = weights(folder)
    train(TrainingConfig(**settings, patience=2, resume="latest"))  # nothing is left to do
    assert_close(weights(folder), before, rtol=0, atol=0)
    train(TrainingConfig(**settings, patience=3, resume="latest"))
    assert max(checkpoints(folder)) == 6
    assert export_run(folder, folder.parent / "five", "5").is_dir()


def test_the_best_is_not_sought_among_images_that_are_annealed(settings, losses):
    losses(1.0, 1.0, 3.0, 2.0, 2.0, 2.0)
    folder = train(TrainingConfig(**settings, model_type="rar", annealing_start=1, annealing_end=3))
    state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
    assert (state["progress"]["best_step"], state["progress"]["best_loss"]) == (4, 2.0)


def test_a_best_checkpoint_that_was_deleted_is_said(settings, losses, monkeypatch, caplog):
    losses(2.0, 3.0, 3.0, 3.0, 3.0, 3.0)
    end = Trainer.take_best
    monkeypatch.setattr(
        Trainer, "take_best", lambda self: (shutil.rmtree(self.folder / "checkpoint-1"), end(self)) and None
    )
    folder = train(TrainingConfig(**settings))
    assert "the best checkpoint is gone, the last one is taken" in caplog.text
    assert_close(weights(folder), weights(folder / "checkpoint-6"), rtol=0, atol=0)
    for checkpoint in ("best", None):
        with pytest.raises(ValueError, match="`checkpoint` must be one of last, 3, 6, got 'best', step 1, which is"):
            export_run(folder, folder.parent / "new", checkpoint)
    assert not (folder.parent / "new").exists()


def test_a_run_that_was_stopped_is_exported_by_the_command(settings, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "save_model", lambda self: None)
    folder = train(TrainingConfig(**settings | {"validation_split": None}))
    assert RandARForCausalLM.from_pretrained(folder / "checkpoint-3").config.grid == (4, 4)
    assert cli.main(["export", str(folder)]) == 0
    assert capsys.readouterr().out == f"wrote {folder / 'pipeline'}\n"
    pipe = RandARPipeline.from_pretrained(folder / "pipeline")
    assert pipe("down").images[0].size == (16, 16)
    assert_close(weights(folder / "pipeline/transformer"), weights(folder / "checkpoint-6"), rtol=0, atol=0)
    assert cli.main(["export", str(folder), "--checkpoint", "3"]) == 2
    assert "`output` must be new unless it is to be overwritten, got" in capsys.readouterr().err
    (folder.parent / "mine").mkdir()
    (folder.parent / "mine" / "notes.txt").write_text("kept")
    assert cli.main(["export", str(folder), "--checkpoint", "3", "--output", str(folder.parent / "mine")]) == 0
    assert (folder.parent / "mine" / "model_index.json").is_file()
    assert (folder.parent / "mine" / "notes.txt").read_text() == "kept"
    assert cli.main(["export", str(folder), "--checkpoint", "3", "--overwrite"]) == 0
    assert_close(weights(folder / "pipeline/transformer"), weights(folder / "checkpoint-3"), rtol=0, atol=0)
    assert "4 x 4 tokens" in (folder / "pipeline" / "README.md").read_text()


def test_an_adapter_is_merged(settings, finished, tmp_path, same_weights):
    fine = train(TrainingConfig(**settings | {"validation_split": None}, pretrained_model=str(finished), lora_rank=2))
    assert same_weights(export_run(fine, tmp_path / "out") / "transformer", fine)


def test_the_best_tokenizer_is_kept_and_exported(image_folder, small_tokenizer_settings, tmp_path, monkeypatch):
    from randar_hf.training import tokenizer_training

    evaluate, planned = tokenizer_training.evaluate_tokenizer, iter([2.0, 1.0, 3.0, 3.0, 1.0])
    monkeypatch.setattr(
        tokenizer_training, "evaluate_tokenizer", lambda *a: evaluate(*a) | {"validation_loss": next(planned)}
    )
    folder = tmp_path / "run"
    settings = {"dataset": str(image_folder), "output_dir": str(folder), **small_tokenizer_settings}
    train_tokenizer(TokenizerTrainingConfig(**settings, validation_split="validation", validation_steps=1))
    assert checkpoints(folder) == {2, 4} and TokenizerRun.command == "train-tokenizer"
    name = "diffusion_pytorch_model.safetensors"
    assert export_run(folder) == folder / "tokenizer"
    assert_close(weights(folder / "tokenizer", name), weights(folder, name), rtol=0, atol=0)
    assert VQModel.from_pretrained(export_run(folder, tmp_path / "last", "last")).config.num_vq_embeddings == 16
    with pytest.raises(ValueError, match="`tokenizer` must be None for a run of `randar-hf train-tokenizer`"):
        export_run(folder, tmp_path / "new", tokenizer="other")


def test_bad_input_is_named(finished_run, tokenizer_folder, tmp_path, token_folder):
    def refused(match, *arguments, **more):
        with pytest.raises(ValueError, match=match):
            export_run(*arguments, **more)

    refused("`run` must be the folder of a run, got '.*nowhere' without", tmp_path / "nowhere")
    refused("`run` must be the folder of a run, got '.*tokens' without", token_folder)
    folder, tokenizer = finished_run, {"tokenizer": str(tokenizer_folder)}
    refused("`tokenizer` must be given", folder)
    for wrong in ("4", "first", "checkpoint-3", "-1", ""):
        refused(f"`checkpoint` must be one of best, last, .*, got '{wrong}'", folder, None, wrong, **tokenizer)
    refused("`output` must not hold the run", folder, folder, overwrite=True, **tokenizer)
    (tmp_path / "file").write_text("text")
    refused("`output` must be a folder, got the file", folder, tmp_path / "file", **tokenizer)
    (folder / "checkpoint-6" / "model.safetensors").write_bytes(b"")
    refused("`checkpoint` must be a whole checkpoint, got a damaged .*", folder, None, "last", **tokenizer)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    refused("`run` must have saved a checkpoint, got .*, which has saved none", folder, **tokenizer)
    assert not (folder / "pipeline").exists()
