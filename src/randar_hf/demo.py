"""One picture of what the shipped checkpoint can do."""

import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from . import demo_checkpoint
from .pipelines import RandARPipeline


CELL, GAP, MARGIN = 64, 4, 24
PROGRESS_ORDERS = ("random", "hierarchical", "center_first", "raster", "spiral_in", "subsample")
SNAPSHOTS = 10


def draw_demo(seed: int = 0) -> Image.Image:
    """
    Draw samples of every class, pictures as they appear in several orders, and what fewer steps do.

    Args:
        seed (`int`): seed of all pictures.

    Returns:
        `PIL.Image.Image`: the sheet.
    """
    pipe = RandARPipeline.from_pretrained(demo_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    names = list(pipe.id2label.values())
    num_tokens = pipe.transformer.config.num_tokens
    step_counts = (num_tokens, num_tokens // 3, num_tokens // 8)
    with tqdm(total=1 + len(PROGRESS_ORDERS) + len(step_counts), desc="demo") as progress:
        sections = [("Every class, six times", names, _every_class(pipe, names, 6, None, seed))]
        progress.update()
        for name, order in zip(names[2:], PROGRESS_ORDERS, strict=False):
            sections.append(
                (f"{name}, token by token in the order {order!r}", [], [_appearing(pipe, name, order, seed)])
            )
            progress.update()
        for steps in step_counts:
            images = _every_class(pipe, names, 1, steps, seed)
            sections.append((f"{num_tokens} tokens in {steps} steps, the same seeds", names, images))
            progress.update()
    return _draw_sheet(sections)


def _every_class(
    pipe: RandARPipeline, names: list[str], rows: int, steps: int | None, seed: int
) -> list[list[Image.Image]]:
    """Rows of one image per class."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(rows * len(names))]
    images = pipe(names * rows, num_inference_steps=steps, generator=generators).images
    return [images[i : i + len(names)] for i in range(0, len(images), len(names))]


def _appearing(pipe: RandARPipeline, name: str, order: str, seed: int) -> list[Image.Image]:
    """Snapshots of one image while it is decoded; cells that are still unknown are grey."""
    snapshots = []

    def keep(pipe, step, timestep, inputs):
        snapshots.append(inputs["latents"])
        return inputs

    num_tokens = pipe.transformer.config.num_tokens
    pipe(
        name,
        num_inference_steps=num_tokens,
        order=order,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=keep,
    )
    chosen = torch.linspace(0, len(snapshots) - 1, SNAPSHOTS).round().long().tolist()
    latents = torch.cat([snapshots[i] for i in chosen])  # (SNAPSHOTS, N)
    pixels = pipe.decode_latents(latents, *pipe.transformer.config.grid)
    return pipe.image_processor.postprocess(pixels)


def _draw_sheet(sections: list[tuple[str, list[str], list[list[Image.Image]]]]) -> Image.Image:
    """Stack sections of (title, column names, rows of images)."""
    title_font, label_font = ImageFont.load_default(18), ImageFont.load_default(11)
    width = 2 * MARGIN + max(len(rows[0]) for _, _, rows in sections) * (CELL + GAP)
    height = MARGIN + sum(_height(section) for section in sections)
    sheet = Image.new("RGB", (width, height), "white")
    draw, top = ImageDraw.Draw(sheet), MARGIN
    for title, names, rows in sections:
        draw.text((MARGIN, top - 10), title, fill="black", font=title_font)
        for column, name in enumerate(names):
            draw.text((MARGIN + column * (CELL + GAP), top + 14), name, fill="#555555", font=label_font)
        top += _height((title, names, rows))
        for row, images in enumerate(reversed(rows), start=1):
            for column, image in enumerate(images):
                place = (MARGIN + column * (CELL + GAP), top - MARGIN - row * (CELL + GAP))
                sheet.paste(image.resize((CELL, CELL), Image.Resampling.NEAREST), place)
    return sheet


def _height(section: tuple[str, list[str], list[list[Image.Image]]]) -> int:
    """Pixels that a section takes: its title, column names if it has some, rows, and a margin below."""
    _, names, rows = section
    return 14 + (16 if names else 0) + len(rows) * (CELL + GAP) + MARGIN
