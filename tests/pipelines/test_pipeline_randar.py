"""RandARPipeline, and what all pipelines do as it does, in the manner of diffusers' own pipeline tests."""

import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_loading_utils import _get_custom_components_and_folders

from randar_hf.pipelines import RandARPipeline


def tokens(pipe, *args, seed=0, **kwargs):
    return pipe(*args, generator=torch.Generator().manual_seed(seed), output_type="latent", **kwargs).images


def test_output_types(any_pipe):
    images = {}
    for output_type in ("pil", "np", "pt"):
        generator = torch.Generator().manual_seed(0)
        images[output_type] = any_pipe([0, 1], generator=generator, output_type=output_type).images
    assert all(isinstance(image, PIL.Image.Image) and image.size == (16, 16) for image in images["pil"])
    assert images["np"].shape == (2, 16, 16, 3) and 0 <= images["np"].min() and images["np"].max() <= 1
    assert images["pt"].shape == (2, 3, 16, 16)
    np.testing.assert_allclose(images["pt"].permute(0, 2, 3, 1).numpy(), images["np"], atol=1e-6)
    np.testing.assert_allclose(np.asarray(images["pil"][1]) / 255, images["np"][1], atol=0.5 / 255 + 1e-6)
    assert tokens(any_pipe, [0, 1]).shape == (2, 16)


def test_images_are_the_decoded_tokens(any_pipe):
    sampled = tokens(any_pipe, [3])
    pixels = any_pipe(3, generator=torch.Generator().manual_seed(0), output_type="pt").images
    expected = (any_pipe.decode_latents(sampled, 4, 4) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(pixels, expected)


def test_tuple(any_pipe):
    (images,) = any_pipe(0, return_dict=False)
    assert len(images) == 1


def test_labels_by_id_name_and_mixture(pipe):
    assert pipe.get_label_ids(["tench", 4, "white shark", "great white shark, white shark"]) == [0, 4, 1, 1]
    assert pipe.get_label_ids(torch.tensor([2, 3])) == pipe.get_label_ids(np.array([2, 3])) == [2, 3]
    assert pipe.get_label_ids(np.int64(4)) == [4]
    assert pipe.get_label_ids([[1], [4]]) == [1, 4]
    assert torch.equal(tokens(pipe, "sea snake"), tokens(pipe, 4))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("white shrak", "white shark"),
        ("crane", r"\[2, 3\]"),
        (6, "between 0 and 5"),
        (-1, "between 0 and 5"),
        ([], "at least one"),
    ],
)
def test_wrong_labels(pipe, label, message):
    with pytest.raises(ValueError, match=f"`class_labels`.*{message}"):
        pipe(label)


def test_tokenizer_with_another_vocabulary(make_model, vqvae):
    model = make_model(vocab_size=64)
    model.forward = None  # refused before it runs
    with pytest.raises(ValueError, match="`vqvae` must have the transformer's 64 tokens, got one with 32"):
        RandARPipeline(model, vqvae)(0)


def test_names_need_names(model, vqvae):
    with pytest.raises(ValueError, match="id2label"):
        RandARPipeline(model, vqvae)("tench")
    with pytest.raises(TypeError, match="class_labels"):
        RandARPipeline(model, vqvae)(1.5)


def test_images_per_prompt_and_generators(any_pipe, generators):
    together = any_pipe([1, 4], num_images_per_prompt=2, generator=generators(4), output_type="latent").images
    assert len({tuple(image) for image in together.tolist()}) == 4
    for i, label in enumerate([1, 1, 4, 4]):
        alone = any_pipe(label, generator=generators(1, first=i), output_type="latent").images
        assert torch.equal(together[i : i + 1], alone)


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("num_images_per_prompt", {"num_images_per_prompt": 0}),
        ("callback_on_step_end", {"callback_on_step_end": 3}),
        ("output_type", {"output_type": "jpeg"}),
        ("callback_on_step_end_tensor_inputs", {"callback_on_step_end_tensor_inputs": ["noise"]}),
        ("num_inference_steps", {"num_inference_steps": 17}),
        ("temperature", {"temperature": 0}),
        ("guidance_scale", {"guidance_scale": float("nan")}),
        ("order", {"order": "zigzag"}),
        ("generator", {"generator": [torch.Generator()] * 3}),
    ],
)
def test_bad_input_is_named(pipe, named, arguments):
    with pytest.raises(ValueError, match=f"`{named}`"):
        pipe([0, 1], **arguments)


def test_callback_sees_every_step(pipe):
    seen = []

    def callback(pipe, step, timestep, inputs):
        seen.append((step, int((inputs["latents"] >= 0).sum())))
        return inputs

    pipe(0, num_inference_steps=5, callback_on_step_end=callback)
    assert [step for step, _ in seen] == list(range(5)) and pipe.num_timesteps == 5
    counts = [count for _, count in seen]
    assert counts == sorted(counts) and counts[-1] == 16


