"""RandARInpaintPipeline: what is painted, what is kept, images and masks of any kind, bad input."""

import logging
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

from randar_hf.pipelines import RandARInpaintPipeline, RandARPipeline
from randar_hf.pipelines.masks import choose_fraction, composite, resize, seam_weights, tokens_under
from randar_hf.vq import encode_images


@pytest.fixture
def pipe(model, vqvae, class_names):
    pipe = RandARInpaintPipeline(transformer=model, vqvae=vqvae, id2label=class_names)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_images(count, height=16, width=16):
    """uint8 arrays (count, H, W, 3)."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def make_mask(height=16, width=16, rows=slice(4, 11), columns=slice(5, 13)):
    mask = np.zeros((height, width), dtype=bool)
    mask[rows, columns] = True
    return mask


def tokens(pipe, *args, seed=0, **kwargs):
    return pipe(*args, generator=torch.Generator().manual_seed(seed), output_type="latent", **kwargs).images


def encoded(pipe, images):
    return encode_images(pipe.vqvae, torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).flatten(1)


def pil(images):
    return [PIL.Image.fromarray(image) for image in images]


# Which tokens


def test_a_token_is_unknown_if_any_of_its_pixels_is_masked():
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[3, 3] = mask[4, 15] = True
    assert tokens_under(mask, (4, 4)).nonzero().flatten().tolist() == [0, 7]


@pytest.mark.parametrize("size", [(16, 16), (37, 50), (5, 300), (7, 4)])
def test_no_masked_pixel_gets_lost_in_another_size(size):
    for position in torch.randint(size[0] * size[1], (20,), generator=torch.Generator().manual_seed(0)).tolist():
        mask = torch.zeros(size, dtype=torch.bool)
        mask[position // size[1], position % size[1]] = True
        row, column = position // size[1] * 4 // size[0], position % size[1] * 4 // size[1]
        covered = tokens_under(mask, (4, 4)).view(4, 4)
        assert covered[row, column] and covered.sum() <= 4


def test_known_tokens_are_the_encoded_ones(pipe):
    images, mask = make_images(1), make_mask()
    latents = tokens(pipe, 2, pil(images), mask)
    unknown = tokens_under(torch.from_numpy(mask), (4, 4))
    assert torch.equal(latents[:, ~unknown], encoded(pipe, images)[:, ~unknown]) and latents.min() >= 0
    assert not torch.equal(latents, encoded(pipe, images))


def test_another_class_changes_masked_tokens_alone(pipe):
    image, mask = pil(make_images(1)), make_mask()
    own, other = tokens(pipe, "tench", image, mask), tokens(pipe, "sea snake", image, mask)
    changed = own != other
    assert changed.any() and not changed[:, ~tokens_under(torch.from_numpy(mask), (4, 4))].any()


def test_a_full_mask_is_plain_generation(pipe, generators):
    plain = RandARPipeline(pipe.transformer, pipe.vqvae)
    plain.set_progress_bar_config(disable=True)
    for output_type in ("latent", "pt"):
        expected = plain([0, 3], generator=generators(2), output_type=output_type).images
        settings = {"generator": generators(2), "output_type": output_type}
        assert torch.equal(pipe([0, 3], pil(make_images(2)), np.ones((16, 16)), **settings).images, expected)


def test_an_image_of_the_right_size_is_not_resized():
    image = torch.rand(1, 3, 16, 12)
    assert resize(image, (16, 12)) is image and resize(image, (16, 16)).shape == (1, 3, 16, 16)


def test_strength_keeps_a_fraction(pipe, generators):
    images, masks = make_images(2), np.stack([make_mask(), np.ones((16, 16), dtype=bool)])
    full = torch.stack([tokens_under(torch.from_numpy(mask), (4, 4)) for mask in masks])
    seen = []

    def watch(pipe, step, timestep, inputs):
        seen.append(inputs["latents"].clone())
        return inputs

    for strength in (0.1, 0.5, 0.75, 1.0):
        seen.clear()
        chosen = choose_fraction(full, strength, generators(2))
        expected = (full.sum(dim=1) * strength).round().clamp(min=1)
        assert torch.equal(chosen.sum(dim=1), expected.long()) and not (chosen & ~full).any()
        latents = pipe(
            [0, 1], pil(images), list(masks), strength=strength, generator=generators(2), output_type="latent",
            callback_on_step_end=watch, num_inference_steps=16,
        ).images  # fmt: skip
        assert torch.equal(latents[~chosen], encoded(pipe, images)[~chosen])
        assert ((seen[0] < 0) <= chosen).all() and ((seen[0] < 0).sum(dim=1) == chosen.sum(dim=1) - 1).all()


def test_strength_is_chosen_by_each_images_own_generator():
    unknown, generators = torch.ones(2, 64, dtype=torch.bool), [torch.Generator().manual_seed(i) for i in (0, 1)]
    both = choose_fraction(unknown, 0.5, generators)
    alone = choose_fraction(unknown[:1], 0.5, [torch.Generator().manual_seed(1)])
    assert torch.equal(both[1:], alone) and not torch.equal(both[0], both[1])


def test_images_of_a_batch_know_different_numbers_of_tokens(pipe, generators):
    images = pil(make_images(4))
    masks = [make_mask(), make_mask(rows=slice(0, 16)), make_mask(rows=slice(2, 3), columns=slice(2, 3)), make_mask()]
    masks[3][:] = True
    for settings in ({}, {"strength": 0.5}, {"refine": 1}, {"num_inference_steps": 3, "order": "spiral_in"}):
        together = pipe([0, 1, 2, 3], images, masks, generator=generators(4), output_type="latent", **settings)
        for i in range(4):
            alone = pipe(i, images[i], masks[i], generator=generators(1, i), output_type="latent", **settings)
            assert torch.equal(together.images[i], alone.images[0])


def test_one_image_and_mask_serve_all_labels_and_images(pipe, generators):
    image, mask = pil(make_images(1))[0], make_mask()
    together = pipe([1, 4], image, mask, 2, generator=generators(4), output_type="latent").images
    assert len(together) == 4
    for i, label in enumerate([1, 1, 4, 4]):
        alone = tokens(pipe, label, image, mask, seed=i)
        assert torch.equal(together[i], alone[0])
    images = pil(make_images(2))
    each = pipe([1, 4], images, mask, 2, generator=generators(4), output_type="latent").images
    assert torch.equal(each[3], tokens(pipe, 4, images[1], mask, seed=3)[0])


def test_work_grows_with_the_unknown_tokens(pipe, monkeypatch):
    image, fed = pil(make_images(1)), []
    forward = pipe.transformer.forward
    monkeypatch.setattr(
        pipe.transformer,
        "forward",
        lambda *args, layout, **kwargs: fed.append(layout.carried.shape[1]) or forward(*args, layout=layout, **kwargs),
    )

    def work(tokens_unknown, **settings):
        mask, position = np.zeros((16, 16)), np.arange(16).reshape(4, 4).repeat(4, 0).repeat(4, 1)
        mask[position < tokens_unknown] = 1
        fed.clear()
        pipe(0, image, mask, guidance_scale=1.0, num_inference_steps=16, **settings)
        return list(fed)

    # Known tokens are read once, with the first query; then each unknown token takes one pass of three slots.
    for unknown in (1, 4, 9, 16):
        assert work(unknown) == [1 + 2 * (16 - unknown) + 1] + [2] * (unknown - 1)


# Which pixels


@pytest.mark.parametrize("size", [(16, 16), (37, 50), (9, 200), (5, 5)])
@pytest.mark.parametrize("seam", [0, 3])
def test_pixels_outside_the_mask_are_exact(pipe, size, seam):
    (image,), mask = make_images(1, *size), make_mask(*size)
    mask[1, 1] = True
    result = pipe(3, PIL.Image.fromarray(image), PIL.Image.fromarray(mask), seam=seam).images[0]
    assert result.mode == "RGB" and result.size == size[::-1]
    painted = np.asarray(result)
    np.testing.assert_array_equal(painted[~mask], image[~mask])
    assert (painted[mask] != image[mask]).any()

    floats = np.random.default_rng(1).random((*size, 3), dtype=np.float32)
    result = pipe(3, floats, mask, seam=seam, output_type="np").images
    assert result.shape == (1, *size, 3)
    np.testing.assert_array_equal(result[0][~mask], floats[~mask])
    tensor = torch.from_numpy(floats).permute(2, 0, 1)
    result = pipe(3, tensor, torch.from_numpy(mask), seam=seam, output_type="pt").images
    assert result.shape == (1, 3, *size) and torch.equal(result[0][:, ~mask], tensor[:, ~mask])


def test_pixels_inside_the_mask_are_the_decoded_ones(pipe):
    image, mask = torch.from_numpy(make_images(1)).permute(0, 3, 1, 2) / 255, torch.from_numpy(make_mask())
    latents = tokens(pipe, 0, image, mask)
    result = pipe(0, image, mask, generator=torch.Generator().manual_seed(0), output_type="pt").images
    expected = (pipe.decode_latents(latents, 4, 4) / 2 + 0.5).clamp(0, 1)
    assert torch.equal(result[..., mask], expected[..., mask])


def test_seam_is_an_even_ramp_from_the_edge_of_the_mask_inwards():
    mask = torch.zeros(3, 9, dtype=torch.bool)
    mask[:, 3:] = True  # up to the image's own edge, which is none
    assert seam_weights(mask, 0)[1].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    torch.testing.assert_close(seam_weights(mask, 3)[1], torch.tensor([0, 0, 0, 1, 2, 3, 4, 4, 4]) / 4)
    assert (seam_weights(torch.ones(5, 5, dtype=torch.bool), 10**9) == 1).all()
    assert 0 < seam_weights(mask, 10**9)[1, 3] < seam_weights(mask, 10**9)[1, 8] < 1

    old, new = torch.rand(3, 3, 9), torch.rand(3, 3, 9)
    mixed = composite(old, new, seam_weights(mask, 3))
    assert torch.equal(mixed[..., :3], old[..., :3]) and torch.equal(mixed[..., 6:], new[..., 6:])
    torch.testing.assert_close(mixed[..., 4], (old[..., 4] + new[..., 4]) / 2)


def test_working_size(pipe):
    (image,), mask = make_images(1, 24, 32), make_mask(24, 32)
    assert tokens(pipe, 0, image, mask).shape == (1, 16)  # resized to the trained grid
    latents = tokens(pipe, 0, image, mask, height=24, width=32)
    unknown = tokens_under(torch.from_numpy(mask), (6, 8))
    assert torch.equal(latents[0, ~unknown], encoded(pipe, image[None])[0, ~unknown])
    assert tokens(pipe, 0, image, mask, width=8).shape == (1, 8)
    result = pipe(0, PIL.Image.fromarray(image), mask, height=8, width=40).images[0]
    assert result.size == (32, 24)


def test_images_of_many_sizes(pipe, generators):
    images = [pil(make_images(1, *size))[0] for size in ((16, 16), (20, 33))]
    masks = [PIL.Image.fromarray(make_mask(*image.size[::-1])) for image in images]
    results = pipe([0, 1], images, masks, generator=generators(2)).images
    assert [result.size for result in results] == [(16, 16), (33, 20)]
    with pytest.raises(ValueError, match="`output_type` must be 'pil' or 'latent' for images of many sizes, got 'np'"):
        pipe([0, 1], images, masks, output_type="np")


# Kinds of images and masks


def test_all_kinds_of_images_agree(pipe):
    images, mask = make_images(2), make_mask()
    floats = (images / 255).astype(np.float32)
    tensor = torch.from_numpy(floats).permute(0, 3, 1, 2)
    kinds = [
        pil(images), images, floats, list(images), tuple(floats), [images[:1], floats[1:]],
        floats.astype(np.float64), tensor, list(tensor), [tensor[:1], tensor[1]], (tensor * 255).round().byte(),
    ]  # fmt: skip
    expected = tokens(pipe, [0, 1], pil(images), mask)
    for kind in kinds:
        assert torch.equal(tokens(pipe, [0, 1], kind, mask), expected)


def test_all_kinds_of_masks_agree(pipe):
    images, masks = pil(make_images(2)), np.stack([make_mask(), make_mask(rows=slice(0, 4))])
    grey = masks * np.uint8(255)
    tensor = torch.from_numpy(masks)
    kinds = [
        list(masks), masks, masks[..., None], grey, masks.astype(np.float32), masks * 0.4 + 0.3,
        [PIL.Image.fromarray(mask) for mask in masks], [PIL.Image.fromarray(mask) for mask in grey],
        [PIL.Image.fromarray(mask).convert("RGB") for mask in grey],
        tensor, tensor[:, None], tensor.float(), [tensor[:1], tensor[1]],
    ]  # fmt: skip
    expected = tokens(pipe, [0, 1], images, pil(grey))
    assert not torch.equal(expected, tokens(pipe, [0, 1], images, masks[0]))
    for kind in kinds:
        assert torch.equal(tokens(pipe, [0, 1], images, kind), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_pil_modes_are_read_as_rgb(pipe, mode):
    image, mask = pil(make_images(1))[0].convert(mode), make_mask()
    result = pipe(0, image, mask).images[0]
    np.testing.assert_array_equal(np.asarray(result)[~mask], np.asarray(image.convert("RGB"))[~mask])


def test_given_images_are_left_alone(pipe):
    image, mask = torch.rand(1, 3, 16, 16), torch.zeros(16, 16)
    before = image.clone()
    result = pipe(0, image, mask, output_type="pt").images
    result.zero_()
    mask[4:] = 1
    pipe(0, image, mask)
    assert torch.equal(image, before)


# Empty masks


def test_an_empty_mask_gives_the_image_back_and_says_so(pipe, generators, caplog):
    images, masks = make_images(2), np.stack([make_mask(), np.zeros((16, 16), dtype=bool)])
    with caplog.at_level(logging.WARNING):
        results = pipe([0, 1], pil(images), masks, generator=generators(2)).images
    assert "`mask_image` is empty for the results [1] of 2" in caplog.text
    np.testing.assert_array_equal(results[1], images[1])
    alone = pipe(0, pil(images)[0], masks[0], generator=generators(1)).images[0]
    np.testing.assert_array_equal(results[0], alone)


def test_empty_masks_alone_run_no_model(pipe, monkeypatch, caplog):
    image = make_images(1)
    expected = encoded(pipe, image)
    monkeypatch.setattr(pipe.transformer, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    assert torch.equal(tokens(pipe, 0, image, np.zeros((16, 16)), refine=1), expected)
    monkeypatch.setattr(pipe.vqvae, "encode", lambda *args, **kwargs: pytest.fail("the tokenizer ran"))
    result = pipe(0, pil(image)[0], np.zeros((16, 16)), num_images_per_prompt=2, refine=1).images
    assert len(result) == 2 and pipe.num_timesteps == 0
    np.testing.assert_array_equal(result[1], image[0])
    assert "[0, 1] of 2" in caplog.text


# As a pipeline


def test_tuple_callback_and_steps(pipe):
    counts = []

    def watch(pipe, step, timestep, inputs):
        counts.append(int((inputs["latents"] >= 0).sum()))
        return inputs

    (images,) = pipe(
        0, pil(make_images(1)), make_mask(), num_inference_steps=4, callback_on_step_end=watch, return_dict=False
    )
    unknown = int(tokens_under(torch.from_numpy(make_mask()), (4, 4)).sum())
    assert len(images) == 1 and len(counts) == pipe.num_timesteps == 4
    assert counts == sorted(counts) and 16 - unknown < counts[0] and counts[-1] == 16


def test_interrupted_cells_are_grey_inside_the_mask_alone(pipe):
    image, mask = make_images(1), np.ones((16, 16), dtype=bool)
    mask[:, :2] = False

    def stop(pipe, step, timestep, inputs):
        pipe._interrupt = True
        return inputs

    settings = {"order": "raster", "num_inference_steps": 16, "callback_on_step_end": stop, "refine": 1}
    result = pipe(0, image, mask, output_type="np", **settings).images[0]
    assert (result[4:, 2:] == 0.5).all() and (result[:4, 2:4] != 0.5).any()
    np.testing.assert_array_equal(result[~mask], (image[0] / np.float32(255))[~mask])


def test_refine_and_spatial_guidance_leave_known_tokens(pipe):
    images, mask, labels = make_images(1), make_mask(), [0, 1, 2, 3]
    known = ~tokens_under(torch.from_numpy(mask), (4, 4))
    for settings in ({"refine": 2, "refine_share": 0.5}, {"spatial_guidance_scale": 2.0}):
        latents = tokens(pipe, labels, images, mask, **settings)
        assert (latents[:, known] == encoded(pipe, images)[:, known]).all()
        assert not torch.equal(latents, tokens(pipe, labels, images, mask))


def test_from_pipe_save_and_load(pipe, tmp_path):
    plain = RandARPipeline(pipe.transformer, pipe.vqvae, pipe.id2label)
    moved = RandARInpaintPipeline.from_pipe(plain)
    assert moved.transformer is pipe.transformer and moved.id2label == pipe.id2label
    back = RandARPipeline.from_pipe(moved)
    assert back.vqvae is pipe.vqvae
    image, mask = pil(make_images(1)), make_mask()
    expected = tokens(pipe, "tench", image, mask)
    assert torch.equal(tokens(moved, "tench", image, mask), expected)
    plain.save_pretrained(tmp_path)
    loaded = RandARInpaintPipeline.from_pretrained(tmp_path)
    assert torch.equal(tokens(loaded, "tench", image, mask), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_pixels_exact(pipe, dtype):
    pipe.to(dtype)
    image, mask = make_images(1), make_mask()
    result = np.asarray(pipe(0, pil(image), mask).images[0])
    np.testing.assert_array_equal(result[~mask], image[0][~mask])


def test_offload_hooks(pipe):
    image, mask = pil(make_images(1)), make_mask()
    expected = tokens(pipe, 0, image, mask)
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(tokens(pipe, 0, image, mask), expected)


# Bad input


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("`mask_image` must have the size of its image, 16 x 16 .*, got 8 x 16", {"mask_image": np.ones((8, 16))}),
        ("`mask_image` must be an array or a tensor of the shape", {"mask_image": np.ones((16, 16, 3))}),
        ("`mask_image` must be an array or a tensor of the shape", {"mask_image": torch.ones(1, 3, 16, 16)}),
        ("`mask_image` must hold floating point numbers", {"mask_image": np.ones((16, 16), dtype=int)}),
        ("`mask_image` must lie in", {"mask_image": np.full((16, 16), 255.0)}),
        ("`mask_image` must lie in", {"mask_image": torch.full((16, 16), torch.nan)}),
        ("`mask_image` of type uint8 must have 255", {"mask_image": np.ones((16, 16), dtype=np.uint8)}),
        ("`mask_image` must be one for all or one for each of 2 labels, got 3", {"mask_image": np.ones((3, 16, 16))}),
        ("`mask_image` must be one for all", {"mask_image": []}),
        ("`image` must be one for all or one for each of 2 labels, got 3", {"image": np.ones((3, 16, 16, 3))}),
        ("`image` must be an array or a tensor of the shape", {"image": np.ones((16, 16))}),
        ("`image` must be an array or a tensor of the shape", {"image": np.ones((0, 16, 16, 3))}),
        ("`image` must be an array or a tensor of the shape", {"image": torch.ones(16, 16, 3)}),
        ("`image` must hold floating point numbers", {"image": torch.ones(3, 16, 16, dtype=torch.bool)}),
        ("`image` must hold floating point numbers", {"image": np.full((16, 16, 3), "white")}),
        ("`image` must lie in .* -1 to 1", {"image": torch.linspace(-1, 1, 768).view(3, 16, 16)}),
        ("`image` must be at least 4 .* got 3 x 9", {"image": np.ones((3, 9, 3)), "mask_image": np.ones((3, 9))}),
        ("`strength` must lie in", {"strength": 0}),
        ("`strength` must lie in", {"strength": 1.5}),
        ("`seam` must be an int of at least 0", {"seam": -1}),
        ("`height` must be a multiple of the 4 pixels of a token, got 30: take 28 or 32", {"height": 30}),
        ("`width` must be a multiple of the 4 pixels of a token, got 3: take 4", {"width": 3}),
        ("`class_labels`", {"class_labels": [0, 6]}),
        ("`num_images_per_prompt`", {"num_images_per_prompt": 0}),
        ("`num_inference_steps`", {"num_inference_steps": 17}),
        ("`temperature`", {"temperature": 0}),
        ("`order`", {"order": "zigzag"}),
        ("`generator`", {"generator": [torch.Generator()] * 3}),
        ("`refine`", {"refine": -1}),
        ("`output_type`", {"output_type": "jpeg"}),
        ("`spatial_guidance_scale`", {"spatial_guidance_scale": -1}),
        ("`spatial_dropout`", {"spatial_dropout": 1.0}),
        ("`num_inference_steps`", {"num_inference_steps": 17, "mask_image": np.zeros((16, 16))}),
    ],
)  # fmt: skip
def test_bad_input_is_named_before_anything_runs(pipe, monkeypatch, message, arguments):
    monkeypatch.setattr(pipe.transformer, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    monkeypatch.setattr(pipe.vqvae, "encode", lambda *args, **kwargs: pytest.fail("the tokenizer ran"))
    generator = torch.Generator().manual_seed(0)
    inputs = {"class_labels": [0, 1], "image": pil(make_images(2)), "mask_image": make_mask(), "generator": generator}
    with pytest.raises(ValueError, match=message):
        pipe(**{**inputs, **arguments})
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())


@pytest.mark.parametrize("named", ["image", "mask_image"])
def test_other_types_are_named(pipe, named):
    with pytest.raises(TypeError, match=f"`{named}` must be a PIL image, an array, a tensor or a list of them, got 5"):
        pipe(**{"class_labels": 0, "image": make_images(1), "mask_image": make_mask(), named: 5})


def test_more_tokens_than_memory(pipe, monkeypatch):
    monkeypatch.setattr(pipe.vqvae, "encode", lambda *args, **kwargs: pytest.fail("the tokenizer ran"))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**20))
    with pytest.raises(ValueError, match="1024 tokens an image, whose decoding takes at least .* GiB"):
        pipe(0, make_images(1), make_mask(), height=128, width=128)
    with pytest.raises(ValueError, match="10000000000000000 tokens an image"):
        pipe(0, make_images(1), make_mask(), height=4 * 10**8, width=4 * 10**8)
