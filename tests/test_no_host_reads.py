"""
Nothing is read from the device while tokens are decoded, and no device is mixed with another.

The weights lie on the meta device, which has no values: any read and any mixture raises there.
"""

import pytest
import torch
from transformers import CompileConfig

from randar_hf.late_flags import LateFlags
from randar_hf.pipelines import (
    RandARExtrapolationPipeline,
    RandARInpaintPipeline,
    RandAROutpaintPipeline,
    RandARPipeline,
    RARPipeline,
)


TOKENS, KNOWN = torch.zeros(2, 9, dtype=torch.long), torch.arange(9)[None] < torch.tensor([[2], [5]])
IMAGE, MASK = torch.rand(2, 3, 12, 12), (torch.arange(12) > 6).float().expand(2, 1, 12, 12)
PACES = [{}, {"speculative_window": 3}]


@pytest.fixture
def model(make_model):
    return make_model(num_hidden_layers=1, grid_size=3)


@pytest.fixture
def rar(make_rar):
    return make_rar(num_hidden_layers=1, grid_size=3)


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_k": 3, "top_p": 0.9, "temperature": 1.2},
        {"do_sample": False},
        {"guidance_scale": 1.0},
        {"spatial_guidance_scale": 2.0},
        {"known_tokens": TOKENS, "known_mask": KNOWN},
        {"known_tokens": TOKENS.to("meta"), "known_mask": KNOWN, "spatial_guidance_scale": 2.0},
    ],
)
def test_models(model, rar, settings, pace):
    for each in (model, rar):
        assert each.to("meta").generate([0, 1], **settings, **pace).device.type == "meta"


@pytest.mark.parametrize("mask", [None, KNOWN])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_refining(model, mask, device):
    labels = torch.tensor([0, 1])
    found = model.to("meta").refine(TOKENS.to(device), labels, mask, num_rounds=2, known_mask=KNOWN.flip(1))
    assert found.device.type == "meta"


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize(
    ("pipeline", "arguments"),
    [
        (RandARPipeline, {"spatial_guidance_scale": 2.0, "refine": 2}),
        (RandARInpaintPipeline, {"image": IMAGE, "mask_image": MASK, "strength": 0.7, "seam": 2, "refine": 1}),
        (RandAROutpaintPipeline, {"image": IMAGE, "left": 4, "refine": 1}),
        (RandAROutpaintPipeline, {"image": IMAGE, "left": 4, "attention": "sliding_window"}),
        (RandARExtrapolationPipeline, {"refine": 1}),
        (RARPipeline, {}),
    ],
)
def test_pipelines_up_to_the_pixels(model, rar, vqvae, pipeline, arguments, pace):
    pipe = pipeline((rar if pipeline is RARPipeline else model).to("meta"), vqvae.to("meta"))
    pipe.set_progress_bar_config(disable=True)
    images = pipe([0, 1], output_type="pt", **arguments, **pace).images
    assert images.device.type == "meta" and images.shape[:2] == (2, 3)


def test_flags_are_read_where_there_are_values():
    flags = torch.tensor([True, False])
    late = LateFlags()
    assert late.read(flags) == [True, False] and late.read(flags.to("meta")) == [False, False]
    assert late.read_last() == []


@pytest.mark.gpu
def test_flags_of_a_gpu_are_those_of_the_step_before():
    late, flags = LateFlags(), torch.tensor([False, False], device="cuda")
    seen = []
    torch.cuda.set_sync_debug_mode("error")
    for index in range(4):
        flags = flags | (torch.arange(2, device="cuda") < index)
        seen.append(late.read(flags))
    torch.cuda.set_sync_debug_mode("default")
    assert seen == [[False, False], [False, False], [True, False], [True, True]] and late.read_last() == [True, True]


@pytest.mark.gpu
@pytest.mark.parametrize("pace", [{"num_inference_steps": 5}, {"speculative_window": 4}])
@pytest.mark.parametrize("build", ["make_model", "make_rar"])
def test_captured_passes_give_the_tokens_of_eager_ones(build, pace, request, generators):
    model = request.getfixturevalue(build)().to("cuda")
    pace = pace if build == "make_model" or "speculative_window" in pace else {}
    config = CompileConfig(fullgraph=True, mode="reduce-overhead")
    for batch_size in (1, 3):
        labels, expected = [0] * batch_size, model.generate([0] * batch_size, generator=generators(batch_size), **pace)
        for _ in range(2):
            found = model.generate(labels, generator=generators(batch_size), compile_config=config, **pace)
            assert torch.equal(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("pace", [{"num_inference_steps": 5}, {"speculative_window": 4}])
def test_a_gpu_gives_the_tokens_of_the_cpu_without_a_sync(make_model, generators, pace):
    model = make_model()
    expected = model.generate([0, 1], generator=generators(2), **pace)
    states = model.to("cuda").generation_steps([0, 1], generator=generators(2), **pace)
    next(states)
    torch.cuda.set_sync_debug_mode("error")
    *_, state = states
    torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(state.tokens.cpu(), expected)