def test_callback_changes_latents(pipe):
    def callback(pipe, step, timestep, inputs):
        if step == pipe.num_timesteps - 1:
            inputs["latents"] = torch.zeros_like(inputs["latents"])
        return inputs

    assert (tokens(pipe, 0, callback_on_step_end=callback) == 0).all()


def test_callback_changes_guidance(pipe):
    def callback(pipe, step, timestep, inputs):
        pipe._guidance_scale = 0.0
        return inputs

    settings = {"guidance_schedule": "constant", "order": "raster", "num_inference_steps": 16}
    changed = tokens(pipe, 0, guidance_scale=3.0, callback_on_step_end=callback, **settings)
    assert not torch.equal(changed, tokens(pipe, 0, guidance_scale=3.0, **settings))
    assert pipe.guidance_scale == 3.0


def test_threads_do_not_share_a_call_in_progress(pipe):
    settings = {"guidance_schedule": "constant", "order": "raster", "num_inference_steps": 16}
    starts, meeting = {0: 2.0, 1: 5.0, 2: 3.0}, threading.Barrier(3, timeout=60)

    def call(number, wait):
        def change(pipe, step, timestep, inputs):
            wait()
            pipe._guidance_scale += number
            wait()
            pipe._interrupt = number == 2 and step == 9

        sampled = tokens(pipe, 0, seed=number, guidance_scale=starts[number], callback_on_step_end=change, **settings)
        return sampled, pipe.guidance_scale, pipe.num_timesteps

    alone = [call(number, wait=lambda: None) for number in starts]

    def wait():
        try:
            meeting.wait()
        except threading.BrokenBarrierError:  # the call that is interrupted comes no more
            pass

    def together(number):
        result = call(number, wait)
        meeting.abort()
        return result

    with ThreadPoolExecutor(3) as pool:
        for (sampled, *seen), (expected, *expected_seen) in zip(pool.map(together, starts), alone, strict=True):
            assert torch.equal(sampled, expected) and seen == expected_seen
    assert copy.deepcopy(pipe).transformer.config == pipe.transformer.config  # a call in progress is not copied


def test_callback_stops(any_pipe):
    def callback(pipe, step, timestep, inputs):
        pipe._interrupt = step == 2
        return inputs

    sampled = tokens(any_pipe, 0, num_inference_steps=16, order="raster", callback_on_step_end=callback)
    assert (sampled[0] >= 0).tolist() == [True] * 3 + [False] * 13
    image = any_pipe(0, num_inference_steps=16, order="raster", callback_on_step_end=callback, output_type="np").images
    assert (image[0, 4:] == 0.5).all() and (image[0, :4, :12] != 0.5).any()  # cells not decoded are grey


def test_save_and_load(pipe, tmp_path, class_names):
    pipe.save_pretrained(tmp_path)
    loaded = RandARPipeline.from_pretrained(tmp_path)
    assert loaded.id2label == class_names
    assert torch.equal(tokens(loaded, "tench"), tokens(pipe, "tench"))
    loaded.save_pretrained(tmp_path / "again")
    for name in ("transformer/config.json", "transformer/generation_config.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_stored_components_pass_the_check_for_hub_repositories(any_pipe, tmp_path):
    any_pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == type(any_pipe).__name__
    assert index["transformer"] == ["randar_hf", type(any_pipe.transformer).__name__]
    components = {name: value for name, value in index.items() if not name.startswith("_") and name != "id2label"}
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    custom, folders = _get_custom_components_and_folders("someone/model", components, files)
    assert custom == {} and sorted(folders) == ["transformer", "vqvae"]


def test_load_through_the_base_class(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline="pipeline", trust_remote_code=True)
    assert torch.equal(tokens(loaded, 2), tokens(pipe, 2))


def test_from_pipe_shares_components(pipe):
    other = RandARPipeline.from_pipe(pipe)
    assert other.transformer is pipe.transformer and other.vqvae is pipe.vqvae and other.id2label == pipe.id2label
    assert torch.equal(tokens(other, 1), tokens(pipe, 1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_half_precision(any_pipe, tmp_path, dtype, tolerance):
    any_pipe.save_pretrained(tmp_path)
    loaded = type(any_pipe).from_pretrained(tmp_path, dtype=dtype)
    assert loaded.transformer.dtype == dtype and loaded.vqvae.dtype == dtype
    latents = tokens(loaded, [0, 1, 2, 3])
    expected, found = (each.decode_latents(latents, 4, 4).float() for each in (any_pipe, loaded))
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_offload_hooks(any_pipe):
    expected = tokens(any_pipe, [0, 1])
    any_pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(tokens(any_pipe, [0, 1]), expected)
    assert len(any_pipe(0).images) == 1


def test_progress_bar(pipe, capsys):
    pipe.set_progress_bar_config(disable=False)
    pipe(0, num_inference_steps=5)
    assert "5/5" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(0, num_inference_steps=5)
    assert capsys.readouterr().err == ""
