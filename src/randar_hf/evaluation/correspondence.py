"""Semantic correspondence on SPair-71k (arXiv 1908.10543) with the protocol of DIFT (paper, Tables 5 and C)."""

import json
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from randar_hf.checks import is_finite
from randar_hf.images import open_image


MAX_CACHED = 100  # feature maps; images recur within a category


@dataclass
class Pair:
    """
    Two images of a category and K key points of both.

    Attributes:
        name, category (`str`): of the pair.
        source, target (`pathlib.Path`): the images.
        source_points, target_points (`torch.Tensor` of shape (K, 2)): x and y in pixels.
        target_size (`float`): longer side of the object's box in the target, in pixels.
    """

    name: str
    category: str
    source: Path
    target: Path
    source_points: torch.Tensor
    target_points: torch.Tensor
    target_size: float


def read_pairs(folder: str | os.PathLike, split: str = "test") -> list[Pair]:
    """
    The pairs of a split of the data set's published folder.

    Args:
        folder (`str`): `SPair-71k`, with `JPEGImages/CATEGORY/NAME.jpg` and `PairAnnotation/SPLIT/*.json`.
        split (`str`): `"trn"`, `"val"` or `"test"`.

    Raises:
        FileNotFoundError: if the folder, its annotations or an image are not there.
        ValueError: for an annotation that cannot be read.
    """
    folder = Path(folder)
    files = sorted((folder / "PairAnnotation" / split).glob("*.json"))
    if not files:
        raise FileNotFoundError(
            f"`data` must be the folder of SPair-71k with pairs in PairAnnotation/{split}, got {str(folder)!r}."
        )
    pairs = []
    for file in files:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            images = folder / "JPEGImages" / found["category"]
            left, top, right, bottom = found["trg_bndbox"]
            points = [torch.tensor(found[key], dtype=torch.float32).view(-1, 2) for key in ("src_kps", "trg_kps")]
            pair = Pair(
                name=file.stem,
                category=found["category"],
                source=images / found["src_imname"],
                target=images / found["trg_imname"],
                source_points=points[0],
                target_points=points[1],
                target_size=float(max(right - left, bottom - top)),
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"`data` must hold annotations of pairs, got {str(file)!r}: {error!r}") from error
        if len(points[0]) != len(points[1]) or not len(points[0]):
            raise ValueError(
                f"`data` must hold pairs of as many points in both images, at least one, got {str(file)!r}."
            )
        for path in (pair.source, pair.target):
            if not path.is_file():
                raise FileNotFoundError(f"`data` must hold all images, found none at {str(path)!r} of {file.name}.")
        pairs.append(pair)
    return pairs


def interpolation(cells: int, pixels: int) -> torch.Tensor:
    """Weights (pixels, cells) of bilinear interpolation along a side, with half-pixel centres."""
    return F.interpolate(torch.eye(cells)[None], size=pixels, mode="linear", align_corners=False)[0].T


