"""The published programs' own numbers, for small seeded weights."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from randar_hf import vq
from randar_hf.conversion import convert_llamagen, convert_llamagen_vq, convert_maskgit_vq, convert_randar, convert_rar


FIXTURES = Path(__file__).parent / "fixtures"


def make_checkpoint(case: dict) -> dict[str, torch.Tensor]:
    """The seeded weights of a case: standard normal numbers by name, norms near one, the rest by fan-in."""
    tensors = {}
    for name, shape in case["checkpoint"].items():
        seed = zlib.crc32(name.encode()) + case["fill_seed"]
        numbers = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            numbers = 1 + 0.1 * numbers if name.endswith("weight") else 0.1 * numbers
        else:
            numbers = numbers / np.sqrt(np.prod(shape[1:]))
        tensors[name] = torch.from_numpy(numbers.astype(np.float32))
    return tensors


def load_case(name: str) -> tuple[dict[str, torch.Tensor], dict, dict[str, torch.Tensor]]:
    """Checkpoint, the reference program's arguments and its numbers."""
    case = json.loads((FIXTURES / name / "case.json").read_text())
    return make_checkpoint(case), case["config"], load_file(FIXTURES / name / "expected.safetensors")


@pytest.fixture(scope="module")
def randar():
    checkpoint, config, expected = load_case("randar")
    return convert_randar(checkpoint, num_attention_heads=config["n_head"], grid_size=4), expected


@pytest.fixture(scope="module")
def llamagen():
    checkpoint, config, expected = load_case("llamagen")
    return convert_llamagen(checkpoint, num_attention_heads=config["n_head"], grid_size=4), expected


@pytest.fixture(scope="module")
def rar():
    checkpoint, _, expected = load_case("rar")
    return convert_rar(checkpoint), expected


@torch.no_grad()
def test_randar_logits_and_loss(randar):
    model, expected = randar
    tokens, order = expected["image_tokens"], expected["order"]
    outputs = model(tokens, expected["class_labels"], order=order, labels=tokens)
    assert (outputs.logits - expected["logits"]).abs().max() < 1e-5
    assert abs(outputs.loss - expected["loss"][0]) < 1e-5
    null = model(tokens, torch.full((3,), model.config.num_classes), order=order).logits
    assert (null - expected["null_logits"]).abs().max() < 1e-5


@pytest.mark.parametrize("steps", [4, 5, 16])
@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 4), (4, 4)])
def test_randar_greedy_tokens(randar, steps, low, high):
    model, expected = randar
    tokens = model.generate(
        expected["class_labels"],
        order=expected["order"],
        num_inference_steps=steps,
        guidance_scale=float(high),
        guidance_schedule="constant" if low == high else "linear",
        do_sample=False,
    )
    assert torch.equal(tokens, expected[f"greedy_steps{steps}_cfg{low}-{high}"])


@torch.no_grad()
def test_llamagen_logits(llamagen):
    model, expected = llamagen
    logits = model(expected["image_tokens"], expected["class_labels"]).logits
    assert (logits - expected["logits"]).abs().max() < 1e-5


@pytest.mark.parametrize("scale", [1, 4])
def test_llamagen_greedy_tokens(llamagen, scale):
    model, expected = llamagen
    tokens = model.generate(
        expected["class_labels"],
        order="raster",
        num_inference_steps=16,
        guidance_scale=float(scale),
        guidance_schedule="constant",
        do_sample=False,
    )
    assert torch.equal(tokens, expected[f"greedy_cfg{scale}"])


@torch.no_grad()
def test_rar_logits(rar):
    model, expected = rar
    tokens, labels = expected["image_tokens"], expected["class_labels"]
    assert (model(tokens, labels, order=expected["order"]).logits - expected["logits_random"]).abs().max() < 1e-5
    assert (model(tokens).logits - expected["null_logits_raster"]).abs().max() < 1e-5
    for either in (model, model.merge_positions()):
        assert (either(tokens, labels).logits - expected["logits_raster"]).abs().max() < 1e-5


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(
    ("case", "scale", "power"), [("cfg0_pow0", 1.0, 0.0), ("cfg16_pow2.75", 16.0, 2.75), ("cfg4_pow0", 4.0, 0.0)]
)
def test_rar_greedy_tokens(rar, case, scale, power, merged):
    """The scale 0 turns guidance off there, which is 1 here."""
    model, expected = rar
    model = model.merge_positions() if merged else model
    tokens = model.generate(
        expected["class_labels"], guidance_scale=scale, guidance_power=power, temperature=1.0, do_sample=False
    )
    assert torch.equal(tokens, expected[f"greedy_{case}"])


@pytest.mark.parametrize(
    ("name", "convert", "clamped"),
    [("llamagen_vq", convert_llamagen_vq, False), ("maskgit_vq", convert_maskgit_vq, True)],
)
def test_tokenizers(name, convert, clamped):
    checkpoint, _, expected = load_case(name)
    vqvae = convert(checkpoint)
    tokens = vq.encode(vqvae, expected["image"])  # (B, h, w)
    assert torch.equal(tokens, expected["indices"].view_as(tokens))
    decoded = vq.decode(vqvae, tokens)
    if clamped:  # by the program, to MaskGIT's range
        decoded = decoded.clamp(0, 1)
    assert (decoded - expected["decoded"]).abs().max() < 1e-4
