"""`randar-hf outpaint`."""

from typing import Annotated, Any

import typer

from .images import Film, make_images, open_pipeline, read_image
from .options import FilmOptions, ImageFile, Label, PipelineOptions, RandAROptions


Side = Annotated[int, typer.Option(help="pixels to add on this side")]


def outpaint(
    label: Label,
    image: ImageFile,
    sampling: RandAROptions,
    pipeline: PipelineOptions,
    sheet: FilmOptions,
    left: Side = 0,
    right: Side = 0,
    top: Side = 0,
    bottom: Side = 0,
    attention: Annotated[str, typer.Option(help="full or sliding_window")] = "full",
):
    """Extend an image beyond its sides."""
    film, source = Film(sheet), read_image("image", image)
    film.check_kept(source)
    pipe = open_pipeline("RandAROutpaintPipeline", pipeline, sampling)
    settings: dict[str, Any] = {"left": left, "right": right, "top": top, "bottom": bottom, "attention": attention}
    settings |= {**sampling.given(), "image": source, "callback_on_step_end": film.callback}
    images = make_images(pipe, pipeline.seed, [label], **settings)
    film.save(images, [label])
    film.save_film(pipe, images, [label], by_size=True)
