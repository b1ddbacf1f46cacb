"""The tasks of the app, without a browser."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from randar_hf.pipelines import RandAROutpaintPipeline, RandARPipeline
from randar_hf.space.drawing import colour_features, draw_film, draw_order, draw_sheet, scale_to_view
from randar_hf.space.snippets import write_snippet
from randar_hf.space.studio import Studio, iterate


@pytest.fixture
def studio(pipe):
    return Studio(pipe)


def image(size=(16, 16)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def half_mask(size=(16, 16)):
    mask = Image.new("L", size)
    mask.paste(255, (size[0] // 2, 0, *size))
    return mask


def test_classes_have_a_name_each(studio, rar_pipe):
    assert studio.class_names() == ["tench", "great white shark", "crane (2)", "crane (3)", "sea snake"]
    assert Studio(rar_pipe).class_names() == [f"class {i}" for i in range(5)]


def test_images_are_those_of_the_seeds(studio, pipe, images_of):
    frames = list(studio.generate([1, 4], 2, seed=7, num_inference_steps=16))
    expected = images_of(pipe, [1, 4], range(7, 11), num_images_per_prompt=2, num_inference_steps=16)
    assert frames[-1].done and not any(frame.done for frame in frames[:-1])
    assert all(map(np.array_equal, frames[-1].images, expected))


def test_images_appear(studio):
    """Cells are grey until they are decoded: fewer from frame to frame."""
    frames = list(studio.generate([0], 1, seed=0, num_inference_steps=16))
    grey = [int((np.asarray(frame.images[0]) == 128).all(axis=2).sum()) for frame in frames]
    assert len(frames) > 2 and grey[0] == 240 and grey == sorted(grey, reverse=True) and grey[-1] < 16


def test_all_settings_arrive(studio, pipe, images_of):
    settings = {"guidance_scale": 7.0, "order": "spiral_in", "num_inference_steps": 3}
    *_, last = studio.generate([2], 1, seed=1, **settings)
    assert np.array_equal(last.images[0], images_of(pipe, [2], [1], **settings)[0])
    assert not np.array_equal(last.images[0], images_of(pipe, [2], [1])[0])


def test_rar_generates_in_its_own_order(rar_pipe, images_of):
    *_, last = Studio(rar_pipe).generate([3], 1, seed=2)
    rar_pipe.set_progress_bar_config(disable=True)
    assert np.array_equal(last.images[0], images_of(rar_pipe, [3], [2])[0])


def test_editing_leaves_known_pixels(studio):
    original = image()
    frames = list(studio.edit(original, half_mask(), 1, count=4, seed=0, num_inference_steps=8))
    assert len(frames[-1].images) == 4
    for answer in map(np.asarray, frames[-1].images):
        assert np.array_equal(answer[:, :8], np.asarray(original)[:, :8])
        assert not np.array_equal(answer[:, 8:], np.asarray(original)[:, 8:])


def test_extending_keeps_the_image_at_its_position(studio):
    frames = list(studio.extend(image(), 1, {"left": 8, "right": 0, "top": 4, "bottom": 0}, seed=0))
    assert {frame.images[0].size for frame in frames} == {(24, 20)}
    assert np.array_equal(np.asarray(frames[-1].images[0])[4:, 8:], np.asarray(image()))


@pytest.mark.parametrize(("size", "fitted"), [((16, 16), (16, 16)), ((640, 320), (16, 8)), ((30, 1000), (4, 16))])
def test_uploads_are_scaled_to_whole_tokens(studio, size, fitted):
    assert studio.fit(image(size)).size == fitted


@pytest.mark.parametrize(("factor", "side"), [(1, 16), (1.3, 20), (2, 32)])
def test_enlarged_images_have_whole_tokens(studio, factor, side):
    frames = list(studio.enlarge(0, factor, seed=0, num_inference_steps=4))
    assert {frame.images[0].size for frame in frames} == {(side, side)}


def test_likelihoods_and_features_are_the_models(studio, pipe):
    tokens = studio.read(image((50, 40)))
    found = studio.log_likelihoods(image((50, 40)), [3, 0], num_orders=2, seed=5)
    generator = torch.Generator().manual_seed(5)
    assert found == pipe.transformer.class_log_likelihoods(tokens, [3, 0], 2, generator=generator)[0].tolist()
    once, twice = (studio.features(image(), rounds, seed=5) for rounds in (1, 2))
    assert once.shape == twice.shape == (4, 4, 32) and not torch.allclose(once, twice)
    assert colour_features(twice).size == (4, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_labels": []}, "No class is chosen"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 2**31}, "seed must be a whole number"),
        ({"seed": None}, "seed must be a whole number"),
        ({"class_labels": [0, 1, 2, 3, 4], "count": 7}, "At most 32 images"),
        ({"count": 0}, "At most 32 images"),
    ],
)
def test_wrong_settings_are_explained(studio, settings, message):
    with pytest.raises(ValueError, match=message):
        next(studio.generate(**{"class_labels": [0], "count": 1, "seed": 0, **settings}))


def test_an_empty_mask_is_explained(studio):
    with pytest.raises(ValueError, match="Nothing is painted"):
        studio.edit(image(), Image.new("L", (16, 16)), 0, count=1, seed=0)


def test_errors_of_a_run_arrive(studio):
    with pytest.raises(ValueError, match="num_inference_steps"):
        list(studio.generate([0], 1, seed=0, num_inference_steps=99))


def test_leaving_stops_the_run(pipe, monkeypatch):
    """After the step in progress; and its thread ends."""
    steps, forward = [], type(pipe.transformer).forward

    def count(self, *args, **kwargs):
        steps.append(1)
        time.sleep(0.02)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(pipe.transformer), "forward", count)
    before = threading.active_count()
    frames = Studio(pipe).generate([0], 1, seed=0, num_inference_steps=16)
    next(frames)
    frames.close()
    assert threading.active_count() == before and len(steps) <= 3
    time.sleep(0.1)
    assert len(steps) <= 3


def test_runs_share_no_state(pipe):
    """A run that was stopped leaves nothing behind for another one that goes on."""
    first = Studio(pipe).generate([0], 1, seed=0, num_inference_steps=16)
    second = Studio(pipe).generate([0], 1, seed=0, num_inference_steps=16)
    next(first), next(second)
    first.close()
    *_, last = second
    assert last.done and not (np.asarray(last.images[0]) == 128).all(axis=2).sum() > 15


def test_a_canvas_is_shown_in_its_size(pipe):
    other = RandAROutpaintPipeline(**pipe.components)
    frames = list(iterate(other, class_labels=[0], image=image(), right=16, generator=torch.Generator()))
    assert {frame.images[0].size for frame in frames} == {(32, 16)}


def test_sheets_films_and_orders(pipe):
    colours = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue", "black")]
    sheet = draw_sheet(colours, rows=2)
    assert sheet.size == (10, 10) and sheet.getpixel((6, 0)) == (0, 255, 0) and sheet.getpixel((0, 6)) == (0, 0, 255)
    assert scale_to_view(colours[0]).size == (512, 512) and scale_to_view(image((1024, 512))).size == (512, 256)
    assert draw_film(colours)[:6] == b"GIF89a"
    assert draw_order("raster", (4, 4), 16, seed=0)[:6] == b"GIF89a"


@pytest.mark.parametrize("labels", [["tench", 2], [0]])
def test_the_snippet_makes_the_same_images(pipe, labels, tmp_path):
    pipe.save_pretrained(tmp_path / "mine")
    settings = {"guidance_scale": 3.0, "order": "hierarchical", "num_inference_steps": None}
    code = write_snippet("RandARPipeline", str(tmp_path / "mine"), labels, 2, 5, settings)
    namespace = {}
    exec(code, namespace)
    ids = [pipe.get_label_ids(label)[0] for label in labels]
    *_, last = Studio(pipe).generate(ids, 2, seed=5, guidance_scale=3.0, order="hierarchical")
    assert all(map(np.array_equal, namespace["images"], last.images))


def test_the_snippet_of_the_shipped_model_runs():
    namespace = {}
    exec(write_snippet("RandARPipeline", None, [0], 1, 0, {"num_inference_steps": 2}), namespace)
    assert len(namespace["images"]) == 1 and type(namespace["pipe"]) is RandARPipeline
