"""Files that appear whole or not at all, and folders that one process holds."""

import os
import shutil
import stat
from functools import partial

import pytest
from accelerate import PartialState
from filelock import FileLock

from randar_hf import files
from randar_hf.evaluation.sampling import sample_images
from randar_hf.files import LOCK_FILE, hold_folder, whole_file, write_text
from randar_hf.outputs import check_no_links


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_text(path, "first")
    with pytest.raises(RuntimeError), whole_file(path) as file:
        file.write(b"half")
        assert path.read_text() == "first"
        (beside,) = set(tmp_path.iterdir()) - {path}
        assert beside.name.startswith(".file.") and beside.name.endswith(".partial")
        raise RuntimeError
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    plain = tmp_path / "plain"
    plain.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_links_are_not_written_through(tmp_path, monkeypatch):
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_text("kept")
    path.symlink_to(victim)
    write_text(path, "new")
    assert victim.read_text() == "kept" and path.read_text() == "new" and not path.is_symlink()
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "guessed")
    (tmp_path / ".file.guessed.partial").symlink_to(victim)
    with pytest.raises(OSError, match="file' cannot be written: File exists"):
        write_text(path, "newer")
    assert victim.read_text() == "kept" and path.read_text() == "new"


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match="file' cannot be written: No space left on device"):
        with whole_file(tmp_path / "file"), open("/dev/full", "w") as full:
            full.write("x" * 100_000)
    assert not list(tmp_path.iterdir())


def hold(folder, check=lambda: None):
    return hold_folder(PartialState(cpu=True), "output_dir", folder, check)


def test_a_held_folder_is_refused_and_cleared_of_what_a_kill_left(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.05)
    (tmp_path / ".file.0123.partial").write_text("half")
    with hold(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
        with pytest.raises(ValueError, match="`output_dir` must not be in use by another running process"):
            with hold(tmp_path):
                pass
    with pytest.raises(RuntimeError), hold(tmp_path / "new" / "one"):
        raise RuntimeError
    assert not (tmp_path / "new").exists()
    (tmp_path / "images").symlink_to("/tmp")
    with pytest.raises(ValueError, match="`output_dir` must hold no links, which would be written through, got "):
        with hold(tmp_path, partial(check_no_links, "output_dir", tmp_path)):
            pass


def test_what_others_do_to_a_held_folder_is_no_error(tmp_path):
    folder = tmp_path / "above" / "out"
    with hold(folder):
        (tmp_path / "above" / "mine").write_text("stays")
    assert os.listdir(tmp_path / "above") == ["mine"]
    with hold(folder):
        shutil.rmtree(folder)
    assert os.listdir(tmp_path / "above") == ["mine"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "below", "/proc/none"):
        with pytest.raises(ValueError, match="`output_dir` must "):
            with hold(type(tmp_path)(folder)):
                pass


def test_sampling_takes_the_lock_and_follows_no_links(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.05)
    folder = tmp_path / "samples"
    folder.mkdir()
    with FileLock(folder / LOCK_FILE):
        with pytest.raises(ValueError, match="`output_dir` must not be in use by another running process"):
            sample_images(None, folder, num_images=2, device="cpu")
    (tmp_path / "elsewhere").mkdir()
    (folder / "settings.json").write_text("{}")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="`output_dir` must hold no links"):
        sample_images(None, folder, num_images=2, device="cpu")
    assert not os.listdir(tmp_path / "elsewhere")
