"""`randar-hf evaluate-inpainting`."""

from typing import Annotated, Any

import typer

from .measuring import (
    Data,
    DataOptions,
    FeatureOptions,
    JsonOutput,
    WorkDir,
    check_json,
    load_model,
    work_folder,
    write_numbers,
)
from .options import Overwrite, PipelineOptions, SamplingOptions


def evaluate_inpainting(
    images: Data,
    options: PipelineOptions,
    features: FeatureOptions,
    data: DataOptions,
    sampling: SamplingOptions,
    masks: Annotated[str, typer.Option(help="of left, centre and strokes, with commas")] = "left,centre,strokes",
    batch_size: Annotated[int, typer.Option(help="images that are painted at once")] = 16,
    output: JsonOutput = "inpainting.json",
    overwrite: Overwrite = False,
    work_dir: WorkDir = None,
):
    """Paint parts of images anew: PSNR of what is known, distance of features of what is painted."""
    target = check_json(output, overwrite)
    work = work_folder(work_dir, target)
    from randar_hf.evaluation.images import open_images
    from randar_hf.evaluation.inpainting import check_masks, measure_inpainting
    from randar_hf.evaluation.model_features import image_size
    from randar_hf.evaluation.zero_shot import class_ids

    names = check_masks(tuple(name.strip() for name in masks.split(",")))
    pipe = load_model(options, "RandARInpaintPipeline")
    opened = open_images("data", images, image_size(pipe), **data.given())
    labels = class_ids(opened, pipe.id2label, pipe.transformer.config.num_classes)
    network = features.load(options.device)
    settings: dict[str, Any] = {"masks": names, "batch_size": batch_size, "seed": options.seed} | sampling.given()
    results = measure_inpainting(pipe, opened, labels, network, work, **settings)
    for name, numbers in results.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.5g}" for key, value in numbers.items()))
    about = {"network": network.name, "network_sha256": network.sha256, "is_published": network.is_published}
    about |= {"data": opened.name, "data_sha256": opened.sha256, "images": opened.count}
    write_numbers(target, {"results": results} | about | {"settings": settings})
