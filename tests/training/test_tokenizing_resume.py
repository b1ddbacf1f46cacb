"""Runs that were stopped and go on, and runs of several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Image
from PIL import Image as PILImage

from randar_hf.training import TokenizingConfig, tokenize_images
from randar_hf.training.data.image_rows import ImageRows
from randar_hf.training.data.reading import load_rows
from randar_hf.training.data.token_files import read_settings
from randar_hf.training.data.token_writer import TokenFolder


SLOWLY = """
import os, sys, time
from pathlib import Path
from randar_hf import cli
from randar_hf.training.data.image_rows import ImageRows

load = ImageRows.load

def slow_load(self, row):
    time.sleep(float(sys.argv[1]))
    Path(__file__).with_name("read-by-" + os.environ.get("RANK", "0")).touch()
    return load(self, row)

ImageRows.load = slow_load
if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Thirteen images of two classes, two of them damaged."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(13):
        (folder / "ab"[index % 2]).mkdir(exist_ok=True)
        file = folder / "ab"[index % 2] / f"{index:02d}.png"
        PILImage.effect_noise((16, 16), 20 + 10 * index).convert("RGB").save(file)
        if index in (3, 8):
            file.write_bytes(file.read_bytes()[:100])
    return folder


@pytest.fixture
def settings(images, tokenizer_folder, tmp_path):
    """Settings that make five files of up to three rows, in batches of two."""
    run = {"dataset": str(images), "tokenizer": str(tokenizer_folder), "output_dir": str(tmp_path / "tokens")}
    return run | {"rows_per_file": 3, "batch_size": 2, "num_workers": 1}


@pytest.fixture(scope="module")
def whole(images, tokenizer_folder, tmp_path_factory):
    """What a run that is never stopped writes."""
    folder = tmp_path_factory.mktemp("whole") / "tokens"
    run = {"dataset": str(images), "tokenizer": str(tokenizer_folder), "output_dir": str(folder)}
    tokenize_images(TokenizingConfig(**run, rows_per_file=3, batch_size=2))
    written = contents(folder)
    assert len(written["rows"]) == 11 and len(written["skipped"]) == 2 and len(written["files"]) == 5
    return written


def contents(folder) -> dict:
    lines = (folder / ".train" / "skipped.jsonl").read_text().splitlines()
    return {
        "rows": [(row["label"], row["tokens"]) for row in load_rows(str(folder), "train")],
        "skipped": [json.loads(line) for line in lines],
        "files": {file.name: file.read_bytes() for file in folder.glob("*.parquet")},
        "work": sorted(file.name for file in (folder / ".train").iterdir()),
    }


def stop_at(monkeypatch, owner, method: str, call: int, before: bool) -> None:
    """Make one call of a method the last thing that a run does."""
    original, calls = getattr(owner, method), []

    def stopping(*arguments):
        calls.append(arguments)
        if before and len(calls) == call:
            raise KeyboardInterrupt
        result = original(*arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, method, stopping)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("owner", "method", "calls"),
    [(TokenFolder, "write_file", [1, 3, 5]), (ImageRows, "encode", [2, 8]), (TokenFolder, "skip", [1, 2])],
    ids=["file", "batch", "skip"],
)
@pytest.mark.parametrize("before", [True, False])
def test_no_row_is_lost_or_doubled(before, owner, method, calls, streaming, settings, whole, monkeypatch, tmp_path):
    """Runs that are stopped before or after a call of a method, and started again."""
    for call in calls:
        settings["output_dir"] = str(tmp_path / str(call))
        config = TokenizingConfig(**settings, streaming=streaming)
        with monkeypatch.context() as patch:
            stop_at(patch, owner, method, call, before)
            with pytest.raises(KeyboardInterrupt):
                tokenize_images(config)
        with pytest.raises(ValueError, match="`dataset` must be .*the tokens are not complete"):
            load_rows(settings["output_dir"], "train")
        written = contents(tokenize_images(config))
        assert written["rows"] == whole["rows"] and len(written["skipped"]) == 2
        assert streaming or written == whole


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_may_be_stopped_again_and_again(streaming, settings, whole, monkeypatch):
    config = TokenizingConfig(**settings, streaming=streaming)
    for _ in range(2):
        with monkeypatch.context() as patch:
            stop_at(patch, TokenFolder, "write_file", 1, before=False)
            with pytest.raises(KeyboardInterrupt):
                tokenize_images(config)
    encoded = []
    monkeypatch.setattr(ImageRows, "encode", count_calls(ImageRows.encode, encoded))
    written = contents(tokenize_images(config))
    assert written["rows"] == whole["rows"] and (streaming or written == whole)
    assert len(encoded) == 4  # of seven rows in files of three and batches of two, one of which has no readable image


