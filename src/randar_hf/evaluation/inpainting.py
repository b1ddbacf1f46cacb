"""Inpainting in numbers: masks by name, PSNR of what is known, distance of features of what is painted."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import tqdm
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw
from torch import nn

from randar_hf.checks import check_int
from randar_hf.files import write_text
from randar_hf.images import open_image

from .feature_store import FeatureStore
from .images import SETTINGS_FILE, ImageSet, open_images
from .metrics import frechet_distance, kernel_distance
from .model_features import encode_pixels
from .sampling import check_same_settings, image_seed, model_hash, write_png


MASKS = ("left", "centre", "strokes")
STROKES, CORNERS = (1, 4), (4, 12)  # of a mask of strokes: from, to (exclusive)
WIDTHS = (1 / 16, 1 / 6)  # of strokes, as fractions of the image's side


def check_masks(masks: tuple[str, ...]) -> tuple[str, ...]:
    """Names of masks, each once; raises a `ValueError` for none or an unknown one."""
    unknown = [name for name in masks if name not in MASKS]
    if unknown or not masks:
        raise ValueError(f"`masks` must be of {', '.join(MASKS)}, got {', '.join(map(repr, unknown)) or 'none'}.")
    return tuple(dict.fromkeys(masks))


def make_mask(name: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    """
    A mask, true where the image is painted anew.

    Args:
        name (`str`): `"left"`, the left half; `"centre"`, the middle half of both sides; `"strokes"`, one to three
            polylines of 4 to 11 corners, all uniformly random within the image, 1/16 to 1/6 of its shorter side wide,
            from `numpy.random.default_rng(seed)`.
        height, width (`int`): pixels.
        seed (`int`): of the strokes.

    Returns:
        `numpy.ndarray` of shape (height, width), boolean.
    """
    check_masks((name,))
    mask = np.zeros((height, width), dtype=bool)
    if name == "left":
        mask[:, : width // 2] = True
    elif name == "centre":
        mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    else:
        mask = _draw_strokes(np.random.default_rng(seed), height, width)
    return mask


def _draw_strokes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    image = Image.new("L", (width, height))
    drawing = ImageDraw.Draw(image)
    for _ in range(rng.integers(*STROKES)):
        corners = [tuple(rng.uniform(0, (width, height))) for _ in range(rng.integers(*CORNERS))]
        thickness = max(1, round(rng.uniform(*WIDTHS) * min(height, width)))
        drawing.line(corners, fill=255, width=thickness, joint="curve")
    return np.array(image) > 0


def measure_inpainting(
    pipe: DiffusionPipeline,
    images: ImageSet,
    labels: np.ndarray,
    extractor: nn.Module,
    output_dir: str | os.PathLike,
    masks: tuple[str, ...] = MASKS,
    batch_size: int = 16,
    seed: int = 0,
    **settings,
) -> dict:
    """
    Paint parts of images anew and compare with the images; called again, go on where it stopped.

    Args:
        pipe: a [`RandARInpaintPipeline`].
        images ([`ImageSet`]): of the model's size.
        labels (`numpy.ndarray` of shape (n,)): class ids.
        extractor (`torch.nn.Module`): whose features are compared.
        output_dir (`str`): folder for the painted images and the features.
        masks (`tuple`): of `"left"`, `"centre"` and `"strokes"`.
        batch_size (`int`): images that are painted at once.
        seed (`int`): of the masks and the images; each image has its own.
        settings: of the pipeline's call.

    Returns:
        `dict`: for each mask the fraction that is `painted`; `psnr_known`, in dB, of the known pixels as the tokens
        show them, and `max_difference_known`, in levels, of the pixels that come back; and between the images and the
        painted ones, which differ under the mask alone, the `mean_feature_distance` of an image and its own, the
        `frechet_distance` and the `kernel_distance` with its standard error.

    Raises:
        ValueError: for a batch size, masks or a folder that do not fit: one of other images, models or settings.
    """
    check_int("batch_size", batch_size, 1)
    check_masks(masks)
    folder = Path(output_dir)
    painted_with = {
        "images": images.sha256,
        "model": model_hash(pipe),
        "labels": [int(label) for label in labels],
        "seed": seed,
        "defaults": pipe.transformer.generation_config.to_diff_dict(),
        **settings,
    }
    check_same_settings(folder, painted_with)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / SETTINGS_FILE, json.dumps(painted_with, indent=2) + "\n")
    originals = FeatureStore(folder / "features", images, extractor)
    originals.fill(batch_size)
    results = {}
    for name in masks:
        numbers = _paint(pipe, images, labels, folder / name, name, batch_size, seed, settings)
        store = FeatureStore(folder / "features", open_images("output_dir", folder / name), extractor)
        store.fill(batch_size)
        first, second = (np.array(part.array("pool"), dtype=np.float64) for part in (originals, store))
        distance, error = kernel_distance(second, first)
        results[name] = numbers | {
            "mean_feature_distance": float(np.linalg.norm(first - second, axis=1).mean()),
            "frechet_distance": frechet_distance(second, first),
            "kernel_distance": distance,
            "kernel_distance_standard_error": error,
        }
    return results


def _paint(pipe, images: ImageSet, labels, folder: Path, name: str, batch_size: int, seed: int, settings) -> dict:
    """Write the painted images that are not there yet; the numbers of the known pixels of all."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:06}.png" for index in range(images.count)]
    painted, squares, counts, largest = [], [], [], 0
    for start in tqdm(range(0, images.count, batch_size), desc=f"mask {name}", unit="batch"):
        rows = range(start, min(start + batch_size, images.count))
        pixels = images.batch(rows)  # (b, 3, H, W)
        batch_masks = np.stack(
            [make_mask(name, pixels.shape[2], pixels.shape[3], image_seed(seed, row)) for row in rows]
        )
        if not all(paths[row].exists() for row in rows):
            _paint_batch(pipe, pixels, batch_masks, [labels[row] for row in rows], paths, rows, seed, settings)
        known = torch.from_numpy(~batch_masks)[:, None].expand_as(pixels)  # (b, 3, H, W)
        shown = _reconstruct(pipe, pixels)
        squares.append(float(((shown - pixels.float())[known]).square().sum()))
        counts.append(int(known.sum()))
        painted.append(batch_masks.mean(axis=(1, 2)))
        results = np.stack([np.array(open_image(paths[row])) for row in rows])
        difference = np.abs(results.astype(int) - pixels.permute(0, 2, 3, 1).numpy())
        largest = max(largest, int((difference * ~batch_masks[..., None]).max()))
    error = sum(squares) / max(sum(counts), 1)
    return {
        "painted": float(np.concatenate(painted).mean()),
        "psnr_known": float(10 * np.log10(255**2 / error)) if error else float("inf"),
        "max_difference_known": largest,
    }


def _paint_batch(pipe, pixels: torch.Tensor, masks: np.ndarray, labels: list, paths: list[Path], rows, seed, settings):
    generators = [torch.Generator().manual_seed(image_seed(seed, row)) for row in rows]
    inputs = {"image": pixels.float() / 255, "mask_image": torch.from_numpy(masks)}
    outputs = pipe([int(label) for label in labels], generator=generators, **inputs, **settings).images
    for row, image in zip(rows, outputs, strict=True):
        write_png(paths[row], image)


def _reconstruct(pipe, pixels: torch.Tensor) -> torch.Tensor:
    """Images (b, 3, H, W) as their tokens show them, in levels from 0 to 255."""
    shown = pipe.decode_latents(encode_pixels(pipe, pixels), *pipe.transformer.config.grid)
    return ((shown.float().cpu() + 1) * 127.5).round().clamp(0, 255)
