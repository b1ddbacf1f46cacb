"""`randar-hf extrapolate`."""

from typing import Annotated

import typer

from .images import Sheet, make_images, open_pipeline
from .options import Labels, NumImages, PipelineOptions, RandAROptions, SheetOptions


Side = Annotated[int | None, typer.Option(help="pixels", show_default="twice the trained size")]
Frequencies = Annotated[
    int | None,
    typer.Option(help="rotary frequencies that are not interpolated", show_default="by the trained grid"),
]


def extrapolate(
    labels: Labels,
    sampling: RandAROptions,
    pipeline: PipelineOptions,
    sheet: SheetOptions,
    height: Side = None,
    width: Side = None,
    num_images: NumImages = 1,
    num_extrapolated: Frequencies = None,
    flat: Annotated[bool, typer.Option("--flat", help="all tokens in one go, without coarse tokens first")] = False,
):
    """Generate images larger than the trained size."""
    file = Sheet(sheet)
    pipe = open_pipeline("RandARExtrapolationPipeline", pipeline, sampling)
    settings = {"height": height, "width": width, "hierarchical": not flat, "num_extrapolated": num_extrapolated}
    settings |= {**sampling.given(), "num_images_per_prompt": num_images}
    file.save(make_images(pipe, pipeline.seed, labels, num_images, **settings), labels)
