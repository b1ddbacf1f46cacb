"""The commands that draw, with the folder of a RAR model."""

import re

import pytest
from PIL import Image

from randar_hf.cli import main


@pytest.fixture
def folder(rar_pipe, tmp_path, monkeypatch):
    rar_pipe.save_pretrained(tmp_path / "rar")
    for name in ("in.png", "mask.png"):
        Image.linear_gradient("L").resize((16, 16)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_generate(folder):
    settings = ["--guidance-scale", "8", "--guidance-schedule", "power_cosine", "--seed", "7", "--order", "raster"]
    for power in ("0", "4"):
        command = ["generate", "tench", "4", "--model", "rar", "--num-images", "3", "--steps", "16", *settings]
        assert main([*command, "--guidance-power", power, "--output", f"{power}.png"]) == 0
    late, early = Image.open("4.png"), Image.open("0.png")
    assert late.size == early.size == (3 * 16, 2 * 16)
    assert late.tobytes() != early.tobytes()


def test_generate_shows_how_images_appear(folder):
    command = ["generate", "tench", "--model", "rar", "--dtype", "bfloat16", "--output", "last.png"]
    assert main([*command, "--animate", "film.gif"]) == 0
    film = Image.open("film.gif")
    assert film.n_frames == 16 and film.size == (16, 16)
    lower = film.convert("L").crop((0, 8, 16, 16))  # of the first frame, where one token is known
    assert lower.getextrema() == (128, 128)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", "1", "--refine", "1"], "`--refine`.*RARPipeline"),
        (["generate", "1", "--refine-share", "0.2"], "`--refine-share`"),
        (["generate", "1", "--spatial-guidance-scale", "1.5"], "`--spatial-guidance-scale`"),
        (["generate", "1", "--refine", "0", "--spatial-dropout", "0.5"], "`--spatial-dropout`, `--refine`"),
        (["generate", "1", "--order", "random"], "`order` must be 'raster'.*RandAR"),
        (["generate", "1", "--steps", "8"], "`num_inference_steps`"),
        (["generate", "1", "--guidance-power", "-1"], "`guidance_power`"),
        (["inpaint", "1", "in.png", "mask.png"], "`--model`.*RARPipeline.*cannot inpaint.*RandARForCausalLM"),
        (["outpaint", "1", "in.png", "--left", "4"], "`--model`.*RARPipeline.*cannot inpaint.*RandARForCausalLM"),
        (["extrapolate", "1"], "`--model`.*RARPipeline.*cannot inpaint.*RandARForCausalLM"),
    ],
)
def test_what_the_model_cannot_do_is_one_line_and_code_two(folder, capsys, arguments, named):
    capsys.readouterr()
    assert main([*arguments, "--model", "rar"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"randar-hf {arguments[0]}: error: ")
    assert re.search(named, error), error
    assert not (folder / "images.png").exists()
