"""`randar-hf inpaint`."""

from typing import Annotated

import typer

from .images import check_output, make_images, read_image, save_sheet
from .options import ImageFile, Label, Output, Overwrite, PipelineOptions, RandAROptions


def inpaint(
    label: Label,
    image: ImageFile,
    mask: Annotated[str, typer.Argument(help="image of the same size, white where it is to be painted")],
    sampling: RandAROptions,
    pipeline: PipelineOptions,
    strength: Annotated[float, typer.Option(help="fraction of the masked tokens that is painted, above 0")] = 1.0,
    seam: Annotated[int, typer.Option(help="pixels of the mask over which old turns into new")] = 0,
    output: Output = "images.png",
    overwrite: Overwrite = False,
):
    """Paint a part of an image anew, as its class or as another."""
    path = check_output(output, overwrite)
    settings = {"strength": strength, "seam": seam}
    sources = {"image": read_image("image", image), "mask_image": read_image("mask", mask)}
    images = make_images("RandARInpaintPipeline", pipeline, sampling, [label], **sources, **settings)
    save_sheet(images, 1, path)
