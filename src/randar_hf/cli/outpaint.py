"""`randar-hf outpaint`."""

from typing import Annotated

import typer

from .images import check_output, make_images, read_image, save_sheet
from .options import ImageFile, Label, Output, Overwrite, PipelineOptions, RandAROptions


Side = Annotated[int, typer.Option(help="pixels to add on this side")]


def outpaint(
    label: Label,
    image: ImageFile,
    sampling: RandAROptions,
    pipeline: PipelineOptions,
    left: Side = 0,
    right: Side = 0,
    top: Side = 0,
    bottom: Side = 0,
    attention: Annotated[str, typer.Option(help="full or sliding_window")] = "full",
    output: Output = "images.png",
    overwrite: Overwrite = False,
):
    """Extend an image beyond its sides."""
    path = check_output(output, overwrite)
    settings = {"left": left, "right": right, "top": top, "bottom": bottom, "attention": attention}
    source = read_image("image", image)
    images = make_images("RandAROutpaintPipeline", pipeline, sampling, [label], image=source, **settings)
    save_sheet(images, 1, path)
