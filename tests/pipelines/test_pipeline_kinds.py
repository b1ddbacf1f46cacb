"""Each pipeline takes one kind of model; all of them pass the exponent of guidance on."""

import pytest
import torch
from PIL import Image

from randar_hf.pipelines import (
    RandARExtrapolationPipeline,
    RandARInpaintPipeline,
    RandAROutpaintPipeline,
    RandARPipeline,
    RARPipeline,
)


IMAGE, MASK = Image.linear_gradient("L").resize((16, 16)), Image.new("L", (16, 16), 255)
ARGUMENTS = {
    RandARPipeline: {},
    RandARInpaintPipeline: {"image": IMAGE, "mask_image": MASK},
    RandAROutpaintPipeline: {"image": IMAGE, "left": 8},
    RandARExtrapolationPipeline: {},
    RARPipeline: {},
}
OF_RANDAR = [pipeline for pipeline in ARGUMENTS if pipeline is not RARPipeline]


@pytest.fixture
def randar_pipe(model, vqvae):
    return RandARPipeline(model, vqvae)


@pytest.mark.parametrize("pipeline", OF_RANDAR)
def test_a_rar_model_is_refused_that_it_is_not_made_for(rar_pipe, pipeline, tmp_path):
    rar_pipe.save_pretrained(tmp_path)
    message = (
        f"`transformer` must be a RandARForCausalLM for {pipeline.__name__}, got RARForCausalLM: RARPipeline .*"
        "one order, so it cannot inpaint, outpaint or extrapolate"
    )
    for make in (
        lambda: pipeline(rar_pipe.transformer, rar_pipe.vqvae),
        lambda: pipeline.from_pipe(rar_pipe),
        lambda: pipeline.from_pretrained(tmp_path),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_randar_model_has_a_pipeline_of_its_own(randar_pipe, make_model, tmp_path):
    randar_pipe.save_pretrained(tmp_path)
    llamagen = make_model(position_instruction="none")
    for make in (
        lambda: RARPipeline(randar_pipe.transformer, randar_pipe.vqvae),
        lambda: RARPipeline(llamagen, randar_pipe.vqvae),
        lambda: RARPipeline.from_pipe(randar_pipe),
        lambda: RARPipeline.from_pipe(RandARInpaintPipeline.from_pipe(randar_pipe)),
        lambda: RARPipeline.from_pretrained(tmp_path),
    ):
        with pytest.raises(
            ValueError, match="`transformer` must be a RARForCausalLM for RARPipeline, got RandAR.*: RandARPipeline"
        ):
            make()


def test_what_is_no_model_is_refused(vqvae):
    with pytest.raises(ValueError, match="`transformer` must be a RARForCausalLM for RARPipeline, got VQModel.$"):
        RARPipeline(vqvae, vqvae)


def test_images_of_tokens_need_no_transformer(rar_pipe, tmp_path):
    rar_pipe.save_pretrained(tmp_path)
    alone = RARPipeline.from_pretrained(tmp_path, transformer=None)
    sampled = torch.arange(16)[None]
    torch.testing.assert_close(alone.decode_latents(sampled, 4, 4), rar_pipe.decode_latents(sampled, 4, 4))


@pytest.mark.parametrize("pipeline", ARGUMENTS)
def test_the_exponent_of_guidance_is_passed_on(rar, model, vqvae, pipeline):
    pipe = pipeline(rar if pipeline is RARPipeline else model, vqvae)
    pipe.set_progress_bar_config(disable=True)
    settings = {"guidance_scale": 8.0, "guidance_schedule": "power_cosine", "output_type": "latent"}

    def sample(power):
        generator = torch.Generator().manual_seed(0)
        return pipe(0, guidance_power=power, generator=generator, **settings, **ARGUMENTS[pipeline]).images

    assert torch.equal(sample(4.0), sample(4.0)) and not torch.equal(sample(4.0), sample(0.0))
    with pytest.raises(ValueError, match="`guidance_power` must be a finite number of at least 0, got -1"):
        sample(-1)


@pytest.mark.parametrize("pipeline", ARGUMENTS)
@pytest.mark.parametrize("more", [{}, {"refine": 1}])
def test_a_speculative_window_gives_the_tokens_of_one_step_a_token(rar, model, vqvae, pipeline, more):
    if more and pipeline is RARPipeline:
        return
    pipe = pipeline(rar if pipeline is RARPipeline else model, vqvae)
    pipe.set_progress_bar_config(disable=True)
    num_tokens = 24 if pipeline is RandAROutpaintPipeline else 16
    model.generation_config.num_inference_steps = num_tokens  # of refinement
    steps = []

    def sample(**settings):
        generator = [torch.Generator().manual_seed(i) for i in (0, 1)]
        steps.clear()
        settings |= {"callback_on_step_end": lambda *call: steps.append(call[1]), **more, **ARGUMENTS[pipeline]}
        return pipe([0, 3], generator=generator, output_type="latent", **settings).images

    expected = sample(num_inference_steps=num_tokens)
    count = len(steps)
    assert torch.equal(sample(speculative_window=5), expected) and len(steps) <= count
    with pytest.raises(ValueError, match="`speculative_window` must be an int of at least 1, got 0"):
        sample(speculative_window=0)
