"""The course of a run as an image: the losses of its log by step."""

import json
from pathlib import Path

from matplotlib.figure import Figure


COLOURS = {"loss": "silver", "reconstruction": "silver", "validation_loss": "tab:blue"}


def read_metrics(folder: Path) -> list[dict]:
    """The lines of the log of a run, which may be writing one."""
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def save_curves(folder: Path) -> None:
    """Draw the losses of the log of a run, if there are any, as `validation.png` beside it; validation is blue."""
    lines = read_metrics(folder)
    figure = Figure(figsize=(6.4, 4), layout="tight")
    axes = figure.subplots()
    for name, colour in COLOURS.items():
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        if points:
            axes.plot(*zip(*points), ".-", color=colour, label=name.replace("_", " "))
    if not axes.lines:
        return
    axes.set(xlabel="step")
    axes.legend()
    figure.savefig(folder / "validation.png")
