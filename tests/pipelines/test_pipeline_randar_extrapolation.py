"""Larger images: coarse tokens first, then the rest."""

import pytest
import torch

from randar_hf import demo_checkpoint, vq
from randar_hf.extrapolation import finer_grid
from randar_hf.pipelines import RandARExtrapolationPipeline, RandARPipeline


@pytest.fixture
def pipe(model, vqvae, class_names):
    pipe = RandARExtrapolationPipeline(transformer=model, vqvae=vqvae, id2label=class_names)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe, labels, seed=0, output_type="latent", num_inference_steps=4, **settings):
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(labels))]
    settings |= {"output_type": output_type, "num_inference_steps": num_inference_steps}
    return pipe(labels, generator=generators, **settings).images


def test_the_first_stage_equals_generation_at_the_trained_size(pipe, generators):
    native = pipe.transformer.generate([0, 3], num_inference_steps=4, generator=generators(2))
    finer = sample(pipe, [0, 3])
    assert torch.equal(finer.view(2, 8, 8)[:, ::2, ::2].reshape(2, -1), native)
    thrice = sample(pipe, [0, 3], height=48, width=48)
    assert torch.equal(thrice.view(2, 12, 12)[:, ::3, ::3].reshape(2, -1), native)


def test_shipped_images_of_twice_the_size_show_the_class():
    """Scaled down again, they are likeliest as the class asked for, among twelve."""
    pipe = RandARExtrapolationPipeline.from_pretrained(demo_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    classes = [8 * i for i in range(12)]
    pixels = sample(pipe, classes, output_type="pt", num_inference_steps=16, spatial_guidance_scale=1.0)
    small = torch.nn.functional.avg_pool2d(pixels, 2)  # (12, 3, 32, 32)
    tokens = vq.encode(pipe.vqvae, 2 * small - 1).flatten(1)  # (12, N)
    nats = pipe.transformer.class_log_likelihoods(tokens, classes, generator=torch.Generator().manual_seed(0))
    assert (nats.argmax(dim=1) == torch.arange(12)).sum() >= 8


@pytest.mark.parametrize("size", [(32, 32), (24, 24), (20, 32), (48, 40), (16, 16), (16, 28)])
@pytest.mark.parametrize("hierarchical", [True, False])
def test_any_factor_and_rectangle(pipe, generators, size, hierarchical):
    height, width = size
    settings = {"height": height, "width": width, "hierarchical": hierarchical}
    tokens = sample(pipe, [1], **settings)
    pixels = pipe.decode_latents(tokens, height // 4, width // 4)
    assert torch.equal(sample(pipe, [1], output_type="pt", **settings), (pixels / 2 + 0.5).clamp(0, 1))
    if hierarchical:  # the coarse tokens between cells are no part of the image
        finer = finer_grid((4, 4), height // 4, width // 4)
        coarse = pipe.transformer.generate([1], grid_size=finer.coarse, num_inference_steps=4, generator=generators(1))
        in_cells = finer.coarse_positions < tokens.shape[1]
        assert torch.equal(tokens[:, finer.coarse_positions[in_cells]], coarse[:, in_cells])


def test_the_trained_size_is_plain_generation(pipe, generators):
    expected = pipe.transformer.generate([0, 3], num_inference_steps=4, generator=generators(2))
    assert torch.equal(sample(pipe, [0, 3], height=16, width=16), expected)


@pytest.mark.parametrize(
    "settings", [{}, {"hierarchical": False}, {"spatial_dropout_tokens": "coarse"}, {"height": 24, "width": 24}]
)
def test_an_image_does_not_depend_on_its_batch(pipe, settings):
    together = sample(pipe, [0, 3, 4], **settings)
    for row, label in enumerate([0, 3, 4]):
        assert torch.equal(sample(pipe, [label], seed=row, **settings), together[row : row + 1])


def test_weight_one_is_no_spatial_guidance(pipe):
    plain = sample(pipe, [0], spatial_guidance_scale=1.0)
    rows = []
    forward = pipe.transformer.forward
    pipe.transformer.forward = lambda **inputs: rows.append(len(inputs["input_ids"])) or forward(**inputs)
    assert torch.equal(sample(pipe, [0], spatial_guidance_scale=1.0), plain) and set(rows) == {2}
    rows.clear()
    assert not torch.equal(sample(pipe, [0], spatial_guidance_scale=2.5), plain) and set(rows) == {2, 3}


def test_guidance_by_space_alone(pipe):
    rows = []
    forward = pipe.transformer.forward
    pipe.transformer.forward = lambda **inputs: rows.append(inputs) or forward(**inputs)
    sample(pipe, [0], guidance_scale=1.0)
    assert {len(inputs["input_ids"]) for inputs in rows} == {1, 2}
    assert all((inputs["class_labels"] == 0).all() for inputs in rows)


def dropped_at_the_end(pipe, **settings):
    """Fraction of all positions, and of the coarse ones, that spatial guidance's second sequence drops at the end."""
    seen = []
    forward = pipe.transformer.forward
    pipe.transformer.forward = lambda **inputs: seen.append(inputs["input_ids"]) or forward(**inputs)
    tokens = sample(pipe, [0], **settings)[0]
    pipe.transformer.forward = forward
    dropped = (seen[-1][-1] < 0) & (seen[-1][0] >= 0)
    assert tokens.shape == (64,)
    return dropped.sum().item(), dropped.view(8, 8)[::2, ::2].sum().item()


def test_dropout_of_all_or_of_coarse_tokens(pipe):
    everywhere, coarse = dropped_at_the_end(pipe, spatial_dropout=0.5)
    assert everywhere > coarse > 0
    everywhere, coarse = dropped_at_the_end(pipe, spatial_dropout=0.5, spatial_dropout_tokens="coarse")
    assert everywhere == coarse == 8
    assert dropped_at_the_end(pipe, spatial_dropout=0.0) == (0, 0)


def test_steps_in_the_open(pipe):
    partial = []

    def keep(pipe, step, timestep, inputs):
        partial.append(inputs["latents"])
        return inputs

    tokens = sample(pipe, [0], callback_on_step_end=keep)
    assert len(partial) == pipe.num_timesteps == 4 + 12
    known = [(latents >= 0).sum().item() for latents in partial]
    assert known == sorted(known) and known[3] == 16 and known[-1] == 64
    assert all(torch.equal(latents[latents >= 0], tokens[latents >= 0]) for latents in partial)


def test_refinement_keeps_the_size(pipe):
    plain = sample(pipe, [0])
    refined = sample(pipe, [0], refine=1, refine_share=0.25)
    assert refined.shape == plain.shape and 0 < (refined != plain).sum() <= 16


def test_pipelines_lend_their_parts(pipe):
    again = RandARPipeline.from_pipe(pipe)
    assert again.transformer is pipe.transformer and again.id2label == pipe.id2label
    assert RandARExtrapolationPipeline.from_pipe(again).vqvae is pipe.vqvae


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 30}, "`height` must be a multiple of the 4 pixels of a token, got 30: take 28 or 32"),
        ({"width": 2}, "`width` must be a multiple of the 4 pixels of a token, got 2: take 4"),
        ({"width": 0}, "`width` must be a positive number of pixels, got 0"),
        ({"width": 32.0}, "`width` must be a positive number"),
        ({"height": 12}, "must give at least the trained grid of 4 x 4 tokens, got 3 x 8"),
        ({"spatial_dropout": 1.0}, "`spatial_dropout` must lie in"),
        ({"spatial_guidance_scale": -1.0}, "`spatial_guidance_scale` must be"),
        ({"spatial_dropout_tokens": "fine"}, "`spatial_dropout_tokens` must be one of all, coarse, got 'fine'"),
        ({"num_extrapolated": -1}, "`num_extrapolated` must be"),
        ({"order": "sideways"}, "`order` must be the name"),
        ({"guidance_schedule": "quadratic"}, "`guidance_schedule` must be one of"),
        ({"num_inference_steps": 17}, "`num_inference_steps`"),
        ({"refine": -1}, "`refine`"),
        ({"refine_share": 0.0}, "`refine_share`"),
        ({"height": 400_000, "width": 400_000}, "tokens an image.*GiB"),
    ],
)
def test_wrong_input_is_named_before_any_work(pipe, settings, message):
    pipe.transformer.forward = None  # nothing runs
    with pytest.raises(ValueError, match=message):
        sample(pipe, [0], **settings)
