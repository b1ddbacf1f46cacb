"""Weights that lie elsewhere until a layer runs, and another default device."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from diffusers.hooks import apply_group_offloading

from randar_hf.devices import execution_device
from randar_hf.pipelines import (
    RandARExtrapolationPipeline,
    RandARInpaintPipeline,
    RandAROutpaintPipeline,
    RandARPipeline,
    RARPipeline,
)
from randar_hf.vq import decode, encode


@pytest.mark.parametrize("offload", ["cpu", "disk"])
@pytest.mark.parametrize("build", ["make_model", "make_rar"])
@pytest.mark.parametrize("batch_size", [1, 8, 9])  # an RAR makes the modulations of few images ahead
def test_offloaded_weights_give_the_same_tokens(build, offload, batch_size, request, tmp_path, generators):
    make = request.getfixturevalue(build)
    expected = make().generate([0] * batch_size, generator=generators(batch_size))
    model = make()
    cpu_offload(model, torch.device("cpu")) if offload == "cpu" else disk_offload(model, tmp_path, torch.device("cpu"))
    assert all(weight.is_meta for weight in model.parameters())
    assert torch.equal(model.generate([0] * batch_size, generator=generators(batch_size)), expected)


@pytest.mark.parametrize("build", ["make_model", "make_rar"])
def test_the_default_device_is_not_that_of_generation(build, request, generators):
    model = request.getfixturevalue(build)()
    known = torch.arange(16)[None] < 4
    calls = [{}, {"known_tokens": torch.zeros(1, 16, dtype=torch.long), "known_mask": known}]
    for settings in calls:
        expected = model.generate([0], generator=generators(1), **settings)
        with torch.device("meta"):
            assert torch.equal(model.generate([0], generator=generators(1), **settings), expected)


@pytest.mark.parametrize("kind", [{"offload_type": "leaf_level"}, {"num_blocks_per_group": 1}])
@pytest.mark.parametrize(("build", "pipeline"), [("make_model", RandARPipeline), ("make_rar", RARPipeline)])
def test_group_offloading_gives_the_same_images(build, pipeline, kind, request, vqvae, generators):
    pipe = pipeline(request.getfixturevalue(build)(), vqvae)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe([0, 1], generator=generators(2), output_type="pt").images
    pipe.enable_group_offload(onload_device=torch.device("cpu"), exclude_modules="vqvae", **kind)
    assert torch.equal(pipe([0, 1], generator=generators(2), output_type="pt").images, expected)


def test_a_model_that_diffusers_offloads_runs_on_the_device_of_its_groups(model):
    apply_group_offloading(model, onload_device=torch.device("cpu"), offload_type="leaf_level")
    for part in model.modules():
        if hasattr(part, "_diffusers_hook"):
            part._diffusers_hook.get_hook("group_offloading").config.onload_device = torch.device("cuda")
    assert model.device == torch.device("cpu") and execution_device(model) == torch.device("cuda")


def public_calls(model, vqvae):
    """Every call that makes tensors of its own, by name."""
    tokens, mask = torch.arange(16)[None] % 8, torch.zeros(16, 16)
    mask[:8] = 1

    def sample(pipeline, *inputs, **settings):
        pipe = pipeline(model, vqvae)
        pipe.set_progress_bar_config(disable=True)
        return pipe(0, *inputs, generator=torch.Generator().manual_seed(0), output_type="pt", **settings).images

    seeded = {"generator": torch.Generator().manual_seed(0)}
    calls = {
        "forward": lambda: model(tokens, order=torch.arange(16, device="cpu")).logits,
        "features": lambda: model.extract_features(tokens, order="raster"),
        "likelihood": lambda: model.log_likelihood(tokens, [0], order="raster"),
        "classes": lambda: model.class_log_likelihoods(tokens, generator=seeded["generator"].manual_seed(0)),
        "codes": lambda: encode(vqvae, torch.ones(1, 3, 16, 16, device="cpu")),
        "images": lambda: decode(vqvae, tokens.view(1, 4, 4)),
    }
    if model.config.model_type == "rar":
        return calls | {"pipeline": lambda: sample(RARPipeline)}
    image = torch.rand(3, 16, 16)
    settings = {"generator": seeded["generator"], "num_inference_steps": 4}
    return calls | {
        "refine": lambda: model.refine(tokens, [0], **settings | {"generator": settings["generator"].manual_seed(0)}),
        "pipeline": lambda: sample(RandARPipeline),
        "inpaint": lambda: sample(RandARInpaintPipeline, image, mask, strength=0.5, seam=2, refine=1),
        "outpaint": lambda: sample(RandAROutpaintPipeline, image, right=8, attention="sliding_window"),
        "extrapolate": lambda: sample(RandARExtrapolationPipeline, height=28, width=28, spatial_guidance_scale=2.0),
    }


@pytest.mark.parametrize("build", ["make_model", "make_rar"])
def test_no_public_call_takes_the_default_device(build, request, vqvae):
    model = request.getfixturevalue(build)().eval()
    for name, call in public_calls(model, vqvae).items():
        expected = call()
        with torch.device("meta"):
            assert torch.equal(call(), expected), name
