"""`randar-hf inpaint`."""

from typing import Annotated, Any

import typer

from .images import Film, make_images, open_pipeline, read_image
from .options import FilmOptions, ImageFile, Label, PipelineOptions, RandAROptions


def inpaint(
    label: Label,
    image: ImageFile,
    mask: Annotated[str, typer.Argument(help="image of the same size, white where it is to be painted")],
    sampling: RandAROptions,
    pipeline: PipelineOptions,
    sheet: FilmOptions,
    strength: Annotated[float, typer.Option(help="fraction of the masked tokens that is painted, above 0")] = 1.0,
    seam: Annotated[int, typer.Option(help="pixels of the mask over which old turns into new")] = 0,
):
    """Paint a part of an image anew, as its class or as another."""
    film = Film(sheet)
    sources: dict[str, Any] = {"image": read_image("image", image), "mask_image": read_image("mask", mask)}
    film.check_kept(sources["image"], painted=sources["mask_image"])
    pipe = open_pipeline("RandARInpaintPipeline", pipeline, sampling)
    settings = {**sampling.given(), "strength": strength, "seam": seam, "callback_on_step_end": film.callback}
    images = make_images(pipe, pipeline.seed, [label], **sources, **settings)
    film.save(images, [label])
    film.save_film(pipe, images, [label])
