"""`randar-hf generate`."""

from typing import Annotated

import typer

from .images import Film, check_output, make_images, save_sheet
from .options import Labels, NumImages, Output, Overwrite, PipelineOptions, RandAROptions


def generate(
    labels: Labels,
    sampling: RandAROptions,
    pipeline: PipelineOptions,
    num_images: NumImages = 1,
    output: Output = "images.png",
    animate: Annotated[str | None, typer.Option(help="GIF of the images as they appear, step by step")] = None,
    overwrite: Overwrite = False,
):
    """Generate images of classes."""
    path = check_output(output, overwrite)
    film = Film(animate, overwrite) if animate else None
    images = make_images(
        "RandARPipeline",
        pipeline,
        sampling,
        labels,
        num_images,
        num_images_per_prompt=num_images,
        callback_on_step_end=film and film.keep,
    )
    save_sheet(images, len(labels), path)
    if film:
        film.save(images, len(labels))
