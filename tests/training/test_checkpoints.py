"""What damages a checkpoint, or would execute code in one, is noticed before a run goes on."""

import hashlib
import json
import os

import pytest
import torch

from randar_hf.training import TrainingConfig, export_run, train
from randar_hf.training.checkpoints import STATE_FILE


class Payload:
    """What, read by an unguarded loader, makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def note_again(checkpoint):
    """Make the list of a checkpoint's files that of what lies there, as who plants a file would."""
    state = json.loads((checkpoint / STATE_FILE).read_text())
    del state["state_sha256"]
    files = [file for file in checkpoint.iterdir() if file.name != STATE_FILE]
    state["sizes"] = {file.name: file.stat().st_size for file in files}
    state["sha256"] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    own = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    (checkpoint / STATE_FILE).write_text(json.dumps({**state, "state_sha256": own}))


def test_a_checkpoint_holds_no_pickled_objects(training_settings):
    folder = train(TrainingConfig(**training_settings, ema_decay=0.9))
    for file in (folder / "checkpoint-6").iterdir():
        if file.suffix in {".bin", ".pkl"} and not file.name.startswith("random_states"):
            torch.load(file, weights_only=True)
    assert not list(folder.rglob("custom_checkpoint_*"))


@pytest.mark.parametrize("name", ["optimizer.bin", "parts.bin", "random_states_0.pkl", "custom_checkpoint_0.pkl"])
def test_code_in_a_checkpoint_is_not_run(finished_run, training_settings, tmp_path, name):
    torch.save({"schedule": Payload(tmp_path / "executed")}, finished_run / "checkpoint-3" / name)
    note_again(finished_run / "checkpoint-3")
    resumed = TrainingConfig(**training_settings, resume="checkpoint-3")
    if name.startswith("random_states"):  # read by nothing: all random numbers of a run come from its seed
        train(resumed)
    else:
        with pytest.raises(ValueError, match="`resume` must .*checkpoint-3"):
            train(resumed)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.bin", "parts.bin", "random_states_0.pkl", STATE_FILE]
)
def test_one_changed_bit_is_noticed(finished_run, training_settings, name):
    file = finished_run / "checkpoint-6" / name
    content = bytearray(file.read_bytes())
    position = content.index(b'"step": 6') + 8 if name == STATE_FILE else len(content) * 6 // 10
    content[position] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=f"`resume` must be a whole checkpoint, got a damaged .*checkpoint-6/{name}': "
    ):
        train(TrainingConfig(**training_settings, resume="checkpoint-6"))


def test_a_checkpoint_of_an_earlier_version_is_not_exported(finished_run, tokenizer_folder):
    (finished_run / "checkpoint-6" / "config.json").unlink()
    note_again(finished_run / "checkpoint-6")
    with pytest.raises(ValueError, match="`checkpoint` must be one that this version has written, got .*checkpoint-6"):
        export_run(finished_run, tokenizer=str(tokenizer_folder))
    assert not (finished_run / "pipeline").exists()


def test_all_of_a_checkpoint_is_on_the_disk_before_it_has_its_name(training_settings, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), fsync(descriptor))
    )
    folder = train(TrainingConfig(**training_settings))
    last = folder / "checkpoint-6"
    assert {path.stat().st_ino for path in (folder, last, *last.iterdir())} <= set(synced)
