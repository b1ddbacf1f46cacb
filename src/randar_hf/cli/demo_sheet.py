"""One image of what the shipped checkpoint can do."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from randar_hf import demo_checkpoint
from randar_hf.images import to_ink
from randar_hf.pipelines import RandARExtrapolationPipeline, RandARInpaintPipeline, RandARPipeline


# Of the sheet, which looks the same on light and on dark pages.
GROUND, INK, QUIET = "#161b22", "#f0f6fc", "#8b949e"
COLUMNS, CELL, GAP, MARGIN, CAPTION, TITLE = 16, 56, 6, 24, 16, 34  # pixels, all but the first

# Of the first, another class was tried before: a rocket that one could not tell.
APPEARING = {"random": "camera", "spiral_in": "globe outline", "hierarchical": "home"}
KNOWN = ("heart", "home outline")  # their left halves are completed as these objects
COMPLETED = ("heart", "star", "moon", "cloud", "shield", "droplet", "bell", "home", "lock", "eye", "clock", "gear",
             "trophy", "umbrella")  # fmt: skip
ENLARGED = ("heart outline", "star", "mail", "clock outline", "shield", "moon", "bookmark outline", "cloud")


@dataclass
class Row:
    """Images of one height side by side, with captions below that divide the width evenly."""

    images: list[Image.Image]
    captions: list[str]
    height: int = CELL


@dataclass
class Section:
    """A part of the sheet."""

    title: str
    rows: list[Row]


def draw_demo(seed: int = 0) -> Image.Image:
    """
    Draw an image of each class, images as they appear, one half completed as many classes, and larger images.

    Args:
        seed (`int`): seed of all images; none is picked from several.

    Returns:
        `PIL.Image.Image`: the sheet.
    """
    pipe = RandARPipeline.from_pretrained(demo_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    parts = (_all_classes, _appearing, _completed, _enlarged)
    return _draw_sheet([part(pipe, seed) for part in tqdm(parts, desc="demo")])


def _as(kind: Callable, pipe: RandARPipeline) -> RandARPipeline:
    """Another pipeline of the same parts, without progress bars."""
    other = kind(**pipe.components)
    other.set_progress_bar_config(disable=True)
    return other


def _generators(count: int, seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def _all_classes(pipe: RandARPipeline, seed: int) -> Section:
    """Each class once; a solid icon and its outline stand side by side and share a caption."""
    names = list(pipe.id2label.values())
    images, rows = pipe(names, generator=_generators(len(names), seed)).images, []
    for start in range(0, len(names), COLUMNS):
        captions = names[start : start + COLUMNS : 2]
        rows.append(Row(images[start : start + COLUMNS], captions))
    return Section(f"{len(names)} classes by name, one image each, none picked", rows)


def _appearing(pipe: RandARPipeline, seed: int) -> Section:
    """Snapshots of images while they are decoded; what is still unknown is grey."""
    config, rows = pipe.transformer.config, []
    for order, name in APPEARING.items():
        snapshots: list[torch.Tensor] = []

        def keep(pipe, step, timestep, inputs, snapshots=snapshots):
            snapshots.append(inputs["latents"])  # (1, N)
            return inputs

        settings = {"num_inference_steps": config.num_tokens, "generator": torch.Generator().manual_seed(seed)}
        pipe(name, order=order, callback_on_step_end=keep, output_type="latent", **settings)
        chosen = torch.linspace(0, len(snapshots) - 1, COLUMNS).round().long().tolist()
        pixels = pipe.decode_latents(torch.cat([snapshots[i] for i in chosen]), *config.grid)
        captions = [f"{i + 1} tokens" if i else order for i in chosen]
        rows.append(Row(pipe.image_processor.postprocess(pixels), captions))
    return Section("Token by token, in any order", rows)


def _completed(pipe: RandARPipeline, seed: int) -> Section:
    """An image, its left half, and this half completed as one class after another."""
    painter, rows = _as(RandARInpaintPipeline, pipe), []
    for known in KNOWN:
        names = [name + known.removeprefix(known.split()[0]) for name in COMPLETED]  # in the style of the known half
        image = pipe(known, generator=_generators(1, seed)).images[0]
        mask = Image.new("L", image.size)
        mask.paste(255, (image.width // 2, 0, *image.size))
        half = Image.composite(Image.new("RGB", image.size), image, mask)
        count = len(names)
        results = painter(names, [image] * count, [mask] * count, generator=_generators(count, seed)).images
        rows.append(Row([image, half, *results], [known, "left half", *COMPLETED]))
    return Section("The same left half, completed as other classes", rows)


def _enlarged(pipe: RandARPipeline, seed: int) -> Section:
    """Images of the trained size, enlarged, and of twice that size from the same coarse tokens."""
    larger, names = _as(RandARExtrapolationPipeline, pipe), list(ENLARGED)
    generators = _generators(len(names), seed)
    rows = [Row(pipe(names, generator=generators).images, names, 2 * CELL + GAP)]
    images = larger(names, generator=_generators(len(names), seed)).images
    rows.append(Row(images, ["extrapolated"] * len(names), 2 * CELL + GAP))
    return Section("Twice the trained size: enlarged, and extrapolated without training, which is worse", rows)


def _draw_sheet(sections: list[Section]) -> Image.Image:
    """Stack the sections, each with its title and its rows of ink on one ground."""
    title_font, font = ImageFont.load_default(18), ImageFont.load_default(11)
    width = COLUMNS * (CELL + GAP) - GAP
    rows = [row for section in sections for row in section.rows]
    height = len(sections) * (TITLE + MARGIN) + sum(row.height + CAPTION + GAP for row in rows)
    sheet = Image.new("RGB", (2 * MARGIN + width, MARGIN + height), GROUND)
    draw, top = ImageDraw.Draw(sheet), MARGIN
    for section in sections:
        draw.text((MARGIN, top), section.title, fill=INK, font=title_font)
        top += TITLE
        for row in section.rows:
            for index, image in enumerate(row.images):
                size = (round(image.width * row.height / image.height), row.height)
                ink = to_ink(image.resize(size, Image.Resampling.LANCZOS), INK)
                sheet.paste(ink, (MARGIN + index * (row.height + GAP), top), ink)
            top += row.height
            for index, caption in enumerate(row.captions):
                middle = MARGIN + (index + 0.5) * (width + GAP) / len(row.captions) - GAP / 2
                draw.text((middle, top + CAPTION // 2), caption, fill=QUIET, font=font, anchor="mm")
            top += CAPTION + GAP
        top += MARGIN
    return sheet
