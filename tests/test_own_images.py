"""The page about training on one's own images, run from the folder to the Hub as it stands, with forty images."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from PIL import Image

from randar_hf import cli
from randar_hf.training.data.reading import load_rows


PAGE = Path(__file__).parents[1] / "docs" / "own-images.md"
COLOURS = {"daisy": (240, 240, 220), "tulip": (200, 30, 60)}
FEWER_STEPS = {
    "train-tokenizer": ["--max-steps", "2", "--batch-size", "8", "--warmup-steps", "1"],
    "train": ["--max-steps", "4", "--batch-size", "8", "--warmup-steps", "1"],
}


@pytest.fixture
def my_images(tmp_path, monkeypatch):
    """Twenty images of each class, of several sizes and kinds: a disc on green."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = Path("my_images", name)
        folder.mkdir(parents=True)
        for index in range(20):
            height, width = rng.integers(70, 110, 2)
            rows, columns = np.mgrid[:height, :width]
            disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < rng.integers(100, 200)
            pixels = np.where(disc[..., None], colour, (20, 90, 30)).astype(np.uint8)
            image = Image.fromarray(pixels).convert("P" if index == 0 else "L" if index == 1 else "RGB")
            image.save(folder / f"{index}.png")
    yield tmp_path
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def pushed(monkeypatch, tmp_path):
    """What the page pushes, saved to a folder by the name of its repository."""

    def push(self, repo_id):
        self.save_pretrained(tmp_path / "hub" / repo_id)

    monkeypatch.setattr(DiffusionPipeline, "push_to_hub", push)
    return tmp_path / "hub"


def run_command(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "randar-hf":
        assert cli.main(words[1:] + FEWER_STEPS.get(words[1], [])) == 0
    else:
        assert words == ["hf", "auth", "login"]


def test_the_page_runs(my_images, pushed):
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    threads, namespace = torch.get_num_threads(), {"__name__": "__main__"}
    torch.set_num_threads(1)
    for language, code in blocks:
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), namespace)
        else:
            for line in code.splitlines():
                run_command(line)
    torch.set_num_threads(threads)

    assert {language for language, _ in blocks} == {"bash", "python"}
    metrics = [json.loads(line) for line in Path("model", "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == 4 and 0 < metrics[-1]["loss"] < 7
    shutil.rmtree("my_images")
    assert load_rows("images", "validation")[0]["image"].size[0] >= 70  # without the files they were made of
    assert Image.open("model/previews/step-4.png").size == (2 * 64, 4 * 64)
    assert Image.open("flowers.png").size[0] >= 4 * 64
    card = ModelCard.load(pushed / "me" / "flowers" / "README.md")
    assert card.data.license == "cc-by-4.0" and "My photographs of daisies and tulips." in card.text
    assert "2 classes" in card.text and "64 x 64 pixels" in card.text
    settings = json.loads((pushed / "me/flowers/transformer/generation_config.json").read_text())
    assert settings["guidance_scale"] == 2.0
