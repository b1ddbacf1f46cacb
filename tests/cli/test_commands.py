"""The command line: exit codes, one line for wrong input, nothing overwritten."""

import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from randar_hf.cli import app, main
from randar_hf.cli.options import RandAROptions
from randar_hf.pipelines import RandARPipeline


@pytest.fixture
def folder(saved_pipeline, tmp_path):
    shutil.copytree(saved_pipeline, tmp_path / "model")
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


def test_generate_shows_how_images_appear(folder, capsys):
    command = ["generate", "tench", 4, "--model", folder / "model", "--output", folder / "a.png"]
    assert run(capsys, *command, "--steps", 4, "--animate", folder / "a.gif")[0] == 0
    film, last = Image.open(folder / "a.gif"), Image.open(folder / "a.png")
    assert film.n_frames == 4 and film.size == last.size
    film.seek(3)
    assert film.info["duration"] > 1000
    code, error = run(capsys, *command, "--overwrite", "--animate", folder / "a.png")
    assert code == 2 and ".gif" in error


@pytest.fixture
def image(folder):
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(folder / "in.png")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (8, 0, 16, 16))
    mask.save(folder / "mask.png")
    return folder / "in.png"


def test_inpaint_keeps_what_is_not_masked(folder, image, capsys):
    command = ["inpaint", "tench", image, folder / "mask.png", "--model", folder / "model"]
    assert run(capsys, *command, "--output", folder / "out.png", "--strength", 0.5, "--seam", 2)[0] == 0
    old, new = Image.open(image), Image.open(folder / "out.png")
    assert old.crop((0, 0, 8, 16)).tobytes() == new.crop((0, 0, 8, 16)).tobytes()
    assert old.tobytes() != new.tobytes()


def test_inpainting_and_outpainting_are_shown_in_a_loop(folder, image, capsys):
    words = ["--model", folder / "model", "--output", folder / "out.png", "--animate", folder / "a.gif", "--overwrite"]
    for command, size in (
        (["inpaint", 1, image, folder / "mask.png", "--steps", 4], (16, 16)),
        (["outpaint", 1, image, "--right", 8, "--steps", 4], (24, 16)),
        (["outpaint", 1, image, "--right", 8, "--attention", "sliding_window"], (24, 16)),
    ):
        assert run(capsys, *command, *words)[0] == 0
        film = Image.open(folder / "a.gif")
        assert film.n_frames > 1 and film.size == size and film.info["loop"] == 0
        film.seek(film.n_frames - 1)
        assert film.convert("RGB").getpixel((0, 0)) is not None


def test_images_are_enlarged_captioned_and_compared_by_order(folder, capsys):
    words = ["generate", "tench", 4, "--model", folder / "model", "--output", folder / "out.png", "--scale", 3]
    film = ["--captions", "--compare-orders", "raster,spiral_in", "--steps", 4, "--animate", folder / "a.gif"]
    assert run(capsys, *words, *film)[0] == 0
    sheet = Image.open(folder / "out.png")
    assert sheet.size == Image.open(folder / "a.gif").size == (48, 4 * (48 + 14))
    caption = sheet.crop((0, 48, 48, 62)).convert("L")
    assert caption.getextrema()[0] < 128 and caption.getpixel((0, 0)) == 255  # dark letters on white
    assert run(capsys, *words, "--compare-orders", "raster", "--order", "raster", "--overwrite")[0] == 2
    assert run(capsys, *words, "--overwrite", "--scale", 0)[0] == 2


def test_a_transparent_sheet_is_ink_on_nothing(folder, capsys):
    words = ["0", "5", "--num-images", 2, "--steps", 8, "--scale", 3]
    for name, more in (
        ("grey.png", []),
        ("ink.png", ["--transparent"]),
        ("ink.webp", ["--captions", "--transparent"]),
    ):
        assert run(capsys, "generate", *words, *more, "--output", folder / name)[0] == 0
    grey, ink = np.asarray(Image.open(folder / "grey.png").convert("L")), Image.open(folder / "ink.png")
    alpha = np.asarray(ink.getchannel("A"))
    assert ink.mode == "RGBA" and ink.size == (192, 192) and np.asarray(ink)[..., :3][alpha > 9].max() == 0
    assert alpha[grey < 9].max() < 20 and alpha[grey > 247].min() > 235 and 0 < alpha.mean() < 255
    captioned = Image.open(folder / "ink.webp")
    assert captioned.size == (192, 220) and captioned.getpixel((0, 100))[3] == 0
    assert np.asarray(captioned.getchannel("A"))[96:110].max() > 200  # letters


