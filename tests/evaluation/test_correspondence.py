"""Correspondence on a small folder in the published layout of SPair-71k, where the right answers are known."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from randar_hf import demo_checkpoint
from randar_hf.evaluation.correspondence import draw_matches, match_points, measure_correspondence, read_pairs
from randar_hf.evaluation.model_features import ModelFeatures
from randar_hf.pipelines import RandARPipeline


SIZE, CELL = 64, 4


def colours(images):
    """Each cell's colours as features, (B, 3, 16, 16): no two cells of noise are alike."""
    maps = F.avg_pool2d(images.double() / 255, CELL)
    return torch.cat([maps, 1 - maps], dim=1)


@pytest.fixture
def spair(tmp_path, write_pair, noise):
    """Two pairs of noise: one shifted by three cells to the right and two down, one as it is."""
    shift = (3 * CELL, 2 * CELL)
    points = [[18, 14], [22, 30], [38, 42], [14, 38]]  # x, y, at the centres of cells
    moved = [[x + shift[0], y + shift[1]] for x, y in points]
    first = noise()
    write_pair(tmp_path, 1, first, np.roll(first, shift[::-1], axis=(0, 1)), points, moved, [0, 0, 30, 40])
    write_pair(tmp_path, 2, noise(1), noise(1), points[:2], points[:2], [0, 0, 40, 30], category="dog")
    return tmp_path


def test_a_shifted_image_gives_100_percent(spair):
    found = measure_correspondence(read_pairs(spair), colours, SIZE)
    assert found["per_image"] == found["per_point"] == 100
    assert set(found["by_category"]) == {"cat", "dog"}


def test_wrong_answers_are_counted_by_image_and_by_point(spair):
    file = next((spair / "PairAnnotation" / "test").glob("*cat.json"))
    annotation = json.loads(file.read_text())
    annotation["trg_kps"][0] = [60, 60]
    annotation["trg_kps"][1] = [annotation["trg_kps"][1][0] + 3.9, annotation["trg_kps"][1][1]]  # within a tenth of 40
    file.write_text(json.dumps(annotation))
    found = measure_correspondence(read_pairs(spair), colours, SIZE)
    assert found["per_image"] == pytest.approx(100 * (0.75 + 1) / 2)
    assert found["per_point"] == pytest.approx(100 * 5 / 6)
    assert found["by_category"]["cat"]["per_point"] == 75
    assert measure_correspondence(read_pairs(spair), colours, SIZE, alpha=0.01)["per_point"] < found["per_point"]


def test_matches_are_those_of_maps_scaled_to_the_images():
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(5, 6, 7, generator=generator) for _ in range(2))
    points = torch.tensor([[3.0, 4.0], [20.0, 30.0], [27.4, 0.0]])
    found = match_points(source, target, points, (28, 36), (35, 24))
    first = F.interpolate(source[None], size=(36, 28), mode="bilinear")[0]
    second = F.interpolate(target[None], size=(24, 35), mode="bilinear")[0]
    for (x, y), match in zip(points.round().long().tolist(), found.tolist(), strict=True):
        cosines = F.cosine_similarity(first[:, y, x, None, None], second, dim=0)  # (24, 35)
        assert cosines[int(match[1]), int(match[0])] == pytest.approx(cosines.max().item(), abs=1e-5)


def test_a_model_finds_itself_in_the_same_image(spair, pipe):
    pairs = [pair for pair in read_pairs(spair) if pair.category == "dog"]
    for layer, rounds in ((1, 1), (2, 2)):
        found = measure_correspondence(pairs, ModelFeatures(pipe, layer, rounds).maps, 16)
        assert found["per_image"] == 100, (layer, rounds)


def test_the_shipped_model_finds_moved_images(tmp_path, write_pair):
    """Moved by two cells, more than the tolerance; better in the second round, where each position has seen all."""
    pipe = RandARPipeline.from_pretrained(demo_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    images = pipe(list(range(10)), generator=torch.Generator().manual_seed(1)).images
    for number, image in enumerate(images):
        pixels = np.array(image)  # (32, 32, 3)
        contrast = pixels.mean(axis=2).reshape(8, CELL, 8, CELL).std(axis=(1, 3))  # (8, 8)
        points = [[CELL * x + 2, CELL * y + 2] for y, x in np.argwhere(contrast[:, :-2] > 40).tolist()]
        moved = [[x + 2 * CELL, y] for x, y in points]
        write_pair(tmp_path, number, pixels, np.roll(pixels, 2 * CELL, axis=1), points, moved, [0, 0, 32, 32])
    pairs = read_pairs(tmp_path)
    first, second = (
        measure_correspondence(pairs, ModelFeatures(pipe, 4, rounds).maps, 32)["per_point"] for rounds in (1, 2)
    )
    assert second > first + 10 and second > 50  # 1 in 64 by chance


def test_matches_are_drawn(spair):
    kept = []
    measure_correspondence(read_pairs(spair), colours, SIZE, keep=lambda *parts: kept.append(parts))
    sheet = draw_matches(*kept[0])
    assert sheet.size == (2 * SIZE, SIZE) and (np.array(sheet) == (0, 255, 0)).all(axis=2).any()


def test_wrong_folders_are_one_sentence(spair, tmp_path):
    with pytest.raises(FileNotFoundError, match="`data` must be the folder of SPair-71k with pairs in"):
        read_pairs(tmp_path / "nothing")
    with pytest.raises(ValueError, match="`alpha` must be above 0, got 0"):
        measure_correspondence(read_pairs(spair), colours, SIZE, alpha=0)
    next((spair / "JPEGImages" / "cat").glob("2009*")).unlink()
    with pytest.raises(FileNotFoundError, match="`data` must hold all images, found none at "):
        read_pairs(spair)
    file = next((spair / "PairAnnotation" / "test").glob("*.json"))
    for text, message in (
        ("{}", "must hold annotations of pairs"),
        ("{", "must hold annotations of pairs"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_pairs(spair)
