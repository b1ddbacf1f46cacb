"""The course of a run as an image: the losses of its log by step."""

import json
from pathlib import Path

from PIL import Image, ImageDraw


SIZE, MARGIN = (640, 400), (56, 16, 16, 36)  # pixels; left, top, right, bottom
COLOURS = {"loss": "#999999", "reconstruction": "#999999", "validation_loss": "#1f5fbf"}


def read_metrics(folder: Path) -> list[dict]:
    """The lines of the log of a run, which may be writing one."""
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def save_curves(folder: Path) -> None:
    """Draw the losses of the log of a run, if there are any, as `validation.png` beside it; validation is blue."""
    lines = read_metrics(folder)
    curves = {}
    for name in COLOURS:
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        curves |= {name: points} if points else {}
    if not curves:
        return
    steps, losses = zip(*(point for points in curves.values() for point in points))
    spans = [(min(steps), max(steps)), (min(losses), max(losses))]
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = MARGIN[0], MARGIN[1], SIZE[0] - MARGIN[2], SIZE[1] - MARGIN[3]
    draw.rectangle((left, top, right, bottom), outline="#cccccc")

    def position(step: float, loss: float) -> tuple[float, float]:
        across, up = ((value - low) / ((high - low) or 1) for value, (low, high) in zip((step, loss), spans))
        return left + across * (right - left), bottom - up * (bottom - top)

    for number, (name, points) in enumerate(curves.items()):
        corners = [position(*point) for point in points]
        draw.line(corners, fill=COLOURS[name], width=2)
        x, y = corners[-1]
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=COLOURS[name])
        draw.text((right - 8, top + 8 + 16 * number), name.replace("_", " "), fill=COLOURS[name], anchor="ra")
    for loss, anchor in zip(spans[1], ("rs", "rt")):
        draw.text((left - 6, position(spans[0][0], loss)[1]), f"{loss:.3g}", fill="black", anchor=anchor)
    for step, anchor in zip(spans[0], ("lt", "rt")):
        draw.text((position(step, spans[1][0])[0], bottom + 6), f"{step:,}", fill="black", anchor=anchor)
    draw.text(((left + right) / 2, bottom + 6), "step", fill="black", anchor="mt")
    image.save(folder / "validation.png")
