"""A small network of one's own, folders of small images, and a pipeline with seeded weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

from randar_hf.evaluation.extractors import PooledOutput
from randar_hf.pipelines import RandARPipeline


class ChannelMoments(nn.Module):
    """Mean and standard deviation of each colour as features, (B, 6), and three classes by the colour that leads."""

    name, sha256, resize_rule, is_published = "channel-moments", "0" * 64, "none", False

    def forward(self, images: torch.Tensor) -> PooledOutput:
        pixels = images.double() / 255
        pool = torch.cat([pixels.mean(dim=(2, 3)), pixels.std(dim=(2, 3))], dim=1)
        return PooledOutput(pool=pool, logits=20 * pool[:, :3])


def write_images(folder, count, seed=0, offset=0, size=16, classes=3):
    """`count` images of noise, brighter by `offset`, in a folder for each of the classes."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        path = folder / f"class_{index % classes}" / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        level = rng.integers(0, 120) + offset
        pixels = (rng.integers(0, 80, (size, size, 3)) + level).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def extractor():
    return ChannelMoments()


@pytest.fixture
def make_images(tmp_path):
    return lambda name, count, **settings: write_images(tmp_path / name, count, **settings)


@pytest.fixture
def pipe(model, vqvae):
    """A pipeline of 16 x 16 pixels and five classes, three of which the folders of images name."""
    names = {0: "class_2", 1: "class_0, first", 2: "class_1", 3: "other", 4: "another"}
    return RandARPipeline(model, vqvae, id2label=names)


@pytest.fixture
def model_folder(pipe, tmp_path):
    """The pipeline, saved."""
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def vit(tmp_path):
    """Folders of a small vision model and of a classifier with three classes, with seeded weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)
    for name, model in (("plain", ViTModel(config)), ("classifier", ViTForImageClassification(config))):
        model.save_pretrained(tmp_path / name)
        ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / name)
    return tmp_path


def save_pair(folder, number, source, target, source_points, target_points, box, category="cat"):
    """One pair as the data set's files hold it."""
    images, pairs = folder / "JPEGImages" / category, folder / "PairAnnotation" / "test"
    images.mkdir(parents=True, exist_ok=True)
    pairs.mkdir(parents=True, exist_ok=True)
    names = [f"2008_{number:06}.png", f"2009_{number:06}.png"]
    for name, pixels in zip(names, (source, target), strict=True):
        Image.fromarray(pixels).save(images / name)
    annotation = {
        "src_imname": names[0],
        "trg_imname": names[1],
        "category": category,
        "src_kps": source_points,
        "trg_kps": target_points,
        "src_bndbox": box,
        "trg_bndbox": box,
    }
    (pairs / f"{number:06}-{names[0][:-4]}-{names[1][:-4]}:{category}.json").write_text(json.dumps(annotation))


def noisy_cells(seed=0):
    """64 x 64 pixels in cells of 4 x 4, of a random colour each."""
    cells = np.random.default_rng(seed).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    return cells.repeat(4, axis=0).repeat(4, axis=1)


@pytest.fixture
def write_pair():
    return save_pair


@pytest.fixture
def noise():
    return noisy_cells
