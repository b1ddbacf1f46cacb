"""Draw how many tokens the passes of lossless decoding make final, over the image, with the shipped icons.

python docs/figures/make_lossless_figure.py [FILE]
"""

import sys
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

from randar_hf import RandARForCausalLM, demo_checkpoint


NUM_IMAGES, WINDOWS, SHOWN = 20, (4, 8, 16, 32), 16
PARTS = 8  # of the image, along the axis


def find_passes(model: RandARForCausalLM, window: int) -> torch.LongTensor:
    """The pass (B, N) that made each token final, in raster order."""
    labels = torch.arange(NUM_IMAGES) % model.config.num_classes
    generators = [torch.Generator().manual_seed(seed) for seed in range(NUM_IMAGES)]
    states = model.generation_steps(labels, speculative_window=window, guidance_scale=4.0, generator=generators)
    passes = torch.full((NUM_IMAGES, model.config.num_tokens), -1)
    for state in states:
        passes[(passes < 0) & (state.tokens >= 0)] = state.step
    return passes


def count_accepted(passes: torch.LongTensor) -> torch.Tensor:
    """Mean tokens (PARTS,) that a pass makes final, by the part of the image that was final before it."""
    num_tokens = passes.shape[1]
    totals, counts = torch.zeros(PARTS), torch.zeros(PARTS)
    for row in passes:
        gained = torch.bincount(row)  # (passes,)
        parts = (gained.cumsum(0) - gained) * PARTS // num_tokens  # (passes,)
        totals += torch.zeros(PARTS).index_add(0, parts, gained.float())
        counts += torch.bincount(parts, minlength=PARTS)
    return totals / counts


def main(path: Path) -> None:
    """Write the figure to `path` as a PNG of few colours."""
    model = RandARForCausalLM.from_pretrained(demo_checkpoint(), subfolder="transformer")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(3, 2), layout="constrained")
    edges = (torch.arange(PARTS) + 0.5) / PARTS
    for window in WINDOWS:
        passes = find_passes(model, window)
        left.plot(edges, count_accepted(passes), marker="o", label=f"window {window}")
        if window == SHOWN:
            shown = passes[3].view(model.config.grid)
    left.set(xlabel="fraction of the image that was final", ylabel="tokens made final by a pass", xlim=(0, 1), ylim=0)
    left.legend()
    right.imshow(shown, cmap="viridis_r")
    for row, column in torch.cartesian_prod(*map(torch.arange, shown.shape)).tolist():
        right.text(column, row, int(shown[row, column]) + 1, ha="center", va="center", color="white", fontsize=8)
    right.set(xticks=[], yticks=[])
    right.set_title(f"pass that made each token final, window {SHOWN}", fontsize=9)
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110)
    Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("lossless.png"))
