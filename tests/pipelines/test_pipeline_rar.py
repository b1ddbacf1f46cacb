"""RARPipeline, beside what `test_pipeline_randar.py` shows of it."""

import diffusers.pipelines.pipeline_utils as pipeline_utils
import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import AutoModelForCausalLM

from randar_hf.pipelines import RARPipeline


def tokens(pipe, *args, seed=0, **kwargs):
    return pipe(*args, generator=torch.Generator().manual_seed(seed), output_type="latent", **kwargs).images


def test_pipeline_and_model_sample_the_same(rar_pipe):
    settings = {"guidance_scale": 3.0, "guidance_power": 2.0, "temperature": 0.9, "top_k": 9, "top_p": 0.9}
    expected = rar_pipe.transformer.generate([4, 1], generator=torch.Generator().manual_seed(0), **settings)
    assert torch.equal(tokens(rar_pipe, [4, 1], **settings), expected)


def test_stored_settings_are_the_defaults(rar_pipe):
    rar_pipe.transformer.generation_config.guidance_scale = 9.0
    rar_pipe.transformer.generation_config.guidance_power = 2.0
    assert rar_pipe.transformer.generation_config.guidance_schedule == "power_cosine"
    assert torch.equal(tokens(rar_pipe, 2), tokens(rar_pipe, 2, guidance_scale=9.0, guidance_power=2.0))
    assert not torch.equal(tokens(rar_pipe, 2), tokens(rar_pipe, 2, guidance_power=0.5))


def test_labels_by_name(rar_pipe):
    assert torch.equal(tokens(rar_pipe, ["white shark", "sea snake"]), tokens(rar_pipe, [1, 4]))
    assert not torch.equal(tokens(rar_pipe, "tench"), tokens(rar_pipe, "sea snake"))
    with pytest.raises(ValueError, match="`class_labels`.*near it are 'sea snake'"):
        rar_pipe("sea snaek")


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("num_images_per_prompt", {"num_images_per_prompt": 0}),
        ("output_type", {"output_type": "jpeg"}),
        ("callback_on_step_end", {"callback_on_step_end": 3}),
        ("callback_on_step_end_tensor_inputs", {"callback_on_step_end_tensor_inputs": ["noise"]}),
        ("num_inference_steps", {"num_inference_steps": 8}),
        ("guidance_schedule", {"guidance_schedule": "late"}),
        ("guidance_power", {"guidance_power": -1.0}),
        ("generator", {"generator": [torch.Generator()] * 3}),
    ],
)
def test_bad_input_is_named(rar_pipe, named, arguments):
    with pytest.raises(ValueError, match=f"`{named}`"):
        rar_pipe([0, 1], **arguments)


@pytest.mark.parametrize("name", ["raster", "spiral_out"])
def test_other_orders_are_refused(make_rar, vqvae, name):
    pipe = RARPipeline(make_rar(scan_order=name), vqvae)
    pipe.set_progress_bar_config(disable=True)
    expected = tokens(pipe, 0)
    other = torch.arange(16).roll(1)
    for order in ("random", "z_curve", other, other.expand(1, 16)):
        with pytest.raises(ValueError, match=f"`order` must be '{name}'.*RandAR"):
            pipe(0, order=order)
    assert torch.equal(tokens(pipe, 0, order=name, num_inference_steps=16), expected)


def test_a_model_that_was_not_annealed_goes_in_any_order(make_rar, vqvae):
    pipe = RARPipeline(make_rar(scan_order="random"), vqvae)
    seen = []
    pipe(0, order="spiral_in", num_inference_steps=5, callback_on_step_end=lambda *inputs: seen.append(inputs[1]))
    assert seen == list(range(5))


def test_what_only_random_order_can_do_is_no_argument(rar_pipe):
    for argument in ("refine", "spatial_guidance_scale"):
        with pytest.raises(TypeError, match=argument):
            rar_pipe(0, **{argument: 1})


def test_callback_sees_every_step_in_the_order_of_the_model(rar_pipe):
    seen = []

    def callback(pipe, step, timestep, inputs):
        seen.append((step, (inputs["latents"][0] >= 0).tolist()))
        return inputs

    rar_pipe(0, callback_on_step_end=callback)
    assert seen == [(step, [position <= step for position in range(16)]) for step in range(16)]
    assert rar_pipe.num_timesteps == 16


def test_callback_changes_latents_and_guidance(rar_pipe):
    def zeros(pipe, step, timestep, inputs):
        return {"latents": inputs["latents"].clamp(max=0)}

    def unguided(pipe, step, timestep, inputs):
        pipe._guidance_scale = 1.0

    assert (tokens(rar_pipe, 0, callback_on_step_end=zeros) == 0).all()
    expected = tokens(rar_pipe, 0, guidance_scale=9.0, guidance_power=0.0)
    assert not torch.equal(
        tokens(rar_pipe, 0, guidance_scale=9.0, guidance_power=0.0, callback_on_step_end=unguided), expected
    )


def test_save_and_load(rar_pipe, tmp_path, class_names, monkeypatch):
    rar_pipe.transformer.generation_config.guidance_power = 1.5
    rar_pipe.save_pretrained(tmp_path)
    warned = []
    monkeypatch.setattr(pipeline_utils.logger, "warning", lambda message, *args: warned.append(message))
    own = RARPipeline.from_pretrained(tmp_path)
    through_base = DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline="pipeline", trust_remote_code=True)
    assert type(through_base) is RARPipeline and own.id2label == class_names and not warned
    expected = tokens(rar_pipe, ["tench", 4])
    for loaded in (own, through_base):
        loaded.set_progress_bar_config(disable=True)
        assert torch.equal(tokens(loaded, ["tench", 4]), expected)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, subfolder="transformer")
    assert torch.equal(model.generate([0, 4], generator=torch.Generator().manual_seed(0)), expected)
