"""
The tokens that seeds give with the shipped models, task by task, as stored in `fixtures/stored_tokens.json`.

Run as a script this file stores them anew: only for a change that is meant to give other images for the same seeds.
"""

import json
from pathlib import Path

import pytest
import torch

from randar_hf import demo_checkpoint
from randar_hf.pipelines import (
    RandARExtrapolationPipeline,
    RandARInpaintPipeline,
    RandAROutpaintPipeline,
    RandARPipeline,
    RARPipeline,
)


STORED = Path(__file__).parent / "fixtures" / "stored_tokens.json"
KINDS = {
    "generate": RandARPipeline,
    "inpaint": RandARInpaintPipeline,
    "outpaint": RandAROutpaintPipeline,
    "extrapolate": RandARExtrapolationPipeline,
    "rar": RARPipeline,
}
CASES = {
    "generate": {},
    "generate in another order": {"order": "hierarchical", "guidance_schedule": "constant", "guidance_scale": 3.0},
    "generate one token a step": {"num_inference_steps": 64, "top_k": 20, "top_p": 0.9, "temperature": 1.1},
    "generate with spatial guidance": {"spatial_guidance_scale": 1.5},
    "generate and refine": {"refine": 2},
    "inpaint": {},
    "inpaint a fraction and refine": {"strength": 0.5, "refine": 2},
    "outpaint": {"right": 16, "top": 8},
    "outpaint in windows": {"left": 40, "attention": "sliding_window"},
    "extrapolate": {"height": 128, "width": 128},
    "extrapolate all at once": {"height": 96, "width": 64, "hierarchical": False, "num_extrapolated": 0},
    "rar": {},
    "rar with power-cosine guidance": {
        "guidance_schedule": "power_cosine",
        "guidance_power": 2.75,
        "guidance_scale": 5.0,
    },
}


def sample(name: str) -> list[list[int]]:
    """The tokens of two images, each with a generator of its own."""
    kind = name.split()[0]
    pipe = KINDS[kind].from_pretrained(demo_checkpoint("rar" if kind == "rar" else "randar"))
    pipe.set_progress_bar_config(disable=True)
    inputs = {}
    if kind in ("inpaint", "outpaint"):
        inputs["image"] = torch.linspace(0, 1, 64).expand(2, 3, 64, 64)
    if kind == "inpaint":
        inputs["mask_image"] = (torch.arange(64) >= 32).float().expand(2, 1, 64, 64)
    generator = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    return pipe([3, 7], generator=generator, output_type="latent", **inputs, **CASES[name]).images.tolist()


@pytest.mark.parametrize("name", CASES)
def test_seeds_give_the_stored_tokens(name):
    assert sample(name) == json.loads(STORED.read_text())[name]


if __name__ == "__main__":
    STORED.write_text(json.dumps({name: sample(name) for name in CASES}) + "\n")
