"""`randar-hf space`."""

import pytest

from randar_hf.cli import main
from randar_hf.space import export_space


@pytest.fixture
def folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "mine")
    return tmp_path


def test_exporting_a_folder(folder, capsys):
    assert main(["space", "--model", str(folder / "mine"), "--export", str(folder / "out")]) == 0
    assert (folder / "out" / "app.py").is_file() and (folder / "out" / "model" / "model_index.json").is_file()
    assert f"wrote {folder / 'out'}" in capsys.readouterr().out


def test_pushing_what_was_exported(folder, monkeypatch, capsys):
    pushed = []
    monkeypatch.setattr("randar_hf.space.push_space", lambda *given: pushed.append(given) or "https://there")
    words = ["space", "--model", str(folder / "mine"), "--export", str(folder / "out"), "--push", "me/mine"]
    assert main(words) == 0 and pushed == [(str(folder / "out"), "me/mine")]
    assert "pushed https://there" in capsys.readouterr().out


def test_opening_takes_model_and_port(folder, monkeypatch):
    launched = []
    monkeypatch.setattr("randar_hf.space.launch_app", lambda app, port: launched.append((app, port)))
    assert main(["space", "--model", str(folder / "mine"), "--port", "7999"]) == 0
    ((app, port),) = launched
    assert port == 7999 and "5 classes" in app.config["components"][0]["props"]["value"]


def test_wrong_input_is_one_line(folder, pipe, capsys):
    export_space(pipe, folder / "full")
    (folder / "none").mkdir()
    for words, message in (
        (["--push", "me/mine"], "`--push` must go with `--export`"),
        (["--export", str(folder / "new"), "--port", "1"], "`--port` must not go with `--export`"),
        (["--port", "70000"], "Invalid value for '--port'"),
        (["--export", str(folder / "full")], "`folder` must be a new one"),
        (["--export", "/proc/none/new"], "`folder` must be where one may write"),
        (["--model", str(folder / "none")], "`--model`"),
    ):
        capsys.readouterr()
        assert main(["space", *words]) == 2, words
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("randar-hf space: error")]
        assert len(errors) == 1 and message in errors[0]
