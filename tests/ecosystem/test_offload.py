"""Weights that lie elsewhere until a layer runs, and another default device."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from diffusers.hooks import apply_group_offloading

from randar_hf.devices import execution_device
from randar_hf.pipelines import RandARPipeline, RARPipeline


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
