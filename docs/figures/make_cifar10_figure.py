"""Draw the losses of a run against a model that knows how frequent each token is, and its last preview.

python docs/figures/make_cifar10_figure.py RUN TOKENS VALIDATION_SPLIT [FILE]
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

from randar_hf.training.data.reading import load_rows
from randar_hf.training.data.token_files import read_settings, token_dataset


TRAINING, VALIDATION, BASELINE = "#d9708a", "#2e2f6e", "#6b7280"


def unigram_loss(tokens: str, split: str) -> float:
    """Nats per token of a split, predicted by how often each token is in the training split."""
    rows, held_out = (
        token_dataset(load_rows(tokens, name), "tokens", "label")[:]["tokens"] for name in ("train", split)
    )
    counts = torch.bincount(rows.flatten(), minlength=read_settings(tokens).vocab_size) + 1.0  # (V,)
    return -(counts / counts.sum()).log()[held_out].mean().item()


def main(run: str, tokens: str, split: str, output: str = "docs/figures/cifar10.png") -> None:
    """Write the figure and print the last losses."""
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    losses = {
        name: [(line["step"], line[name]) for line in lines if name in line] for name in ("loss", "validation_loss")
    }
    baseline = unigram_loss(tokens, split)
    figure, (curves, pictures) = plt.subplots(1, 2, figsize=(11, 3), width_ratios=(1, 2), layout="constrained")
    curves.axhline(baseline, color=BASELINE, linestyle="--", label="frequencies of tokens alone")
    curves.plot(*zip(*losses["loss"]), color=TRAINING, label="training")
    curves.plot(
        *zip(*losses["validation_loss"]), color=VALIDATION, marker="o", markersize=4, label="held-out pictures"
    )
    curves.set(xlabel="optimizer steps", ylabel="nats per token")
    curves.legend(frameon=False, fontsize=8)
    curves.spines[["top", "right"]].set_visible(False)
    pictures.imshow(Image.open(Path(run, "previews", f"step-{lines[-1]['step']}.png")))
    pictures.axis("off")
    figure.savefig(output, dpi=110)
    last = {name: values[-1][1] for name, values in losses.items()}
    print(f"frequencies alone {baseline:.2f}, " + ", ".join(f"{name} {value:.2f}" for name, value in last.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
