"""Draw the ten decoding orders of `randar_hf.orders` on a 4 x 4 grid, after Figure A of arXiv 2412.01827.

python docs/figures/make_orders_figure.py [FILE]
"""

import sys
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Circle, FancyBboxPatch
from PIL import Image

from randar_hf.orders import make_order


SIZE = 4
SEED = 3
INK = "#1f2937"
GREY = "#6b7280"
PAPER = "#f1f2f5"
STEP_COLORS = LinearSegmentedColormap.from_list("steps", ["#fde3a7", "#f9a875", "#d9708a", "#7d4a9e", "#2e2f6e"])
CAPTIONS = {
    "raster": "row after row",
    "alternate": "every other row backwards",
    "spiral_in": "from the rim inwards",
    "spiral_out": "from the middle outwards",
    "z_curve": "quarter after quarter",
    "subsample": "coarse grids first",
    "random": "sampled anew per image",
    "hierarchical": "even rows and columns first",
    "center_first": "the middle first",
    "border_first": "the middle last",
}
PATH_ORDERS = ("raster", "alternate", "spiral_in", "spiral_out", "z_curve")


def draw_cell(axes: Axes, row: int, column: int, step: int) -> None:
    """Draw one place with the step at which it is decoded, counted from 1."""
    share = step / (SIZE * SIZE - 1)
    box = FancyBboxPatch((column - 0.46, row - 0.46), 0.92, 0.92, boxstyle="round,pad=0,rounding_size=0.1", zorder=1)
    box.set(facecolor=PAPER, edgecolor="none")
    axes.add_patch(box)
    axes.add_patch(Circle((column, row), 0.35, facecolor=STEP_COLORS(share), edgecolor="white", linewidth=1, zorder=3))
    number = axes.text(column, row, str(step + 1), ha="center", va="center_baseline", fontsize=10.5, zorder=4)
    number.set(color="white" if share > 0.4 else INK, fontweight="bold")


def draw_path(axes: Axes, rows: torch.Tensor, columns: torch.Tensor) -> None:
    """Join the places in the order of their steps, behind the numbers."""
    axes.plot(columns, rows, color="#9ca3af", linewidth=1.8, solid_joinstyle="round", zorder=2)


def draw_order(axes: Axes, name: str, generator: torch.Generator) -> None:
    """Draw one order as a grid of numbered places."""
    order = make_order(name, SIZE, SIZE, generator=generator)[0]
    rows, columns = order // SIZE, order % SIZE
    for step, (row, column) in enumerate(zip(rows.tolist(), columns.tolist())):
        draw_cell(axes, row, column, step)
    if name in PATH_ORDERS:
        draw_path(axes, rows, columns)
    axes.set(xlim=(-0.55, SIZE - 0.45), ylim=(SIZE - 0.45, -0.55), aspect="equal")
    axes.axis("off")
    axes.text((SIZE - 1) / 2, -1.08, name, ha="center", fontsize=12.5, fontweight="bold", color=INK)
    axes.text((SIZE - 1) / 2, -0.68, CAPTIONS[name], ha="center", fontsize=8.5, color=GREY)


def main(path: Path) -> None:
    """Write the figure to `path` as a PNG of few colours."""
    generator = torch.Generator().manual_seed(SEED)
    figure, grid = plt.subplots(2, 5, figsize=(11.6, 5.2), gridspec_kw={"wspace": 0.16, "hspace": 0.28})
    for axes, name in zip(grid.flat, CAPTIONS):
        draw_order(axes, name, generator)
    buffer = BytesIO()
    figure.savefig(buffer, dpi=130, bbox_inches="tight", pad_inches=0.15, facecolor="white")
    Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("orders.png"))
