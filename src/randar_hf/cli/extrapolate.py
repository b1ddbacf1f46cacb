"""`randar-hf extrapolate`."""

from typing import Annotated

import typer

from .images import check_output, make_images, save_sheet
from .options import Labels, NumImages, Output, Overwrite, PipelineOptions, RandAROptions


Side = Annotated[int | None, typer.Option(help="pixels", show_default="twice the trained size")]
Frequencies = Annotated[
    int | None,
    typer.Option(help="rotary frequencies that are not interpolated", show_default="by the trained grid"),
]


def extrapolate(
    labels: Labels,
    sampling: RandAROptions,
    pipeline: PipelineOptions,
    height: Side = None,
    width: Side = None,
    num_images: NumImages = 1,
    num_extrapolated: Frequencies = None,
    flat: Annotated[bool, typer.Option("--flat", help="all tokens in one go, without coarse tokens first")] = False,
    output: Output = "images.png",
    overwrite: Overwrite = False,
):
    """Generate images larger than the trained size."""
    path = check_output(output, overwrite)
    images = make_images(
        "RandARExtrapolationPipeline",
        pipeline,
        sampling,
        labels,
        num_images,
        num_images_per_prompt=num_images,
        height=height,
        width=width,
        hierarchical=not flat,
        num_extrapolated=num_extrapolated,
    )
    save_sheet(images, len(labels), path)
