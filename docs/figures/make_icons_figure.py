"""Draw icons of some classes as they appear, each in a random order of its own: one image a class, none picked.

python docs/figures/make_icons_figure.py [FILE]
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageColor

from randar_hf import demo_checkpoint
from randar_hf.images import to_ink
from randar_hf.pipelines import RandARPipeline


OBJECTS = ("heart", "star", "bell", "home", "cloud", "clock", "shield", "mail")
NAMES = [f"{name}{style}" for style in ("", " outline") for name in OBJECTS]  # two rows
GROUND, INK, LEVELS = "#161b22", "#f0f6fc", 16  # looks the same on light and on dark pages
CELL, GAP, STEP = 64, 12, 2  # pixels; decoding steps between two frames
FRAME_MILLISECONDS, LAST_MILLISECONDS = 90, 2500


def draw_frame(images: list[Image.Image], palette: Image.Image) -> Image.Image:
    """The images in two rows, in the colours of a palette."""
    columns = len(OBJECTS)
    size = (columns * (CELL + GAP) + GAP, len(images) // columns * (CELL + GAP) + GAP)
    frame = Image.new("RGB", size, GROUND)
    for index, image in enumerate(images):
        ink = to_ink(image.resize((CELL, CELL), Image.Resampling.LANCZOS), INK)
        frame.paste(ink, (GAP + index % columns * (CELL + GAP), GAP + index // columns * (CELL + GAP)), ink)
    return frame.quantize(palette=palette, dither=Image.Dither.NONE)


def main(path: Path) -> None:
    """Write the GIF to `path`."""
    pipe, frames = RandARPipeline.from_pretrained(demo_checkpoint()), []
    ends = [ImageColor.getrgb(colour) for colour in (GROUND, INK)]
    levels = [[a + (b - a) * i // (LEVELS - 1) for a, b in zip(*ends)] for i in range(LEVELS)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for level in levels for value in level])

    def keep(pipe, step, timestep, inputs):
        if step % STEP == 0:
            frames.append(inputs["latents"])  # (16, N), -1 where nothing is decoded yet
        return inputs

    generators = [torch.Generator().manual_seed(seed) for seed in range(len(NAMES))]
    config = pipe.transformer.config
    settings = {"num_inference_steps": config.num_tokens, "callback_on_step_end": keep}
    last = pipe(NAMES, generator=generators, **settings).images
    partial = [pipe.image_processor.postprocess(pipe.decode_latents(tokens, *config.grid)) for tokens in frames]
    film = [draw_frame(images, palette) for images in [*partial, last]]
    durations = [FRAME_MILLISECONDS] * len(partial) + [LAST_MILLISECONDS]
    film[0].save(path, save_all=True, append_images=film[1:], duration=durations, loop=0, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("icons.gif"))
