"""What the commands that make images share: reading, generating, writing."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import PipelineOptions, SamplingOptions


if TYPE_CHECKING:
    from PIL.Image import Image

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_FRAMES = 48
FRAME_MILLISECONDS, LAST_MILLISECONDS = 80, 1500


def check_output(path: str, overwrite: bool, suffixes: tuple[str, ...] = SHEET_SUFFIXES) -> Path:
    """The path of an image to write; raises before any work if it exists, or if its folder does not."""
    output = Path(path)
    if output.exists() and not overwrite:
        raise ValueError(f"`--output` {path} exists; --overwrite replaces it.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"`--output` lies in the folder {output.parent}, which does not exist.")
    if output.suffix.lower() not in suffixes:
        raise ValueError(f"`--output` must end in {', '.join(suffixes)}, got {path}.")
    return output


def read_image(option: str, path: str) -> "Image":
    """An image from a file; raises an error that names the option if there is none."""
    from PIL import Image, UnidentifiedImageError

    if not Path(path).is_file():
        raise FileNotFoundError(f"`{option}` must be an image, found no file {path!r}.")
    try:
        return Image.open(path).convert("L" if option == "mask" else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"`{option}` {path!r} is no image that can be read: {error}") from error


def read_labels(words: list[str]) -> list[int | str]:
    """Class ids where the words are numbers, names elsewhere."""
    return [int(word) if word.lstrip("-").isdigit() else word for word in words]


def check_settings(pipe, settings: dict[str, Any]):
    """Raise a `ValueError` that names the options of settings that a pipeline does not have."""
    known = inspect.signature(pipe.__call__).parameters
    unknown = [f"`--{name.replace('_', '-')}`" for name in settings if name not in known]
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)} must not be given for this model: {type(pipe).__name__} cannot do that; "
            "the pipelines of RandAR models can."
        )


def make_images(
    kind: str,
    options: PipelineOptions,
    sampling: SamplingOptions,
    labels: list[str],
    num_images: int = 1,
    **arguments,
) -> list["Image"]:
    """The images of a call of a kind of pipeline, each from a seed of its own."""
    import torch

    from randar_hf import demo_checkpoint
    from randar_hf.devices import check_device
    from randar_hf.pipelines.loading import load_pipeline

    check_device(options.device)
    dtype = getattr(torch, options.dtype)
    pipe = load_pipeline("--model", options.model or demo_checkpoint(), kind, dtype).to(options.device)
    settings = sampling.given()
    check_settings(pipe, settings)
    generators = [torch.Generator().manual_seed(options.seed + i) for i in range(len(labels) * num_images)]
    return pipe(class_labels=read_labels(labels), generator=generators, **settings, **arguments).images


def save_sheet(images: list["Image"], rows: int, output: Path):
    """Write images, row by row, into one file."""
    from diffusers.utils import make_image_grid

    make_image_grid(images, rows=rows, cols=len(images) // rows).save(output)
    print(f"wrote {output}")


class Film:
    """A GIF of images as they are decoded, grey where a token is unknown."""

    def __init__(self, path: str, overwrite: bool):
        self.output = check_output(path, overwrite, (".gif",))
        self.pipe, self.frames = None, []

    def keep(self, pipe, step: int, timestep: int, inputs: dict) -> dict:
        """Keep the tokens of a step: a callback of pipelines."""
        self.pipe = pipe
        self.frames.append(inputs["latents"])
        return inputs

    def save(self, images: list["Image"], rows: int):
        """Write some of the steps, and the images at the end."""
        from diffusers.utils import make_image_grid

        chosen = [self.frames[index * len(self.frames) // MAX_FRAMES] for index in range(MAX_FRAMES)]
        chosen = self.frames if len(self.frames) <= MAX_FRAMES else chosen
        sheets = []
        for latents in chosen[:-1]:
            pixels = self.pipe.decode_latents(latents, *self.pipe.transformer.config.grid)
            partial = self.pipe.image_processor.postprocess(pixels)
            sheets.append(make_image_grid(partial, rows=rows, cols=len(partial) // rows))
        sheets.append(make_image_grid(images, rows=rows, cols=len(images) // rows))
        durations = [FRAME_MILLISECONDS] * (len(sheets) - 1) + [LAST_MILLISECONDS]
        sheets[0].save(self.output, save_all=True, append_images=sheets[1:], duration=durations, loop=0)
        print(f"wrote {self.output}")
