"""The commands that draw: `generate`, `inpaint`, `outpaint` and `extrapolate`."""

import argparse
import inspect
import warnings
from pathlib import Path
from typing import Any


TYPES = ("float32", "bfloat16", "float16")
MAX_FRAMES = 48
FRAME_MILLISECONDS, LAST_MILLISECONDS = 80, 1500


def add_image_commands(commands):
    """Add the commands to the parsers of the command line."""
    generate = commands.add_parser("generate", help="generate images of classes")
    generate.add_argument("labels", nargs="+", help="class names or ids")
    generate.add_argument("--num-images", type=int, default=1, help="images for each label")
    generate.add_argument("--animate", help="GIF that shows the images as they appear, step by step")
    generate.set_defaults(run=_generate)

    inpaint = commands.add_parser("inpaint", help="paint a part of an image anew, as its class or as another")
    inpaint.add_argument("label", help="class name or id")
    inpaint.add_argument("image", help="picture")
    inpaint.add_argument("mask", help="picture of the same size, white where it is to be painted")
    inpaint.add_argument("--strength", type=float, default=1.0, help="share of the masked tokens that is repainted")
    inpaint.add_argument("--seam", type=int, default=0, help="pixels of the mask over which old turns into new")
    inpaint.set_defaults(run=_inpaint)

    outpaint = commands.add_parser("outpaint", help="extend an image beyond its sides")
    outpaint.add_argument("label", help="class name or id")
    outpaint.add_argument("image", help="picture")
    for side in ("left", "right", "top", "bottom"):
        outpaint.add_argument(f"--{side}", type=int, default=0, help="pixels to add on this side")
    outpaint.add_argument("--attention", default="full", help="full or sliding_window")
    outpaint.set_defaults(run=_outpaint)

    extrapolate = commands.add_parser("extrapolate", help="generate images larger than the trained size")
    extrapolate.add_argument("labels", nargs="+", help="class names or ids")
    extrapolate.add_argument("--height", type=int, help="pixels (default: twice the trained size)")
    extrapolate.add_argument("--width", type=int, help="pixels (default: twice the trained size)")
    extrapolate.add_argument("--num-images", type=int, default=1, help="images for each label")
    extrapolate.add_argument("--num-extrapolated", type=int, help="rotary frequencies that are not interpolated")
    extrapolate.add_argument("--flat", action="store_true", help="all cells in one go, without coarse tokens first")
    extrapolate.set_defaults(run=_extrapolate)

    for parser in (generate, inpaint, outpaint, extrapolate):
        _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser):
    parser.add_argument("--model", help="folder or Hub name of a pipeline (default: the shipped digits)")
    parser.add_argument("--output", default="images.png", help="picture to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="decoding steps, up to one per token")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--guidance-schedule", help="linear, constant or power_cosine")
    parser.add_argument("--guidance-power", type=float, help="exponent of the schedule power_cosine")
    parser.add_argument("--spatial-guidance-scale", type=float, help="1 turns it off")
    parser.add_argument("--spatial-dropout", type=float, help="share of tokens that guidance leaves out")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--order", help="name of a decoding order")
    parser.add_argument("--refine", type=int, help="rounds in which unlikely tokens are drawn again")
    parser.add_argument("--refine-share", type=float, help="share of the tokens that a round draws again")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image; the next ones count up")
    parser.add_argument("--dtype", choices=TYPES, default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing picture")


def check_output(path: str, overwrite: bool, suffixes: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".webp")) -> Path:
    """The path of a picture to write; raises before any work if it exists, or if its folder does not."""
    output = Path(path)
    if output.exists() and not overwrite:
        raise ValueError(f"`--output` {path} exists; --overwrite replaces it.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"`--output` lies in the folder {output.parent}, which does not exist.")
    if output.suffix.lower() not in suffixes:
        raise ValueError(f"`--output` must end in {', '.join(suffixes)}, got {path}.")
    return output


def load_pipeline(name: str, model: str | None, dtype: str):
    """
    A pipeline from a folder or the Hub, by default the shipped one; a `ValueError` says why it does not load.

    What only generates is loaded as the pipeline for its kind of model.
    """
    import torch
    from diffusers import DiffusionPipeline
    from safetensors import SafetensorError

    from . import demo_checkpoint, pipelines

    folder = model or demo_checkpoint()
    try:
        if name == "RandARPipeline":
            with warnings.catch_warnings(action="ignore"):  # diffusers asks the Hub in a way that is deprecated
                stored = DiffusionPipeline.load_config(folder).get("_class_name")
            name = stored if stored == "RARPipeline" else name
        return getattr(pipelines, name).from_pretrained(folder, dtype=getattr(torch, dtype))
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"`--model` {model} cannot be loaded: {error}") from error