def match_points(
    source: torch.Tensor, target: torch.Tensor, points: torch.Tensor, source_size: tuple, target_size: tuple
) -> torch.Tensor:
    """
    Where the points of one image lie in another: the pixel whose feature has the largest cosine.

    Args:
        source, target (`torch.Tensor` of shape (D, h, w)): feature maps, scaled bilinearly to the sizes of the images.
        points (`torch.Tensor` of shape (K, 2)): x and y in pixels of the source.
        source_size, target_size (`(int, int)`): width and height of the images in pixels.

    Returns:
        `torch.Tensor` of shape (K, 2): x and y in pixels of the target.
    """
    width, height = source_size
    columns = points[:, 0].round().long().clamp(0, width - 1)
    rows = points[:, 1].round().long().clamp(0, height - 1)
    across = interpolation(source.shape[2], width)[columns]  # (K, w)
    down = interpolation(source.shape[1], height)[rows]  # (K, h)
    vectors = torch.einsum("dhw,kh,kw->kd", source, down, across)  # (K, D)
    width, height = target_size
    across, down = interpolation(target.shape[2], width), interpolation(target.shape[1], height)
    products = torch.einsum("kd,dhw->khw", vectors, target)
    products = down @ products @ across.T  # (K, H, W): interpolation and product may change places
    norms = torch.stack([(torch.einsum("h,dhw->dw", row, target) @ across.T).norm(dim=0) for row in down])  # (H, W)
    best = (products / norms.clamp(min=1e-12)).flatten(1).argmax(dim=1)  # (K,)
    return torch.stack([best % width, best // width], dim=1).float()


def measure_correspondence(
    pairs: list[Pair],
    maps: Callable[[torch.Tensor], torch.Tensor],
    size: int,
    alpha: float = 0.1,
    keep: Callable[[Pair, torch.Tensor, torch.Tensor], None] | None = None,
) -> dict:
    """
    Percentage of correct key points: those whose match is nearer than `alpha` of the object's longer side.

    Args:
        pairs (`list`): of [`read_pairs`].
        maps (callable): from uint8 images (B, 3, size, size) to features (B, D, h, w).
        size (`int`): images are scaled to this square, as in DIFT.
        alpha (`float`): the tolerance.
        keep (callable, *optional*): is called with each pair, its matches (K, 2) and which are right (K,).

    Returns:
        `dict`: `per_image`, the mean over pairs, and `per_point`, over all points, in percent; both `by_category` too.
    """
    if not is_finite(alpha) or alpha <= 0:
        raise ValueError(f"`alpha` must be above 0, got {alpha!r}.")
    found = defaultdict(list)
    cache: dict[Path, tuple[torch.Tensor, tuple[int, int]]] = {}
    for pair in pairs:
        if len(cache) > MAX_CACHED:
            cache.clear()
        for path in {pair.source, pair.target} - cache.keys():
            cache[path] = _feature_map(path, maps, size)
        (source, source_size), (target, target_size) = cache[pair.source], cache[pair.target]
        matches = match_points(source, target, pair.source_points, source_size, target_size)
        right = (matches - pair.target_points).norm(dim=1) <= alpha * pair.target_size  # (K,)
        found[pair.category].append(right)
        if keep is not None:
            keep(pair, matches, right)
    everything = [right for part in found.values() for right in part]
    return _percentages(everything) | {"by_category": {name: _percentages(part) for name, part in found.items()}}


def _feature_map(path: Path, maps: Callable, size: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """Features (D, h, w) of an image file, and its width and height."""
    image = open_image(path)
    square = np.array(image.resize((size, size), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(square).permute(2, 0, 1)[None]  # (1, 3, size, size)
    return maps(pixels)[0].float().cpu(), image.size


def _percentages(hits: list[torch.Tensor]) -> dict[str, float]:
    per_image = torch.stack([right.double().mean() for right in hits]).mean()
    return {"per_image": 100 * per_image.item(), "per_point": 100 * torch.cat(hits).double().mean().item()}


def draw_matches(pair: Pair, matches: torch.Tensor, right: torch.Tensor) -> Image.Image:
    """Both images side by side, with a line for each match: green where it is right, red elsewhere."""
    first, second = (open_image(path) for path in (pair.source, pair.target))
    sheet = Image.new("RGB", (first.width + second.width, max(first.height, second.height)), "white")
    sheet.paste(first, (0, 0))
    sheet.paste(second, (first.width, 0))
    drawing = ImageDraw.Draw(sheet)
    for start, end, is_right in zip(pair.source_points.tolist(), matches.tolist(), right.tolist(), strict=True):
        colour, end = ("lime" if is_right else "red"), (end[0] + first.width, end[1])
        drawing.line([tuple(start), end], fill=colour, width=2)
        for x, y in (start, end):
            drawing.ellipse([x - 3, y - 3, x + 3, y + 3], outline=colour, width=2)
    return sheet
