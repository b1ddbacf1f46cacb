"""The command line: exit codes, one line for wrong input, nothing overwritten."""

import subprocess
import sys

import pytest
from PIL import Image

from randar_hf.cli import main
from randar_hf.pipelines import RandARPipeline


@pytest.fixture
def folder(model, vqvae, class_names, tmp_path):
    RandARPipeline(model, vqvae, id2label=class_names).save_pretrained(tmp_path / "model")
    return tmp_path


def run(capsys, *arguments):
    """Exit code and what is on stderr; progress bars and loading reports are not counted."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


def test_generate_writes_a_sheet(folder, capsys):
    output = folder / "out.png"
    code, _ = run(
        capsys, "generate", "tench", 4, "--model", folder / "model", "--output", output, "--num-images", 3,
        "--steps", 4, "--order", "spiral_in", "--temperature", 0.9, "--top-k", 5, "--top-p", 0.9,
        "--guidance-scale", 2, "--guidance-schedule", "constant", "--seed", 7, "--dtype", "bfloat16",
    )  # fmt: skip
    assert code == 0 and Image.open(output).size == (3 * 16, 2 * 16)


def test_generate_is_reproducible(folder, capsys):
    for name in ("a.png", "b.png"):
        run(capsys, "generate", 1, "--model", folder / "model", "--output", folder / name, "--seed", 3)
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", "whale"], "class_labels"),
        (["generate", "9"], "class_labels"),
        (["generate", "-1"], "class_labels"),
        (["generate", "1", "--steps", "99"], "num_inference_steps"),
        (["generate", "1", "--temperature", "0"], "temperature"),
        (["generate", "1", "--output", "missing/out.png"], "--output"),
        (["generate", "1", "--output", "out.txt"], "--output"),
        (["generate", "1", "--guidance-scale", "much"], "--guidance-scale"),
        (["bench", "--size", "S"], "size"),
        (["bench", "--batch-size", "0"], "batch_size"),
        (["bench", "--steps", "0"], "num_inference_steps"),
        (["bench", "--device", "nope"], "device"),
        (["generate", "1", "--device", "nope"], "device"),
        (["train", "--dataset", "nowhere/", "--output-dir", "model"], "dataset"),
        (["paint"], "paint"),
        (["demo", "--colour"], "--colour"),
    ],
)
def test_wrong_input_is_one_line_and_code_two(folder, monkeypatch, capsys, arguments, named):
    monkeypatch.chdir(folder)
    extra = ["--model", "model"] if arguments[0] == "generate" else []
    code, error = run(capsys, *arguments, *extra)
    assert code == 2 and named in error.splitlines()[-1]
    assert not (folder / "images.png").exists()


def test_missing_model_folder(folder, capsys):
    code, error = run(capsys, "generate", 1, "--model", folder / "none", "--output", folder / "out.png")
    assert code == 2 and "--model" in error and error.count("\n") == 1


def test_model_cut_in_half(folder, capsys):
    weights = folder / "model" / "transformer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    code, error = run(capsys, "generate", 1, "--model", folder / "model", "--output", folder / "out.png")
    assert code == 2 and "--model" in error.splitlines()[-1] and not (folder / "out.png").exists()


def test_training_without_its_libraries_says_how_to_get_them(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("randar_hf.training.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    code, error = run(capsys, "train", "--dataset", "tokens", "--output-dir", "model")
    assert code == 2 and "randar-hf[training]" in error and error.count("\n") == 1


def test_nothing_is_overwritten_unless_asked(folder, capsys):
    output = folder / "out.png"
    output.write_text("precious")
    command = ["generate", 1, "--model", folder / "model", "--output", output]
    code, error = run(capsys, *command)
    assert code == 2 and "--overwrite" in error and output.read_text() == "precious"
    assert run(capsys, *command, "--overwrite")[0] == 0
    assert Image.open(output).size == (16, 16)


def test_help_everywhere():
    for arguments in ([], ["demo"], ["generate"], ["bench"], ["train-tokenizer"], ["tokenize"], ["train"]):
        result = subprocess.run(
            [sys.executable, "-m", "randar_hf.cli", *arguments, "--help"], capture_output=True, text=True
        )
        assert result.returncode == 0 and "usage: randar-hf" in result.stdout