def read_picture(option: str, path: str):
    """A picture from a file; raises an error that names the option if there is none."""
    from PIL import Image, UnidentifiedImageError

    if not Path(path).is_file():
        raise FileNotFoundError(f"`{option}` must be a picture, found no file {path!r}.")
    try:
        return Image.open(path).convert("L" if option == "mask" else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"`{option}` {path!r} is no picture that can be read: {error}") from error


def read_labels(labels: list[str]) -> list[int | str]:
    """Class ids where the words are numbers, names elsewhere."""
    return [int(label) if label.lstrip("-").isdigit() else label for label in labels]


def check_settings(pipe, settings: dict[str, Any]):
    """Raise a `ValueError` that names the options of settings that a pipeline does not have."""
    known = inspect.signature(pipe.__call__).parameters
    unknown = [f"`--{name.replace('_', '-')}`" for name in settings if name not in known]
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)} must be left out for this model: {type(pipe).__name__} cannot do that; "
            "the pipelines of RandAR models can."
        )


def _draw(pipeline: str, options: argparse.Namespace, count: int, **arguments) -> list:
    """The images of a pipeline's call with the common settings; those that are not given are the pipeline's own."""
    import torch

    from .devices import check_device

    check_device(options.device)
    settings = {
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance_scale,
        "guidance_schedule": options.guidance_schedule,
        "guidance_power": options.guidance_power,
        "spatial_guidance_scale": options.spatial_guidance_scale,
        "spatial_dropout": options.spatial_dropout,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "order": options.order,
        "refine": options.refine,
        "refine_share": options.refine_share,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    pipe = load_pipeline(pipeline, options.model, options.dtype).to(options.device)
    check_settings(pipe, settings)
    generators = [torch.Generator().manual_seed(options.seed + i) for i in range(count)]
    return pipe(**settings, generator=generators, **arguments).images


def _save_sheet(images: list, rows: int, output: Path):
    from diffusers.utils import make_image_grid

    make_image_grid(images, rows=rows, cols=len(images) // rows).save(output)
    print(f"wrote {output}")


def _generate(options: argparse.Namespace, rest: list[str]):
    output = check_output(options.output, options.overwrite)
    film = check_output(options.animate, options.overwrite, (".gif",)) if options.animate else None
    frames = []

    def keep(pipe, step, timestep, inputs):
        frames.append(inputs["latents"])
        keep.pipe = pipe
        return inputs

    labels = read_labels(options.labels)
    images = _draw(
        "RandARPipeline",
        options,
        len(labels) * options.num_images,
        class_labels=labels,
        num_images_per_prompt=options.num_images,
        callback_on_step_end=keep if film else None,
    )
    _save_sheet(images, len(labels), output)
    if film:
        _save_film(keep.pipe, frames, images, len(labels), film)


def _save_film(pipe, frames: list, images: list, rows: int, output: Path):
    """A GIF of partial images, grey where unknown, that ends with the images."""
    from diffusers.utils import make_image_grid

    chosen = [frames[index * len(frames) // MAX_FRAMES] for index in range(MAX_FRAMES)]
    chosen = frames if len(frames) <= MAX_FRAMES else chosen
    sheets = []
    for latents in chosen[:-1]:
        pixels = pipe.decode_latents(latents, *pipe.transformer.config.grid)
        partial = pipe.image_processor.postprocess(pixels)
        sheets.append(make_image_grid(partial, rows=rows, cols=len(partial) // rows))
    sheets.append(make_image_grid(images, rows=rows, cols=len(images) // rows))
    durations = [FRAME_MILLISECONDS] * (len(sheets) - 1) + [LAST_MILLISECONDS]
    sheets[0].save(output, save_all=True, append_images=sheets[1:], duration=durations, loop=0)
    print(f"wrote {output}")


def _inpaint(options: argparse.Namespace, rest: list[str]):
    output = check_output(options.output, options.overwrite)
    images = _draw(
        "RandARInpaintPipeline",
        options,
        1,
        class_labels=read_labels([options.label]),
        image=read_picture("image", options.image),
        mask_image=read_picture("mask", options.mask),
        strength=options.strength,
        seam=options.seam,
    )
    _save_sheet(images, 1, output)


def _outpaint(options: argparse.Namespace, rest: list[str]):
    output = check_output(options.output, options.overwrite)
    images = _draw(
        "RandAROutpaintPipeline",
        options,
        1,
        class_labels=read_labels([options.label]),
        image=read_picture("image", options.image),
        left=options.left,
        right=options.right,
        top=options.top,
        bottom=options.bottom,
        attention=options.attention,
    )
    _save_sheet(images, 1, output)


def _extrapolate(options: argparse.Namespace, rest: list[str]):
    output = check_output(options.output, options.overwrite)
    labels = read_labels(options.labels)
    images = _draw(
        "RandARExtrapolationPipeline",
        options,
        len(labels) * options.num_images,
        class_labels=labels,
        height=options.height,
        width=options.width,
        num_images_per_prompt=options.num_images,
        hierarchical=not options.flat,
        num_extrapolated=options.num_extrapolated,
    )
    _save_sheet(images, len(labels), output)
