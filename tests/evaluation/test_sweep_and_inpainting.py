"""Settings compared, and parts painted anew: what is sampled once, what is measured, what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from randar_hf.evaluation import sweep as sweep_module
from randar_hf.evaluation.evaluating import evaluate_images
from randar_hf.evaluation.images import open_images
from randar_hf.evaluation.inpainting import make_mask, measure_inpainting
from randar_hf.evaluation.references import open_reference
from randar_hf.evaluation.sampling import sample_images
from randar_hf.evaluation.sweep import expand_range, list_settings, sweep
from randar_hf.pipelines import RandARInpaintPipeline


def test_ranges_and_lists():
    assert expand_range("scale", "1:2:0.1") == [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]
    assert expand_range("scale", "1:2:0.4") == [1.0, 1.4, 1.8]
    assert expand_range("scale", "3, 3.5") == [3.0, 3.5]
    assert expand_range("steps", "16:64:16", int) == [16, 32, 48, 64]
    assert expand_range("order", "raster,random", str) == ["raster", "random"]
    for text in ("1:2", "1:2:0", "2:1:0.1", "a", "", "1:2:-1"):
        with pytest.raises(ValueError, match="`scale` must be values as 3,3.5 or from:to:step as 1:8:0.1, got"):
            expand_range("scale", text)


def test_each_setting_comes_once():
    grid = {"num_inference_steps": [4, 8], "guidance_scale": [1.0, 2.0, 1.0]}
    assert list_settings(grid) == [
        {"guidance_scale": scale, "num_inference_steps": steps} for scale in (1.0, 2.0) for steps in (4, 8)
    ]
    with pytest.raises(ValueError, match="`grid` must be of guidance_scale, .* got 'colour'"):
        list_settings({"colour": [1]})
    with pytest.raises(ValueError, match="`grid` must hold at least one setting with values, got none"):
        list_settings({"top_k": []})


def test_a_sweep_goes_on_and_samples_each_setting_once(model_folder, extractor, make_images, tmp_path, monkeypatch):
    reference, calls = open_reference(make_images("reference", 12), extractor, tmp_path / "features"), []

    def counted(*arguments, **settings):
        calls.append(settings["guidance_scale"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sample_images(*arguments, **settings)

    monkeypatch.setattr(sweep_module, "sample_images", counted)
    grid = {"guidance_scale": [1.0, 4.0], "order": ["raster"]}
    request = {"num_images": 6, "batch_size": 3, "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        sweep(model_folder, reference, tmp_path / "out", grid, extractor, **request)
    first = tmp_path / "out" / "guidance_scale=1.0,order=raster"
    stamps = {path: path.stat().st_mtime_ns for path in first.rglob("*.png")}
    assert len(stamps) == 6
    rows = sweep(model_folder, reference, tmp_path / "out", grid, extractor, **request)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert [row["guidance_scale"] for row in rows] == [1.0, 4.0]
    samples = open_images("samples", first / "samples")
    alone = evaluate_images(samples, reference, extractor, tmp_path / "alone")
    assert rows[0] == {"guidance_scale": 1.0, "order": "raster"} | alone["metrics"]
    assert json.loads((first / "result.json").read_text())["samples"]["settings"]["guidance_scale"] == 1.0
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == rows
    best = min(rows, key=lambda row: row["frechet_distance"])
    (marked,) = [line for line in (tmp_path / "out" / "table.md").read_text().splitlines() if "**" in line]
    assert f"**{best['frechet_distance']:.4f}**" in marked
    assert Image.open(tmp_path / "out" / "plot.png").size[0] > 400
    (tmp_path / "out" / "plot.png").unlink()
    (tmp_path / "out" / "plot.png").symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match="`output_dir` must hold no links, .*plot.png"):
        sweep(model_folder, reference, tmp_path / "out", grid, extractor, **request)


def test_spatial_guidance_can_be_swept(model_folder, tmp_path):
    folders = [
        sample_images(model_folder, tmp_path / name, 5, device="cpu", write_npz=False, guidance_scale=2.0, **settings)
        for name, settings in (("without", {}), ("with", {"spatial_guidance_scale": 3.0}))
    ]
    images = [open_images("samples", folder).batch(range(5)) for folder in folders]
    assert not (images[0] == images[1]).all()
    settings = [json.loads((folder / "settings.json").read_text()) for folder in folders]
    assert settings[1]["spatial_guidance_scale"] == 3.0 and "spatial_guidance_scale" not in settings[0]


def test_masks_are_stated():
    left, centre = make_mask("left", 8, 10), make_mask("centre", 8, 8)
    assert left[:, :5].all() and not left[:, 5:].any()
    assert centre[2:6, 2:6].all() and centre.sum() == 16
    strokes = make_mask("strokes", 64, 64, seed=3)
    assert np.array_equal(strokes, make_mask("strokes", 64, 64, seed=3))
    assert not np.array_equal(strokes, make_mask("strokes", 64, 64, seed=4))
    fractions = [make_mask("strokes", 64, 64, seed).mean() for seed in range(50)]
    assert 0.05 < np.mean(fractions) < 0.8 and min(fractions) > 0
    with pytest.raises(ValueError, match="`masks` must be of left, centre, strokes, got 'right'"):
        make_mask("right", 8, 8)


def test_inpainting_is_measured(model, vqvae, extractor, make_images, tmp_path):
    pipe = RandARInpaintPipeline(model, vqvae)
    pipe.set_progress_bar_config(disable=True)
    images = open_images("data", make_images("images", 6))
    labels = np.array(images.labels)
    found = measure_inpainting(pipe, images, labels, extractor, tmp_path / "out", batch_size=4, num_inference_steps=4)
    assert list(found) == ["left", "centre", "strokes"]
    assert found["left"]["painted"] == 0.5 and found["centre"]["painted"] == 0.25
    for numbers in found.values():
        assert numbers["max_difference_known"] == 0  # they come back as they were
        assert 0 < numbers["psnr_known"] < 40 and numbers["mean_feature_distance"] > 0
    painted = open_images("output_dir", tmp_path / "out" / "left").batch(range(6))
    originals = images.batch(range(6))
    assert (painted[..., 8:] == originals[..., 8:]).all() and not (painted[..., :8] == originals[..., :8]).all()
    distances = (extractor(painted).pool - extractor(originals).pool).norm(dim=1).mean()
    assert found["left"]["mean_feature_distance"] == pytest.approx(distances.item(), rel=1e-4)
    stamp = (tmp_path / "out" / "left" / "000000.png").stat().st_mtime_ns
    again = measure_inpainting(pipe, images, labels, extractor, tmp_path / "out", batch_size=4, num_inference_steps=4)
    assert again == found and (tmp_path / "out" / "left" / "000000.png").stat().st_mtime_ns == stamp
    for changed in ({"seed": 1}, {"num_inference_steps": 5}, {"guidance_scale": 2.0}):
        with pytest.raises(ValueError, match=f"`output_dir` must hold .*, got others .*. {next(iter(changed))}: "):
            given = {"batch_size": 4, "num_inference_steps": 4, **changed}
            measure_inpainting(pipe, images, labels, extractor, tmp_path / "out", **given)
