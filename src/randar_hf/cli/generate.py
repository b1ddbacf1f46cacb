"""`randar-hf generate`."""

from typing import Annotated

import typer

from .images import Film, make_images, only_label, open_pipeline
from .options import FilmOptions, NumImages, PipelineOptions, RandAROptions, SomeLabels


Orders = Annotated[
    str | None,
    typer.Option(help="orders with commas: the same seeds in each, row by row", show_default=False),
]


def generate(
    sampling: RandAROptions,
    pipeline: PipelineOptions,
    sheet: FilmOptions,
    labels: SomeLabels = None,
    num_images: NumImages = 1,
    compare_orders: Orders = None,
):
    """Generate images of classes."""
    film, settings = Film(sheet), sampling.given()
    if compare_orders is not None and "order" in settings:
        raise ValueError(f"`--order` must not be given with `--compare-orders`, got {settings['order']!r}.")
    orders = [settings.pop("order", None)] if compare_orders is None else compare_orders.split(",")
    pipe = open_pipeline("RandARPipeline", pipeline, sampling)
    labels = labels or only_label(pipe)
    settings |= {"num_images_per_prompt": num_images, "callback_on_step_end": film.callback}
    images, rows = [], []
    for order in orders:
        images += make_images(pipe, pipeline.seed, labels, num_images, order=order, **settings)
        rows += labels if compare_orders is None else [f"{label}, {order}" for label in labels]
    film.save(images, rows)
    film.save_film(pipe, images, rows)
