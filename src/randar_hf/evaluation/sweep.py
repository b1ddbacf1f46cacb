"""A model at many settings: each is sampled and evaluated once, and a table and a plot tell the best."""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import PartialState
from matplotlib.figure import Figure
from torch import nn

from randar_hf.files import whole_file, write_text
from randar_hf.outputs import check_no_links

from .evaluating import check_counts, evaluate_images, metric_names
from .images import open_images
from .references import Reference
from .sampling import sample_images


SWEPT = {
    "guidance_scale": float,
    "order": str,
    "num_inference_steps": int,
    "temperature": float,
    "top_k": int,
    "spatial_guidance_scale": float,
    "guidance_schedule": str,
    "guidance_power": float,
    "top_p": float,
}
TABLE_FILE, PLOT_FILE, RESULT_FILE = "table.md", "plot.png", "result.json"


def expand_range(name: str, text: str, kind: type = float) -> list:
    """
    Values of an option: some with commas, `"3.0,3.5"`, or from, to and step, `"1:8:0.1"`, the end included.

    Raises:
        ValueError: for anything else.
    """
    try:
        if kind is str or ":" not in text:
            return [kind(part.strip()) for part in text.split(",")]
        first, last, step = (float(part) for part in text.split(":"))
        count = round((last - first) / step)
        if step <= 0 or count < 0:
            raise ValueError
        values = [round(first + index * step, 10) for index in range(count + 1)]
        return [kind(value) for value in values if value <= last + 1e-9]
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"`{name}` must be values as 3,3.5 or from:to:step as 1:8:0.1, got {text!r}.") from error


def list_settings(grid: Mapping[str, Sequence]) -> list[dict]:
    """All combinations of a grid, each once; raises a `ValueError` for a setting that cannot be swept."""
    unknown = [name for name in grid if name not in SWEPT]
    if unknown:
        raise ValueError(f"`grid` must be of {', '.join(SWEPT)}, got {unknown[0]!r}.")
    names = [name for name in SWEPT if grid.get(name)]
    if not names:
        raise ValueError("`grid` must hold at least one setting with values, got none.")
    combinations = itertools.product(*(dict.fromkeys(grid[name]) for name in names))
    return [dict(zip(names, values, strict=True)) for values in combinations]


def sweep(
    model: str | os.PathLike | None,
    reference: Reference,
    output_dir: str | os.PathLike,
    grid: Mapping[str, Sequence],
    extractor: nn.Module,
    num_images: int = 10_000,
    batch_size: int = 32,
    seed: int = 0,
    classes: str = "balanced",
    dtype: str = "float32",
    device: str | None = None,
    state: PartialState | None = None,
) -> list[dict]:
    """
    Sample and evaluate a model at each combination of settings; called again, go on where it stopped.

    Args:
        model (`str` or `None`): folder or Hub name of a pipeline; `None` for the shipped one.
        reference ([`Reference`]): what the samples are compared with, of [`open_reference`].
        output_dir (`str`): folder with a folder for each setting, `table.md`, `table.json` and `plot.png`.
        grid (`dict`): values by the name of a setting of [`sample_images`].
        extractor (`torch.nn.Module`): whose features are compared.
        num_images, batch_size, seed, classes, dtype, device: as for [`sample_images`].
        state (`accelerate.PartialState`, *optional*): the processes that share the work.

    Returns:
        `list[dict]`: for each setting its values and metrics, in the order of the grid.

    Raises:
        ValueError: for a grid without values, too few images, or a folder that is a link or holds one.
    """
    settings, folder, rows = list_settings(grid), Path(output_dir), []
    check_counts(num_images, reference)
    check_no_links("output_dir", folder)
    for values in settings:
        name = ",".join(f"{key}={value}" for key, value in values.items())
        samples = sample_images(
            model,
            folder / name / "samples",
            num_images=num_images,
            classes=classes,
            batch_size=batch_size,
            seed=seed,
            dtype=dtype,
            device=device,
            write_npz=False,
            **values,
        )
        result = evaluate_images(
            open_images("samples", samples),
            reference,
            extractor,
            folder / "features",
            batch_size=batch_size,
            state=state,
        )
        if result is not None:
            rows.append(values | result["metrics"])
            write_text(folder / name / RESULT_FILE, json.dumps(result, indent=2) + "\n")
            write_table(rows, folder, len(settings), num_images, extractor)
    return rows


def write_table(rows: list[dict], folder: Path, num_settings: int, num_images: int, extractor: nn.Module) -> None:
    """Write the settings measured so far as `table.json`, `table.md` and, of two or more, `plot.png`."""
    names = metric_names(extractor)
    quality, score = names["pool"], names["score"]
    best = min(range(len(rows)), key=lambda index: rows[index][quality])
    columns = list(rows[0])
    lines = [
        f"{len(rows)} of {num_settings} settings, {num_images:,} images each, features of {extractor.name}; "
        f"the best {quality} is marked.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
    ]
    for index, row in enumerate(rows):
        cells = [f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name]) for name in columns]
        cells = [f"**{cell}**" for cell in cells] if index == best else cells
        lines.append("| " + " | ".join(cells) + " |")
    write_text(folder / TABLE_FILE, "\n".join(lines) + "\n")
    write_text(folder / "table.json", json.dumps(rows, indent=2) + "\n")
    if score in rows[0]:
        _plot(rows, best, quality, score, folder / PLOT_FILE)


def _plot(rows: list[dict], best: int, quality: str, score: str, path: Path) -> None:
    """One number against the other, a point for each setting."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    settings = [",".join(str(row[name]) for name in SWEPT if name in row) for row in rows]
    points = [row[score] for row in rows], [row[quality] for row in rows]
    axes.plot(*points, "o-", color="tab:blue")
    axes.plot(points[0][best], points[1][best], "*", color="tab:red", markersize=16, label=f"best: {settings[best]}")
    for x, y, text in zip(*points, settings, strict=True):
        axes.annotate(text, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
    swept = ", ".join(name for name in SWEPT if name in rows[0])
    axes.set(xlabel=score, ylabel=quality, title=f"by {swept}")
    axes.legend()
    with whole_file(path) as file:
        figure.savefig(file, format="png")
