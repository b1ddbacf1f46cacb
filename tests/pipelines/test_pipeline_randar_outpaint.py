"""RandAROutpaintPipeline: canvases to every side, full attention and sliding windows, bad input."""

from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

from randar_hf.pipelines import RandARInpaintPipeline, RandAROutpaintPipeline, RandARPipeline
from randar_hf.pipelines.canvas import plan_windows
from randar_hf.vq import encode_images


SIDES = [
    {"right": 16},
    {"left": 8},
    {"top": 12},
    {"bottom": 20},
    {"left": 4, "right": 12, "top": 8, "bottom": 16},
]


@pytest.fixture
def pipe(model, vqvae, class_names):
    pipe = RandAROutpaintPipeline(transformer=model, vqvae=vqvae, id2label=class_names)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_images(count, height=16, width=16):
    """uint8 arrays (count, H, W, 3)."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def tokens(pipe, *args, seed=0, **kwargs):
    return pipe(*args, generator=torch.Generator().manual_seed(seed), output_type="latent", **kwargs).images


def position_of(image, left=0, top=0, **others):
    height, width = image.shape[:2]
    return slice(top, top + height), slice(left, left + width)


@pytest.mark.parametrize("attention", ["full", "sliding_window"])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_every_side_is_filled_and_the_image_stays(pipe, attention, sides, size):
    (image,) = make_images(1, *size)
    height = size[0] + sides.get("top", 0) + sides.get("bottom", 0)
    width = size[1] + sides.get("left", 0) + sides.get("right", 0)
    position = position_of(image, **sides)

    settings = {**sides, "attention": attention, "num_inference_steps": 4}
    latents = tokens(pipe, 1, image, **settings)
    assert latents.shape == (1, height * width // 16) and latents.min() >= 0
    known = encode_images(pipe.vqvae, torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1)
    in_tokens = tuple(slice(side.start // 4, side.stop // 4) for side in position)
    assert torch.equal(latents.view(height // 4, width // 4)[in_tokens], known[0])

    generator = torch.Generator().manual_seed(0)
    extended = pipe(1, PIL.Image.fromarray(image), **settings, generator=generator).images[0]
    assert extended.size == (width, height)
    np.testing.assert_array_equal(np.asarray(extended)[position], image)
    decoded = pipe.image_processor.postprocess(pipe.decode_latents(latents, height // 4, width // 4))[0]
    around = np.ones((height, width), dtype=bool)
    around[position] = False
    np.testing.assert_array_equal(np.asarray(extended)[around], np.asarray(decoded)[around])


def test_arrays_and_tensors_keep_their_numbers(pipe):
    floats = np.random.default_rng(1).random((2, 16, 16, 3), dtype=np.float32)
    result = pipe([0, 1], floats, top=4, left=8, output_type="np").images
    np.testing.assert_array_equal(result[:, 4:, 8:], floats)
    tensor = torch.from_numpy(floats).permute(0, 3, 1, 2)
    result = pipe([0, 1], tensor, bottom=4, output_type="pt").images
    assert torch.equal(result[:, :, :16], tensor)


def test_full_attention_is_one_generation_on_the_canvas(pipe):
    image = make_images(1)
    latents = tokens(pipe, 2, image, right=16, num_inference_steps=7)
    encoded = encode_images(pipe.vqvae, torch.from_numpy(image).permute(0, 3, 1, 2) / 127.5 - 1)
    known_mask = torch.zeros(4, 8, dtype=torch.bool)
    known_mask[:, :4] = True
    expected = pipe.transformer.generate(
        [2],
        grid_size=(4, 8),
        known_tokens=torch.nn.functional.pad(encoded, (0, 4)).flatten(1),
        known_mask=known_mask.flatten()[None],
        num_inference_steps=7,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(latents, expected)


@pytest.mark.parametrize("attention", ["full", "sliding_window"])
def test_an_image_does_not_depend_on_its_batch(pipe, generators, attention):
    images = list(make_images(2))
    settings = {"right": 12, "bottom": 8, "attention": attention, "output_type": "latent", "num_inference_steps": 4}
    together = pipe([1, 4], images, num_images_per_prompt=2, generator=generators(4), **settings).images
    for i, label in enumerate([1, 1, 4, 4]):
        alone = pipe(label, images[i // 2], generator=generators(1, i), **settings).images
        assert torch.equal(together[i], alone[0])


# Windows


@pytest.mark.parametrize(
    ("grid", "window", "known"),
    [
        ((8, 24), (8, 8), (slice(0, 8), slice(0, 8))),
        ((8, 24), (8, 8), (slice(0, 8), slice(16, 24))),
        ((7, 11), (4, 4), (slice(2, 6), slice(3, 7))),
        ((9, 3), (4, 4), (slice(4, 5), slice(0, 3))),
        ((3, 3), (4, 4), (slice(0, 1), slice(0, 1))),
        ((6, 6), (1, 1), (slice(2, 3), slice(2, 3))),
        ((10, 10), (5, 3), (slice(0, 2), slice(0, 2))),
    ],
)
def test_windows_cover_the_canvas(grid, window, known):
    filled = torch.zeros(grid, dtype=torch.bool)
    filled[known] = True
    windows = plan_windows(filled, window)
    for part in windows:
        inside = filled[part.rows, part.columns]
        assert torch.equal(part.known, inside) and not inside.all()
        assert inside.shape == tuple(map(min, zip(window, grid)))
        assert inside.any() or window == (1, 1)  # there is something to go on from
        filled[part.rows, part.columns] = True
    assert filled.all()


def test_windows_move_by_half_their_size():
    known = torch.zeros(8, 24, dtype=torch.bool)
    known[:, :8] = True
    assert [part.columns.start for part in plan_windows(known, (8, 8))] == [4, 8, 12, 16]


def test_a_window_sees_nothing_else(pipe, monkeypatch):
    """Each forward pass holds one window's tokens and positions, and they are those of the canvas at that time."""
    fed, canvases = [], []
    forward = pipe.transformer.forward

    def watch(*args, input_ids, rotary, **kwargs):
        fed.append(input_ids[0].view(4, 4))
        assert torch.equal(rotary, pipe.transformer.model.rotary_table(4, 4, "cpu"))
        return forward(*args, input_ids=input_ids, rotary=rotary, **kwargs)

    def keep(pipe, step, timestep, inputs):
        canvases.append(inputs["latents"][0].view(6, 8))
        return inputs

    monkeypatch.setattr(pipe.transformer, "forward", watch)
    sides = {"right": 16, "bottom": 8}
    tokens(
        pipe,
        3,
        make_images(1),
        **sides,
        attention="sliding_window",
        num_inference_steps=3,
        callback_on_step_end=keep,
    )
    known = torch.zeros(6, 8, dtype=torch.bool)
    known[:4, :4] = True
    windows = plan_windows(known, (4, 4))
    assert len(fed) == len(canvases) == pipe.num_timesteps == 3 * len(windows)
    for step, (seen, canvas) in enumerate(zip(fed, canvases)):
        window = windows[step // 3]
        before = canvases[step - 1] if step else torch.where(known, canvas, -1)
        assert torch.equal(seen, before[window.rows, window.columns])
        changed = before != canvas
        changed[window.rows, window.columns] = False
        assert not changed.any()
    assert canvases[-1].min() >= 0


def test_windows_do_what_generation_on_them_does(pipe):
    (image,) = make_images(1)
    latents = tokens(pipe, 2, image, right=8, attention="sliding_window").view(4, 6)
    known_mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    known_mask[:, :, :2] = True
    generator = torch.Generator().manual_seed(0)
    known_tokens = torch.nn.functional.pad(latents[:, 2:4], (0, 2)).flatten()[None]
    expected = pipe.transformer.generate(
        [2], known_tokens=known_tokens, known_mask=known_mask.flatten(1), generator=generator
    )
    assert torch.equal(latents[:, 2:].flatten(), expected[0])


# Callbacks


@pytest.mark.parametrize("attention", ["full", "sliding_window"])
def test_callback_sees_the_canvas_grow(pipe, attention):
    counts = []

    def watch(pipe, step, timestep, inputs):
        counts.append(int((inputs["latents"] >= 0).sum()))
        assert step == len(counts) - 1 and inputs["latents"].shape == (1, 36)
        return inputs

    sides = {"left": 4, "top": 4, "right": 4, "bottom": 4}
    pipe(0, make_images(1), **sides, attention=attention, num_inference_steps=4, callback_on_step_end=watch)
    assert len(counts) == pipe.num_timesteps and counts == sorted(counts) and counts[-1] == 36
    assert len(counts) == 4 if attention == "full" else len(counts) > 8


@pytest.mark.parametrize("attention", ["full", "sliding_window"])
def test_callback_changes_tokens_and_stops(pipe, attention):
    def zero(pipe, step, timestep, inputs):
        return {"latents": inputs["latents"].masked_fill(inputs["latents"] >= 0, 0)}

    def stop(pipe, step, timestep, inputs):
        pipe._interrupt = step == 1
        return inputs

    settings = {"right": 32, "attention": attention}
    latents = tokens(pipe, 0, make_images(1), callback_on_step_end=zero, **settings)
    assert (latents == 0).all()
    latents = tokens(pipe, 0, make_images(1), callback_on_step_end=stop, **settings)
    assert 0 < (latents < 0).sum() < 32
    image = pipe(0, make_images(1), callback_on_step_end=stop, output_type="np", **settings).images[0]
    assert (image[:, 40:] == 0.5).any()


def test_callback_changes_guidance_in_windows(pipe):
    def turn_off(pipe, step, timestep, inputs):
        pipe._guidance_scale = 0.0
        return inputs

    settings = {"right": 32, "attention": "sliding_window", "guidance_scale": 3.0, "guidance_schedule": "constant"}
    changed = tokens(pipe, 0, make_images(1), callback_on_step_end=turn_off, **settings)
    assert not torch.equal(changed, tokens(pipe, 0, make_images(1), **settings))


# As a pipeline


def test_refine_leaves_the_image(pipe):
    plain, refined = (tokens(pipe, 0, make_images(1), right=16, refine=rounds).view(4, 8) for rounds in (0, 2))
    assert torch.equal(plain[:, :4], refined[:, :4]) and not torch.equal(plain, refined)


@pytest.mark.parametrize("attention", ["full", "sliding_window"])
def test_settings_reach_the_model(pipe, attention):
    settings = {"right": 16, "attention": attention}
    plain = tokens(pipe, 0, make_images(1), **settings)
    for changed in ({"order": "raster"}, {"top_k": 1}, {"spatial_guidance_scale": 2.0}, {"guidance_scale": 1.0}):
        assert not torch.equal(tokens(pipe, 0, make_images(1), **settings, **changed), plain)


def test_from_pipe_save_and_load(pipe, tmp_path):
    image = make_images(1)
    expected = tokens(pipe, "tench", image, right=8)
    inpaint = RandARInpaintPipeline.from_pipe(RandARPipeline.from_pipe(pipe))
    moved = RandAROutpaintPipeline.from_pipe(inpaint)
    assert moved.transformer is pipe.transformer and moved.id2label == pipe.id2label
    assert torch.equal(tokens(moved, "tench", image, right=8), expected)
    pipe.save_pretrained(tmp_path)
    loaded = RandAROutpaintPipeline.from_pretrained(tmp_path)
    assert torch.equal(tokens(loaded, "tench", image, right=8), expected)


def test_half_precision_keeps_the_image_exact(pipe):
    pipe.to(torch.bfloat16)
    (image,) = make_images(1)
    extended = pipe(0, image, left=8, attention="sliding_window").images[0]
    np.testing.assert_array_equal(np.asarray(extended)[:, 8:], image)


@pytest.mark.parametrize("attention", ["full", "sliding_window"])
def test_offload_hooks(pipe, attention):
    expected = tokens(pipe, 0, make_images(1), right=8, attention=attention)
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(tokens(pipe, 0, make_images(1), right=8, attention=attention), expected)


# Bad input


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("`attention` must be one of full, sliding_window, got 'local'", {"attention": "local"}),
        ("`right` must be a number of pixels of at least 0, got -4", {"right": -4}),
        ("`top` must be a number of pixels of at least 0, got 4.0", {"top": 4.0}),
        ("`left`, `right`, `top` and `bottom` must not all be 0", {"right": 0}),
        ("`bottom` must be a multiple of the 4 pixels of a token, got 6: take 4 or 8", {"bottom": 6}),
        ("`left` must be a multiple of the 4 pixels of a token, got 3: take 4", {"left": 3}),
        ("`image` must have sides .* got 15 x 18 pixels .* to 16 x 16", {"image": np.ones((15, 18, 3))}),
        ("`image` must have sides .* got 1 x 16 pixels .* to 4 x 16", {"image": np.ones((1, 16, 3))}),
        ("`image` must hold images of one size, got 8 x 8, 8 x 16", {"image": [np.ones((8, s, 3)) for s in (16, 8)]}),
        ("`image` must be one for all or one for each of 2 labels, got 3", {"image": np.ones((3, 16, 16, 3))}),
        ("`refine` must be 0 unless `attention` is 'full'", {"refine": 1, "attention": "sliding_window"}),
        ("`refine`", {"refine": -1}),
        ("`class_labels`", {"class_labels": [0, 6]}),
        ("`num_inference_steps`", {"num_inference_steps": 33}),
        ("`num_inference_steps`", {"num_inference_steps": 17, "attention": "sliding_window"}),
        ("`order`", {"order": torch.arange(16)}),
        ("`order`", {"order": torch.arange(32), "attention": "sliding_window"}),
        ("`generator`", {"generator": [torch.Generator()] * 3}),
        ("`output_type`", {"output_type": "jpeg"}),
        ("`spatial_dropout`", {"spatial_dropout": -0.1}),
    ],
)
def test_bad_input_is_named_before_anything_runs(pipe, monkeypatch, message, arguments):
    monkeypatch.setattr(pipe.transformer, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    monkeypatch.setattr(pipe.vqvae, "encode", lambda *args, **kwargs: pytest.fail("the tokenizer ran"))
    with pytest.raises(ValueError, match=message):
        pipe(**{"class_labels": [0, 1], "image": make_images(2), "right": 16, **arguments})


def test_other_types_are_named(pipe):
    with pytest.raises(TypeError, match="`image` must be a PIL image"):
        pipe(0, 5, right=8)


@pytest.mark.parametrize("kind", ["dense", "merge"])
def test_models_of_one_grid_are_refused(make_model, vqvae, monkeypatch, kind):
    monkeypatch.setattr(vqvae, "encode", lambda *args, **kwargs: pytest.fail("the tokenizer ran"))
    with pytest.raises(ValueError, match="`grid_size` must be the trained .* embedding"):
        RandAROutpaintPipeline(make_model(position_instruction=kind), vqvae)(0, make_images(1), right=16)


def test_more_tokens_than_memory(pipe, monkeypatch):
    monkeypatch.setattr(pipe.vqvae, "encode", lambda *args, **kwargs: pytest.fail("the tokenizer ran"))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**20))
    with pytest.raises(ValueError, match="1024 tokens an image, whose decoding takes at least .* GiB"):
        pipe(0, make_images(1), right=1008)
    with pytest.raises(ValueError, match="canvas of at most 67108864 pixels"):
        pipe(0, make_images(1), right=2**22)  # 16 rows of pixels
