"""Images made of images: sheets, films, colours of features, orders."""

import io
import math

import torch
from PIL import Image

from randar_hf.orders import make_order
from randar_hf.schedules import group_sizes


GAP = 2
FRAME_MILLISECONDS, LAST_MILLISECONDS = 90, 1500
VIEW_PIXELS = 512
UNKNOWN = (200, 200, 200)


def draw_sheet(images: list[Image.Image], rows: int) -> Image.Image:
    """Images of one size side by side, in `rows` rows, with a narrow gap between them."""
    columns, (width, height) = math.ceil(len(images) / rows), images[0].size
    gap = GAP if len(images) > 1 else 0
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * (width + gap), index // columns * (height + gap)))
    return sheet


def scale_to_view(image: Image.Image) -> Image.Image:
    """An image, its pixels enlarged a whole number of times so that it fills about the view, or reduced to it."""
    longer = max(image.size)
    if longer > VIEW_PIXELS:
        return image.resize([max(round(side * VIEW_PIXELS / longer), 1) for side in image.size])
    factor = VIEW_PIXELS // longer
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def draw_film(frames: list[Image.Image]) -> bytes:
    """A GIF of the frames, enlarged for viewing, that rests on the last one."""
    frames, film = [scale_to_view(frame) for frame in frames], io.BytesIO()
    durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS]
    frames[0].save(film, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return film.getvalue()


def colour_features(features: torch.Tensor) -> Image.Image:
    """Features (h, w, D) as an image of w x h pixels: their first three principal components as red, green, blue."""
    height, width, depth = features.shape
    centred = (features - features.mean(dim=(0, 1))).view(-1, depth)  # (h * w, D)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:3]  # (3, D)
    components = centred @ directions.T  # (h * w, 3)
    colours = (components / components.std(dim=0) / 4 + 0.5).clamp(0, 1).view(height, width, 3)
    return Image.fromarray((255 * colours).byte().numpy())


def draw_order(name: str, grid: tuple[int, int], num_steps: int, seed: int) -> bytes:
    """A GIF of the cells of a grid as an order decodes them in steps, from blue over green to red."""
    (order,) = make_order(name, *grid, generator=torch.Generator().manual_seed(seed)).tolist()
    image, frames, taken = Image.new("RGB", (grid[1], grid[0]), UNKNOWN), [], 0
    for size in group_sizes(len(order), min(num_steps, len(order))):
        for rank in range(taken, taken + size):
            image.putpixel((order[rank] % grid[1], order[rank] // grid[1]), _rank_colour(rank / len(order)))
        taken += size
        frames.append(image.copy())
    return draw_film(frames)


def _rank_colour(fraction: float) -> tuple[int, int, int]:
    hue = round(170 * (1 - fraction))  # of 255: blue, then green, then red
    red, green, blue = Image.new("HSV", (1, 1), (hue, 200, 230)).convert("RGB").tobytes()
    return red, green, blue
