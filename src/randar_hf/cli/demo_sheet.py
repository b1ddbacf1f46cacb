"""One image of what the shipped checkpoint can do."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from randar_hf import demo_checkpoint
from randar_hf.pipelines import (
    RandARExtrapolationPipeline,
    RandARInpaintPipeline,
    RandAROutpaintPipeline,
    RandARPipeline,
)
from randar_hf.vq import encode_images


CELL, GAP, MARGIN = 64, 4, 24
LABEL_WIDTH = 150
PROGRESS_ORDERS = ("random", "spiral_in")
SNAPSHOTS = 10


@dataclass
class Section:
    """A part of the sheet: rows of images of one height, with a name for each row."""

    title: str
    rows: list[list[Image.Image]]
    names: list[str] = field(default_factory=list)
    height: int = CELL


def draw_demo(seed: int = 0) -> Image.Image:
    """
    Draw samples, images as they appear, inpainting, editing, outpainting, larger images and features.

    Args:
        seed (`int`): seed of all images.

    Returns:
        `PIL.Image.Image`: the sheet.
    """
    pipe = RandARPipeline.from_pretrained(demo_checkpoint())
    parts = (_generated, _appearing, _inpainted, _edited, _outpainted, _enlarged, _features)
    return _draw_sheet([part(pipe, seed) for part in tqdm(parts, desc="demo")])


def _quiet(kind: Callable, pipe: RandARPipeline) -> RandARPipeline:
    """Another pipeline of the same parts, without progress bars."""
    other = kind(**pipe.components)
    other.set_progress_bar_config(disable=True)
    return other


def _generators(count: int, seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def _digits(pipe: RandARPipeline, seed: int, **settings) -> list[Image.Image]:
    """One image of each class."""
    names = list(pipe.id2label.values())
    return _quiet(RandARPipeline, pipe)(names, generator=_generators(len(names), seed), **settings).images


def _generated(pipe: RandARPipeline, seed: int) -> Section:
    num_tokens = pipe.transformer.config.num_tokens
    steps = (num_tokens, num_tokens // 3, num_tokens // 8)
    rows = [_digits(pipe, seed + 10 * row) for row in range(2)]
    rows += [_digits(pipe, seed, num_inference_steps=count) for count in steps]
    names = ["default steps"] * 2 + [f"{num_tokens} tokens in {count} steps" for count in steps]
    return Section("Generated, one of each class", rows, names)


def _appearing(pipe: RandARPipeline, seed: int) -> Section:
    """Snapshots of two images while they are decoded; cells that are still unknown are grey."""
    config, rows = pipe.transformer.config, []
    for order in PROGRESS_ORDERS:
        snapshots: list[torch.Tensor] = []

        def keep(pipe, step, timestep, inputs, snapshots=snapshots):
            snapshots.append(inputs["latents"])
            return inputs

        _quiet(RandARPipeline, pipe)(
            "three",
            num_inference_steps=config.num_tokens,
            order=order,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=keep,
        )
        chosen = torch.linspace(0, len(snapshots) - 1, SNAPSHOTS).round().long().tolist()
        pixels = pipe.decode_latents(torch.cat([snapshots[i] for i in chosen]), *config.grid)
        rows.append(pipe.image_processor.postprocess(pixels))
    return Section("Token by token, in any order", rows, list(PROGRESS_ORDERS))


def _right_half(image: Image.Image) -> Image.Image:
    mask = Image.new("L", image.size)
    mask.paste(255, (image.width // 2, 0, *image.size))
    return mask


def _inpainted(pipe: RandARPipeline, seed: int) -> Section:
    images, names = _digits(pipe, seed), list(pipe.id2label.values())
    masks = [_right_half(image) for image in images]
    results = _quiet(RandARInpaintPipeline, pipe)(
        names, images, masks, generator=_generators(len(images), seed + 1)
    ).images
    return Section("Inpainted: the right half anew", [images, masks, results], ["image", "mask", "result"])


def _edited(pipe: RandARPipeline, seed: int) -> Section:
    images, names = _digits(pipe, seed), list(pipe.id2label.values())
    others = names[1:] + names[:1]
    results = _quiet(RandARInpaintPipeline, pipe)(
        others, images, [_right_half(image) for image in images], generator=_generators(len(images), seed + 1)
    ).images
    return Section("Edited: the same, as the next digit", [images, results], ["image", "result"])


def _outpainted(pipe: RandARPipeline, seed: int) -> Section:
    names = [pipe.id2label[i] for i in (3, 8, 0)]
    painter, width = _quiet(RandAROutpaintPipeline, pipe), None
    images = [_digits(pipe, seed)[i] for i in (3, 8, 0)]
    width = images[0].width
    rows = [
        painter(
            names, images, left=width, right=width, attention=attention, generator=_generators(len(images), seed)
        ).images
        for attention in ("full", "sliding_window")
    ]
    return Section("Outpainted to three times the width", rows, ["full attention", "sliding window"])


def _enlarged(pipe: RandARPipeline, seed: int) -> Section:
    names, larger = [pipe.id2label[i] for i in (0, 2, 3, 5, 6)], _quiet(RandARExtrapolationPipeline, pipe)
    kinds = {
        "trained size": None,
        "coarse tokens first": {},
        "with spatial guidance": {"spatial_guidance_scale": 1.5},
        "all cells at once": {"hierarchical": False},
        "high freq. extrapolated": {"num_extrapolated": 1},
    }
    rows = []
    for settings in kinds.values():
        size = {"height": 32, "width": 32} if settings is None else {}
        settings = {"num_extrapolated": 0, "spatial_guidance_scale": 1.0, **(settings or {}), **size}
        rows.append(larger(names, generator=_generators(len(names), seed), **settings).images)
    return Section("At twice the resolution", rows, list(kinds), height=2 * CELL)


def _features(pipe: RandARPipeline, seed: int) -> Section:
    """The first three principal components of features as red, green and blue, for one and for two rounds."""
    images, (height, width) = _digits(pipe, seed), pipe.transformer.config.grid
    tokens = encode_images(pipe.vqvae, pipe.image_processor.preprocess(images)).flatten(1)  # (B, N)
    rows = [images]
    for rounds in (1, 2):
        features = pipe.transformer.extract_features(
            tokens, layer=3, rounds=rounds, generator=torch.Generator().manual_seed(seed)
        )  # (B, N, D)
        centred = (features - features.mean(dim=(0, 1))).flatten(0, 1)  # (B * N, D)
        directions = torch.linalg.svd(centred, full_matrices=False).Vh[:3]  # (3, D)
        components = centred @ directions.T  # (B * N, 3)
        colours = (components / components.std(dim=0) / 4 + 0.5).clamp(0, 1).view(len(images), height, width, 3)
        rows.append([Image.fromarray((255 * colour).byte().numpy()) for colour in colours])
    return Section("Features: three principal components", rows, ["image", "read once", "read twice"])


def _draw_sheet(sections: list[Section]) -> Image.Image:
    """Stack the sections, each with its title, the names of its rows at the left, and its rows."""
    title_font, label_font = ImageFont.load_default(18), ImageFont.load_default(12)
    scaled = [[[_scale(image, section.height) for image in row] for row in section.rows] for section in sections]
    width = max(sum(image.width + GAP for image in row) for rows in scaled for row in rows)
    height = sum(MARGIN + 20 + len(rows) * (rows[0][0].height + GAP) for rows in scaled)
    sheet = Image.new("RGB", (2 * MARGIN + LABEL_WIDTH + width, MARGIN + height), "white")
    draw, top = ImageDraw.Draw(sheet), MARGIN // 2
    for section, rows in zip(sections, scaled, strict=True):
        draw.text((MARGIN, top), section.title, fill="black", font=title_font)
        top += 28
        for name, row in zip(section.names, rows, strict=True):
            draw.text((MARGIN, top + row[0].height // 2 - 8), name, fill="#555555", font=label_font)
            left = MARGIN + LABEL_WIDTH
            for image in row:
                sheet.paste(image, (left, top))
                left += image.width + GAP
            top += row[0].height + GAP
        top += MARGIN - 8
    return sheet


def _scale(image: Image.Image, height: int) -> Image.Image:
    width = round(image.width * height / image.height)
    return image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