def test_what_cannot_be_transparent_is_told(folder, capsys):
    words = ["generate", "tench", "--model", folder / "model", "--transparent", "--output"]
    code, error = run(capsys, *words, folder / "out.jpg")
    assert code == 2 and "`--output` must end in .png or .webp with `--transparent`" in error
    code, error = run(capsys, *words, folder / "out.png")
    assert code == 2 and "`image` must be grey to become transparent" in error
    assert not list(folder.glob("out.*"))


@pytest.mark.parametrize(
    ("command", "painted", "is_kept"),
    [("outpaint", None, True), ("inpaint", (8, 8, 12, 12), True), ("inpaint", (4, 4, 8, 8), False)],
)
def test_colours_that_would_stay_are_told_before_the_model_is_loaded(tmp_path, capsys, command, painted, is_kept):
    image, mask = Image.new("RGB", (16, 16), "gray"), Image.new("L", (16, 16))
    image.paste("red", (4, 4, 8, 8))
    mask.paste(255, painted or (0, 0, 16, 16))
    files = [tmp_path / "in.png", tmp_path / "mask.png"]
    for each, file in zip((image, mask), files):
        each.save(file)
    words = [command, "tench", *files[: 2 if painted else 1], "--model", tmp_path / "none", "--transparent"]
    code, error = run(capsys, *words, "--output", tmp_path / "out.png")
    assert code == 2 and ("`image` must be grey" if is_kept else "`--model` must be the folder") in error


def test_a_speculative_window_gives_the_images_of_one_step_a_token(folder, capsys):
    words = ["generate", "tench", "--model", folder / "model", "--output"]
    for name, setting in (("a.png", ["--steps", 16]), ("b.png", ["--speculative-window", 4])):
        assert run(capsys, *words, folder / name, *setting)[0] == 0
    assert Image.open(folder / "a.png").tobytes() == Image.open(folder / "b.png").tobytes()


def test_a_number_that_names_a_class_is_that_class(model, vqvae, tmp_path, capsys):
    RandARPipeline(model, vqvae, id2label={0: "3", 1: "1", 2: "x", 3: "y", 4: "z"}).save_pretrained(tmp_path / "model")
    words = ["--model", tmp_path / "model", "--output"]
    assert run(capsys, "generate", "3", *words, tmp_path / "a.png")[0] == 0  # class 0
    assert run(capsys, "generate", "0", *words, tmp_path / "b.png")[0] == 0  # no name: the id
    assert run(capsys, "generate", "y", *words, tmp_path / "c.png")[0] == 0  # class 3
    first, second, other = (Image.open(tmp_path / name).tobytes() for name in ("a.png", "b.png", "c.png"))
    assert first == second != other


def test_what_the_system_refuses_is_one_line_before_the_work(folder, image, monkeypatch, capsys):
    monkeypatch.setattr("randar_hf.cli.images.open_pipeline", None)  # no work
    (folder / "folder.png").mkdir()
    (folder / "cut.png").write_bytes(image.read_bytes()[:60])
    for words, named in (
        (["generate", "1", "--output", folder / ("x" * 300 + ".png")], "--output"),
        (["generate", "1", "--output", folder / "folder.png", "--overwrite"], "--output"),
        (["generate", "1", "--output", image / "out.png"], "--output"),
        (["generate", "1", "--animate", folder / ("x" * 300 + ".gif")], "--animate"),
        (["outpaint", "1", "x" * 300 + ".png"], "image"),
        (["outpaint", "1", folder / "cut.png"], "image"),
        (["outpaint", "1", folder], "image"),
        (["demo", "--output", folder / "folder.png", "--overwrite"], "--output"),
    ):
        code, error = run(capsys, *words)
        assert code == 2 and error.count("\n") == 1 and named in error, words


def test_outpaint_extends_the_canvas(folder, image, capsys):
    command = ["outpaint", 1, image, "--model", folder / "model", "--output", folder / "out.png"]
    assert run(capsys, *command, "--left", 8, "--bottom", 4)[0] == 0
    assert Image.open(folder / "out.png").size == (24, 20)


