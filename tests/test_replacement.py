"""A folder is replaced as a whole or not at all, wherever the process is killed."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from randar_hf.replacement import replacing


def write(output, content):
    with replacing(output) as folder:
        (folder / "file").write_text(content)


def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_die(output):
    """Write the folder in a process that kills itself on the way."""
    process = multiprocessing.get_context("fork").Process(target=write, args=(output, "new"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("moment", "left"), [("pathlib.Path.write_text", "old"), ("ctypes.CDLL", "old"), ("shutil.rmtree", "new")]
)
def test_a_kill_leaves_the_old_folder_or_the_new_one(tmp_path, monkeypatch, moment, left):
    output = tmp_path / "out"
    write(output, "old")
    with monkeypatch.context() as patched:
        patched.setattr(moment, kill)
        write_and_die(output)
    assert (output / "file").read_text() == left and len(list(tmp_path.iterdir())) == 3  # a folder and the lock beside
    write(output, "newer")
    assert (output / "file").read_text() == "newer" and list(tmp_path.iterdir()) == [output]


def test_where_folders_cannot_be_exchanged_the_next_call_brings_the_old_one_back(tmp_path, monkeypatch):
    output, rename = tmp_path / "out", Path.rename
    monkeypatch.setattr("sys.platform", "another")
    write(output, "old")
    write(output, "older")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", lambda path, to: kill() if "partial" in path.name else rename(path, to))
        write_and_die(output)
    assert not output.exists()
    with pytest.raises(RuntimeError), replacing(output):
        raise RuntimeError
    assert (output / "file").read_text() == "older" and list(tmp_path.iterdir()) == [output]


def test_a_log_that_is_being_written_stays(tmp_path):
    output = tmp_path / "out"
    (output / "logs").mkdir(parents=True)
    with open(output / "logs" / "nohup.out", "w") as log, replacing(output, keep=True) as folder:
        (folder / "file").write_text("new")
        log.write("first")
        log.flush()
        log.write("second")
    assert (output / "logs" / "nohup.out").read_text() == "firstsecond" and (output / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [output]


def test_two_writers_and_links(tmp_path):
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    with replacing(output) as folder:
        (folder / "file").write_text("first")
        with (
            pytest.raises(ValueError, match="`output` must not be written by another.*out'"),
            replacing(output),
        ):
            pass
    elsewhere.mkdir()
    (tmp_path / ".out.partial-1").symlink_to(elsewhere)
    (elsewhere / "file").write_text("kept")
    output.rename(tmp_path / "moved")
    output.symlink_to(elsewhere)
    write(output, "second")
    assert (elsewhere / "file").read_text() == "kept" and not output.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "moved", "out"]
