"""`randar-hf classify`."""

from typing import Annotated

import typer

from randar_hf.outputs import check_output_file

from .measuring import Data, DataOptions, JsonOutput, WorkDir, check_json, load_model, work_folder, write_numbers
from .options import Overwrite, PipelineOptions


Confusion = Annotated[str | None, typer.Option(help="image of the confusion of classes to write", show_default=False)]
NumImages = Annotated[int | None, typer.Option(help="images, evenly spread over the data set", show_default="all")]


def classify(
    images: Data,
    options: PipelineOptions,
    data: DataOptions,
    num_orders: Annotated[int, typer.Option(help="orders whose log-likelihoods are averaged")] = 20,
    num_images: NumImages = None,
    batch_size: Annotated[int, typer.Option(help="pairs of an image and a class at once")] = 64,
    confusion: Confusion = None,
    output: JsonOutput = "classification.json",
    overwrite: Overwrite = False,
    work_dir: WorkDir = None,
):
    """Classify images by how likely a model finds them as each class; accuracy by the number of orders."""
    target = check_json(output, overwrite)
    work = work_folder(work_dir, target)
    sheet = None if confusion is None else check_output_file("--confusion", confusion, (".png",), overwrite)
    from randar_hf.evaluation.images import open_images
    from randar_hf.evaluation.model_features import image_size
    from randar_hf.evaluation.zero_shot import classify_images, draw_confusion

    pipe = load_model(options)
    opened = open_images("data", images, image_size(pipe), **data.given())
    numbers = classify_images(pipe, opened, work, num_orders, num_images, batch_size, options.seed)
    for count, accuracy in numbers["accuracy_by_orders"].items():
        print(f"{count} orders: accuracy {accuracy:.4f}")
    if sheet is not None:
        names = [pipe.id2label.get(index, str(index)) for index in range(pipe.transformer.config.num_classes)]
        draw_confusion(numbers["confusion"], names, sheet)
        print(f"wrote {sheet}")
    write_numbers(target, numbers | {"data": opened.name, "data_sha256": opened.sha256, "seed": options.seed})