def test_finished_files_of_a_stream_are_not_read_again(images, settings, tmp_path, monkeypatch):
    rows = load_rows(str(images), "train").cast_column("image", Image(decode=False))
    (tmp_path / "rows").mkdir()
    for index in range(3):
        rows.select(range(4 * index, 4 * index + 3)).to_parquet(tmp_path / "rows" / f"train-{index}.parquet")
    config = TokenizingConfig(**settings | {"dataset": str(tmp_path / "rows")}, streaming=True)
    with monkeypatch.context() as patch:
        stop_at(patch, TokenFolder, "write_file", 2, before=False)
        with pytest.raises(KeyboardInterrupt):
            tokenize_images(config)
    reads = []
    monkeypatch.setattr(ImageRows, "read", count_calls(ImageRows.read, reads))
    tokenize_images(config)
    assert [(part, start) for _, part, start in reads] == [(2, 0)]


def count_calls(function, calls: list):
    return lambda *arguments: calls.append(arguments) or function(*arguments)


@pytest.mark.parametrize("moved", [0, 2, 5])
def test_a_stop_while_files_are_moved(moved, settings, whole, monkeypatch):
    replace, targets = Path.replace, []

    def stopping(self, target):
        if target.name.startswith("train-") or '"finished": true' in self.read_text(errors="ignore"):
            targets.append(target)
            if len(targets) > moved:
                raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            tokenize_images(TokenizingConfig(**settings))
    assert len(list(Path(settings["output_dir"]).glob("*.parquet"))) == moved
    with pytest.raises(ValueError, match="the tokens are not complete"):
        load_rows(settings["output_dir"], "train")
    assert contents(tokenize_images(TokenizingConfig(**settings))) == whole


def test_other_settings_are_refused_by_name_unless_the_run_starts_anew(settings, whole, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, TokenFolder, "write_file", 2, before=False)
        with pytest.raises(KeyboardInterrupt):
            tokenize_images(TokenizingConfig(**settings))
    other = settings | {"rows_per_file": 4, "augmentation": "adm", "image_size": 8, "batch_size": 5}
    names = "augmentation, rows_per_file, image_size"
    with pytest.raises(ValueError, match=rf"`output_dir` must .* same settings, got other ones \({names}\)"):
        tokenize_images(TokenizingConfig(**other))
    tokenize_images(TokenizingConfig(**other, overwrite=True))
    assert read_settings(settings["output_dir"]).height == 2
    assert contents(tokenize_images(TokenizingConfig(**settings, overwrite=True))) == whole
    with pytest.raises(ValueError, match="`output_dir` must not hold the split 'train'"):
        tokenize_images(TokenizingConfig(**settings))


def command(settings: dict) -> list[str]:
    options = {"--" + name.replace("_", "-"): str(value) for name, value in settings.items()}
    return ["tokenize", *(word for option in options.items() for word in option)]


@pytest.fixture
def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"}


@pytest.mark.slow
def test_a_real_kill(settings, whole, environment, tmp_path):
    (tmp_path / "slowly.py").write_text(SLOWLY)
    words = [sys.executable, str(tmp_path / "slowly.py"), "0.3", *command(settings)]
    process = subprocess.Popen(words, env=environment)
    folder = TokenFolder(tmp_path / "tokens", "train", 3)
    while len(list(folder.work.glob("*-*.parquet"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(folder.work.glob("*-*.parquet"))) < 5
    assert contents(tokenize_images(TokenizingConfig(**settings))) == whole


@pytest.mark.slow
def test_two_processes_write_what_one_writes(settings, whole, environment, tmp_path):
    (tmp_path / "slowly.py").write_text(SLOWLY)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*launch, str(tmp_path / "slowly.py"), "0", *command(settings)]
    subprocess.run(
        words, env=environment | {"ACCELERATE_USE_CPU": "1"}, check=False
    )  # what it wrote tells if it worked
    assert contents(tmp_path / "tokens") == whole
    assert sorted(file.name for file in tmp_path.glob("read-by-*")) == ["read-by-0", "read-by-1"]
