"""A small network of one's own, folders of small images, and a pipeline with seeded weights."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

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