def test_extrapolate_makes_larger_images(folder, capsys):
    command = ["extrapolate", "tench", 1, "--model", folder / "model", "--output", folder / "out.png"]
    assert run(capsys, *command, "--height", 24, "--width", 32, "--num-images", 2, "--refine", 1)[0] == 0
    assert Image.open(folder / "out.png").size == (64, 48)
    assert run(capsys, *command, "--flat", "--overwrite", "--num-extrapolated", 0)[0] == 0
    assert Image.open(folder / "out.png").size == (32, 64)


def test_bench_of_other_grids(capsys):
    assert main(["bench", "--runs", "1", "--grid-size", "8", "16", "--known-tokens", "100", "--steps", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "num_tokens: 128" in lines and "known_tokens: 100" in lines


def test_each_image_has_the_seed_after_that_of_the_one_before(folder, capsys):
    words = ["generate", 1, "--model", folder / "model", "--output"]
    assert run(capsys, *words, folder / "both.png", "--seed", 3, "--num-images", 2)[0] == 0
    assert run(capsys, *words, folder / "second.png", "--seed", 4)[0] == 0
    both, second = Image.open(folder / "both.png"), Image.open(folder / "second.png")
    differences = [
        np.abs(np.asarray(both.crop((left, 0, left + 16, 16))).astype(int) - np.asarray(second)).max()
        for left in (0, 16)
    ]
    assert differences[0] > 1 >= differences[1]  # sums of the tokenizer are rounded by batch


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", "whale"], "class_labels"),
        (["generate", "--", "-1"], "class_labels"),
        (["generate", "1", "--steps", "99"], "num_inference_steps"),
        (["generate", "1", "--temperature", "0"], "temperature"),
        (["generate", "1", "--output", "missing/out.png"], "--output"),
        (["generate", "1", "--output", "out.txt"], "--output"),
        (["generate", "1", "--guidance-scale", "much"], "--guidance-scale"),
        (["bench", "--batch-size", "0"], "batch_size"),
        (["bench", "--steps", "0"], "num_inference_steps"),
        (["bench", "--device", "nope"], "device"),
        (["generate", "1", "--device", "nope"], "device"),
        (["train", "--dataset", "nowhere/", "--output-dir", "run"], "dataset"),
        (["bench", "--known-tokens", "65"], "known_tokens"),
        (["bench", "--grid-size", "0", "4"], "grid_size"),
        (["inpaint", "1", "none.png", "none.png"], "image"),
        (["inpaint", "1", "model/model_index.json", "none.png"], "image"),
        (["outpaint", "1", "none.png", "--left", "4"], "image"),
        (["extrapolate", "1", "--height", "3"], "height"),
        (["generate", "1", "--refine", "-1"], "refine"),
        (["generate", "1", "--spatial-dropout", "2"], "spatial_dropout"),
        (["generate", "1", "--animate", "film.mp4"], ".gif"),
        (["paint"], "paint"),
        (["demo", "--colour"], "--colour"),
    ],
)
def test_wrong_input_is_one_line_and_code_two(folder, monkeypatch, capsys, arguments, named):
    monkeypatch.chdir(folder)
    drawing = ("generate", "inpaint", "outpaint", "extrapolate")
    extra = ["--model", "model"] if arguments[0] in drawing else []
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


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        ("train --dataset tokens --output-dir model", "datasets", "training"),
        ("train-tokenizer --dataset images --output-dir tokenizer", "datasets", "training"),
        ("tokenize --dataset images --tokenizer tokenizer --output-dir tokens", "datasets", "training"),
        ("sweep --reference none.npz --order raster --output-dir sweep", "matplotlib", "evaluation"),
        ("classify images/ --confusion a.png", "datasets", "evaluation"),
        ("space", "gradio", "space"),
    ],
)
def test_commands_without_their_extra_say_how_to_get_it(words, package, extra, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    rooms = ("randar_hf.training.", "randar_hf.evaluation.", "randar_hf.space", f"{package}.")
    loaded = dict(sys.modules)
    for name in [name for name in loaded if name.startswith(rooms)]:
        parent, _, attribute = name.rpartition(".")
        monkeypatch.setattr(loaded[parent], attribute, loaded[name], raising=False)  # comes back at the end
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    code, error = run(capsys, *words.split())
    assert code == 2 and error.count("error: ") == 1 and package in error
    assert f"'randar-hf[{extra}]'" in error and f"'.[{extra}]'" in error


@pytest.mark.parametrize("during", ["randar_hf.cli.demo.check_output_file", "typer.core.TyperCommand.parse_args"])
def test_ctrl_c_is_one_line(monkeypatch, capsys, during):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(during, interrupted)
    assert run(capsys, "demo") == (130, "randar-hf demo: interrupted\n")


INTERRUPTS = {
    "typer.py": "{}",  # which the command line imports first of all
    "torch.py": "{}",  # which the command imports
    "sitecustomize.py": "import atexit\natexit.register(lambda: [{}])",  # when all is done
}


@pytest.mark.parametrize("module", INTERRUPTS)
@pytest.mark.parametrize(
    "program", [[sys.executable, "-m", "randar_hf"], [Path(sys.executable).with_name("randar-hf")]]
)
def test_ctrl_c_is_no_traceback_whenever_it_comes(tmp_path, module, program):
    interrupt = "__import__('os').kill(__import__('os').getpid(), 2), __import__('time').sleep(20)"
    (tmp_path / module).write_text(INTERRUPTS[module].format(interrupt))
    words = ["train", "--help"] if module != "torch.py" else ["train", "--dataset=no", f"--output-dir={tmp_path}/run"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    # Who runs the tests in the background of a shell has them ignore the signal.
    done = subprocess.run(
        [*program, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    said = done.stderr.splitlines()
    assert done.returncode == 130 and "randar-hf train: interrupted" in said and not (tmp_path / "run").exists()
    assert all(line.startswith("randar-hf train: ") for line in said)


@pytest.mark.parametrize(
    "error", [MemoryError(), ImportError("libtorch.so: failed to map segment from shared object")]
)
def test_too_little_memory_is_one_line(monkeypatch, capsys, error):
    def fail(*args):
        raise error

    monkeypatch.setattr("randar_hf.cli.demo.check_output_file", fail)
    code, said = run(capsys, "demo")
    assert code == 2 and said.startswith("randar-hf demo: error: there is too little memory") and said.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="address spaces are limited on Linux")
def test_training_says_that_its_libraries_do_not_fit():
    command = f"ulimit -v 800000; {sys.executable} -m randar_hf train --dataset no --output-dir never"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    said = "randar-hf train: error: torch and the other libraries take about 1500 MiB of address space"
    assert done.returncode == 2 and done.stderr.startswith(said) and done.stderr.count("\n") == 1


def test_nothing_is_overwritten_unless_asked(folder, capsys):
    output = folder / "out.png"
    output.write_text("precious")
    command = ["generate", 1, "--model", folder / "model", "--output", output]
    code, error = run(capsys, *command)
    assert code == 2 and "--overwrite" in error and output.read_text() == "precious"
    assert run(capsys, *command, "--overwrite")[0] == 0
    assert Image.open(output).size == (16, 16)


NAMES = [command.name for command in app.registered_commands]


@pytest.mark.parametrize("command", NAMES)
def test_help_everywhere(capsys, command):
    assert run(capsys, command, "--help")[0] == 0


def test_the_program_alone_prints_its_help_and_its_version(capsys):
    assert main([]) == 0 and "randar-hf generate" not in (text := capsys.readouterr().out)
    assert all(name in text for name in NAMES)
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"randar-hf {version('randar-hf')}\n"


HELP_WITHOUT_LIBRARIES = """
import sys
import time

sys.orig_argv = ["python", "-m", "randar_hf"]
libraries = "torch transformers diffusers numpy PIL accelerate datasets yaml peft filelock tensorboard"
for name in (libraries + " evaluate matplotlib gradio mcp pyarrow").split():
    sys.modules[name] = None  # as if it were not installed
from randar_hf.cli import app, main

imported = time.process_time()  # of the whole process
for command in app.registered_commands:
    begun = time.process_time()
    assert main([command.name, "--help"]) == 0, command.name
    assert imported + time.process_time() - begun < 2, command.name
"""


def test_help_waits_for_no_library():
    subprocess.run([sys.executable, "-c", HELP_WITHOUT_LIBRARIES], check=True, stdout=subprocess.DEVNULL)


def test_the_program_runs_as_a_module(tmp_path):
    """In processes of their own, where nothing was imported before."""
    words = ["generate", "0", "--steps", "1", "--output", tmp_path / "out.png"]
    subprocess.run([sys.executable, "-m", "randar_hf", *words], check=True)
    assert Image.open(tmp_path / "out.png").size == (32, 32)
    subprocess.run([sys.executable, "-m", "randar_hf.cli", "--version"], check=True)


def test_compile_is_off_unless_it_is_given():
    assert RandAROptions().given() == {}
    config = RandAROptions(compile=True).given()["compile_config"]
    assert config.fullgraph and config.mode == "reduce-overhead"
