"""What changes a Frechet distance and by how much: resize rule, JPEG, rounding, reference set, number of images.

python docs/measurements/distances.py DATA [--weights FILE]

DATA is what `randar-hf evaluate` takes, of more than 25,000 images of ten classes that fit in memory. The weights are
those of FID's Inception; without them a small classifier is trained on the images that are neither samples nor
reference.
"""

import argparse
import io

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from randar_hf.evaluation import FeatureStatistics, frechet_distance
from randar_hf.evaluation.extractors import VisionModelFeatures, load_extractor
from randar_hf.evaluation.images import open_images
from randar_hf.evaluation.inception import INPUT_SIZE, resize_tensorflow


SAMPLES, REFERENCE, BATCH = 5000, 10_000, 100
OWN_SIZE, EPOCHS = 64, 1  # of the small classifier
RULES = {
    "bilinear as in TensorFlow 1": resize_tensorflow,
    "bilinear, half-pixel centres": lambda images, size: F.interpolate(images.float(), (size, size), mode="bilinear"),
    "bicubic": lambda images, size: F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True),
}


def resize(images: torch.Tensor, rule: str, size: int) -> torch.Tensor:
    return RULES[rule](images, size).round().clamp(0, 255).byte()


def compress(images: torch.Tensor, quality: int) -> torch.Tensor:
    """The images after JPEG."""
    results = []
    for image in images.permute(0, 2, 3, 1).numpy():
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality)
        results.append(np.array(Image.open(stream)))
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2)


def cut_off(images: torch.Tensor) -> torch.Tensor:
    """As if their levels had fractions, sampled uniformly, and were cut off instead of rounded."""
    levels = images + torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    return levels.floor().clamp(0, 255).byte()


def train_classifier(images: torch.Tensor, labels: torch.Tensor) -> VisionModelFeatures:
    """A small ResNet, by the resize rule of Inception."""
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic", num_labels=10
    )
    model = ResNetForImageClassification(config)
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(images), (BATCH,))
        pixels = resize(images[rows], "bilinear as in TensorFlow 1", OWN_SIZE).float() / 127.5 - 1
        pixels = pixels.flip(3) if step % 2 else pixels
        model(pixels, labels=labels[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    processor = ViTImageProcessor(size={"height": OWN_SIZE, "width": OWN_SIZE})
    return VisionModelFeatures(model, processor, "a small ResNet of these classes")


def main(source: str, weights: str | None) -> None:
    """Print a table of distances."""
    data = open_images("data", source)
    images = torch.cat(list(data.batches(1000)))  # (n, 3, H, W)
    labels = torch.tensor(data.labels)
    sizes = [SAMPLES, REFERENCE, REFERENCE, len(images) - SAMPLES - 2 * REFERENCE]
    sampled, first, second, rest = images.split(sizes)
    network = load_extractor(weights=weights) if weights else train_classifier(rest, labels[-len(rest) :])
    size, rule = INPUT_SIZE if weights else OWN_SIZE, "bilinear as in TensorFlow 1"

    def features(images: torch.Tensor, rule: str = rule) -> torch.Tensor:
        return torch.cat([network(resize(batch, rule, size)).pool for batch in images.split(BATCH)]).double()

    samples, known = features(sampled), features(first)
    reference = FeatureStatistics.of([known])
    if not weights:
        guesses = torch.cat([network(resize(b, rule, size)).logits.argmax(1) for b in sampled.split(BATCH)])
        print(f"accuracy on the samples: {(guesses == labels[:SAMPLES]).double().mean():.3f}\n")
    print(f"| {network.name}, {samples.shape[1]} features | distance |\n| --- | --- |")

    def report(name: str, samples: torch.Tensor, reference=reference) -> None:
        print(f"| {name} | {frechet_distance(samples, reference):.4f} |", flush=True)

    report(f"{SAMPLES:,} images against {REFERENCE:,} others", samples)
    for other in list(RULES)[1:]:
        resized = features(sampled, other)
        report(f"both resized by {other}", resized, FeatureStatistics.of([features(first, other)]))
        report(f"samples alone resized by {other}", resized)
    for quality in (95, 90, 75):
        report(f"samples alone as JPEG of quality {quality}", features(compress(sampled, quality)))
    report("levels of samples cut off instead of rounded", features(cut_off(sampled)))
    report("another reference of as many images", samples, FeatureStatistics.of([features(second)]))
    report("a reference of half of the images", samples, FeatureStatistics.of([known[: REFERENCE // 2]]))
    for count in (2500, 1000, 500):
        found = [frechet_distance(part, reference) for part in samples.split(count)]
        print(f"| {count:,} samples, mean of {len(found)} | {np.mean(found):.4f} ± {np.std(found):.4f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--weights")
    given = parser.parse_args()
    main(given.data, given.weights)
