"""Every command names the output that the system does not take in one line, exit code 2, before any work."""

import os
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline, VQModel
from typer.main import get_command

from randar_hf.cli import app, main


# The inputs are not there: whoever looks at them first names them, and not the output.
MEASURED = {
    "probe": "probe none/ --validation none/",
    "correspondence": "correspondence none/",
    "classify": "classify none/",
    "evaluate-inpainting": "evaluate-inpainting none/",
    "evaluate": "evaluate none.npz --reference none.npz",
}
FILES = [
    *(f"{command} --output OUT.png" for command in ("demo", "generate 1", "outpaint 1 none.png", "extrapolate 1")),
    "inpaint 1 none.png none.png --output OUT.png",
    *(f"{words} --animate OUT.gif" for words in ("generate 1", "outpaint 1 none.png", "inpaint 1 none.png none.png")),
    *(f"{words} --output OUT.json" for words in MEASURED.values()),
    f"{MEASURED['correspondence']} --matches OUT.png",
    f"{MEASURED['classify']} --confusion OUT.png",
    f"{MEASURED['evaluate']} --save-reference OUT.npz",
]
FOLDERS = [
    "train-tokenizer --dataset none/ --output-dir OUT",
    "tokenize --dataset none/ --tokenizer none/ --output-dir OUT",
    "train --dataset none/ --output-dir OUT",
    "convert none.pt OUT",
    "export none/ --output OUT",
    "sample --model none/ --output-dir OUT",
    "sweep --reference none.npz --order raster --output-dir OUT",
    "space --export OUT",
    *(f"{words} --work-dir OUT" for command, words in MEASURED.items() if command != "correspondence"),
]
KINDS = ["long name", "below a file", "other kind", "broken link", "closed", "empty"]


def bad_path(kind: str, folder: Path, suffix: str) -> Path:
    """A path that a system does not take, for a file where there is a suffix, else for a folder."""
    (folder / "file").write_text("mine")
    path = folder / f"out{suffix}"
    if kind == "other kind":
        path.mkdir() if suffix else path.write_text("mine")
    elif kind == "broken link":
        path.symlink_to(folder / "nowhere" / "else")
    parents = {"below a file": folder / "file"}
    if kind == "closed" and os.geteuid() == 0:  # nothing of a disk is closed to root
        parents[kind] = Path("/proc/self")
    elif kind == "closed":
        parents[kind] = folder / "closed"
        parents[kind].mkdir(mode=0o500)
    return folder / ("x" * 300 + suffix) if kind == "long name" else parents.get(kind, folder) / path.name


@pytest.mark.parametrize("line", FILES + FOLDERS)
def test_an_output_that_cannot_be_written_is_named_before_the_work(line, tmp_path, monkeypatch, capsys):
    def work(*args, **kwargs):
        raise AssertionError("work was begun")

    for loaded in (DiffusionPipeline, VQModel):
        monkeypatch.setattr(loaded, "from_pretrained", work)
    monkeypatch.chdir(tmp_path)
    *words, last = line.split()
    suffix = last.removeprefix("OUT")
    option = "output" if words[0] == "convert" else "folder" if words[0] == "space" else words[-1].strip("-")
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        before = sorted(tmp_path.rglob("*"))
        path = bad_path(kind, tmp_path / kind, suffix)
        code, error = main([*words, "" if kind == "empty" else str(path)]), capsys.readouterr().err
        assert code == 2 and error.count("\n") == 1, (kind, error)
        assert f"{option}`" in error or f"{option.replace('-', '_')}`" in error, (kind, error)
        added = {each.name for each in set(tmp_path.rglob("*")) - set(before)}
        assert added <= {"file", "closed", path.name}, kind  # what this test has put there


def test_every_output_of_every_command_is_among_them():
    spelled = {tuple(line.split()[:1] + line.split()[-2:-1]) for line in FILES + FOLDERS}
    for name, command in get_command(app).commands.items():
        for option in command.params:
            if name != "convert" and option.name in {
                "output",
                "output_dir",
                "work_dir",
                "export",
                "animate",
                "matches",
            }:
                assert (name, option.opts[-1]) in spelled
