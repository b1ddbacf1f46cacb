"""Tiny real components, and small checkpoints in the published layouts."""

import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from diffusers import VQModel
from PIL import Image

import randar_hf
from randar_hf import RandARConfig, RandARForCausalLM, RARConfig, RARForCausalLM
from randar_hf.cli import main
from randar_hf.pipelines import RandARPipeline


CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
CHROMIUM_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
FIXTURES = Path(__file__).parent / "fixtures"
CLASS_NAMES = {0: "tench", 1: "great white shark, white shark", 2: "crane", 3: "crane", 4: "sea snake"}


SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_classes": 5,
    "grid_size": 4,
    "class_dropout": 0.0,
    "residual_dropout": 0.0,
    "mlp_dropout": 0.0,
    "attention_dropout": 0.0,
    "initializer_range": 0.3,
}


def build_model(**overrides) -> RandARForCausalLM:
    """A model of two layers on a 4 x 4 grid, with a head that is not zero and no dropout."""
    torch.manual_seed(0)
    model = RandARForCausalLM(RandARConfig(**{**SIZES, "token_dropout": 0.0, **overrides})).eval()
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    return model


def build_rar(**overrides) -> RARForCausalLM:
    """An RAR of two layers on a 4 x 4 grid, with modulations that are not zero and no dropout."""
    torch.manual_seed(0)
    model = RARForCausalLM(RARConfig(**{**SIZES, **overrides})).eval()
    for name, parameter in model.named_parameters():
        if "modulation" in name or "start_token" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def build_vqvae(**overrides) -> VQModel:
    """A tokenizer with 4 x 4 pixels a token."""
    torch.manual_seed(0)
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 8, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "vq_embed_dim": 4,
        "num_vq_embeddings": 32,
        "norm_num_groups": 4,
        "lookup_from_codebook": True,
        "mid_block_add_attention": False,
    }
    return VQModel(**{**settings, **overrides}).eval()


@pytest.fixture(scope="session")
def make_model():
    return build_model


@pytest.fixture(scope="session")
def make_rar():
    return build_rar


@pytest.fixture(scope="session")
def make_vqvae():
    return build_vqvae


@pytest.fixture
def model():
    return build_model()


@pytest.fixture
def vqvae():
    return build_vqvae()


@pytest.fixture(scope="session")
def hasty_checkpoint(tmp_path_factory):
    """The shipped model that stores four steps of decoding: where it is enough that something is generated."""
    folder = tmp_path_factory.mktemp("hasty") / "icons"
    shutil.copytree(randar_hf.demo_checkpoint(), folder)
    settings = folder / "transformer" / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"num_inference_steps": 4}))
    return folder


@pytest.fixture
def hasty(hasty_checkpoint, monkeypatch):
    """Let `demo_checkpoint()` be the one of four steps."""
    monkeypatch.setitem(randar_hf.DEMO_FOLDERS, "randar", str(hasty_checkpoint))


@pytest.fixture
def class_names():
    return dict(CLASS_NAMES)


@pytest.fixture
def pipe(model, vqvae, class_names):
    pipe = RandARPipeline(transformer=model, vqvae=vqvae, id2label=class_names)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def saved_pipeline(tmp_path_factory):
    """The folder of a pipeline of 5 classes, 16 tokens and 16 x 16 pixels; tests that write take a copy."""
    folder = tmp_path_factory.mktemp("pipeline") / "model"
    RandARPipeline(build_model(), build_vqvae(), id2label=CLASS_NAMES).save_pretrained(folder)
    return folder


@pytest.fixture
def generators():
    """`generators(3)` gives three generators with the seeds 0, 1, 2."""
    return lambda count, first=0: [torch.Generator().manual_seed(first + i) for i in range(count)]


@pytest.fixture
def published():
    """`published("llamagen")` gives the tensors of that parity case with random numbers."""

    def make(case: str) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = json.loads((FIXTURES / case / "case.json").read_text())["checkpoint"]
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    return make


@pytest.fixture
def published_files(published, tmp_path):
    """`published_files("randar", "maskgit_vq")` writes a model of 64 codes and 10 classes and its tokenizer."""

    def write(model: str = "randar", tokenizer: str = "llamagen_vq", name: str = "model.pt") -> tuple[Path, Path]:
        tensors = published(model)
        for codes in ("tok_embeddings.weight", "output.weight"):
            tensors[codes] = tensors[codes][:64].clone()
        torch.save({"model": tensors}, tmp_path / name)
        torch.save(published(tokenizer), tmp_path / "tokenizer.pt")
        return tmp_path / name, tmp_path / "tokenizer.pt"

    return write


@pytest.fixture
def settings_from(monkeypatch):
    """`settings_from(words)`: the settings with which a training command would run."""

    def settings_from(words: list[str]):
        seen = []
        for function in ("trainer.train", "tokenizer_training.train_tokenizer", "tokenizing.tokenize_images"):
            monkeypatch.setattr(f"randar_hf.training.{function}", seen.append)
        assert main(words) == 0
        return seen.pop()

    return settings_from


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium


@pytest.fixture
def open_url(chromium):
    """A function that opens a page of a server; the page's own errors and requests to other servers fail the test."""
    contexts, wrong = [], []

    def open_page(url, width=1280, height=1000, **settings):
        folder = tempfile.mkdtemp()
        viewport = {"width": width, "height": height}
        context = chromium.launch_persistent_context(
            folder, executable_path=CHROMIUM, args=CHROMIUM_FLAGS, viewport=viewport, **settings
        )
        contexts.append((context, folder))
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        own = (f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/", "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(own) or wrong.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context, folder in contexts:
        context.close()
        shutil.rmtree(folder, ignore_errors=True)
    assert not wrong


@pytest.fixture
def keep(tmp_path):
    """A function that keeps a screenshot, in `$BROWSER_ARTEFACTS` if it is set, and returns its pixels."""
    folder = Path(os.environ.get("BROWSER_ARTEFACTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def screenshot(page, name, full_page=True):
        return np.asarray(Image.open(io.BytesIO(page.screenshot(path=folder / f"{name}.png", full_page=full_page))))

    return screenshot
