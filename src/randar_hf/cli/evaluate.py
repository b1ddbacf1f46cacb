"""`randar-hf evaluate`."""

from typing import Annotated, Any

import typer

from randar_hf.outputs import check_output_file

from .measuring import DataOptions, FeatureOptions, JsonOutput, WorkDir, check_json, work_folder, write_numbers
from .options import Device, Dtype, Overwrite, SamplingOptions


Samples = Annotated[
    str,
    typer.Argument(help="folder of images, npz file with arr_0, or a pipeline to sample from", show_default=False),
]
Reference = Annotated[
    str,
    typer.Option(help="npz file of statistics or images, folder of images, or data set", show_default=False),
]
Crop = Annotated[
    int | None, typer.Option(help="side of the centred square of reference images", show_default="as they are")
]
NumImages = Annotated[int | None, typer.Option(help="images to sample from a pipeline", show_default="50000")]
SaveReference = Annotated[
    str | None, typer.Option(help="npz file to write the reference's statistics to", show_default=False)
]


def evaluate(
    samples: Samples,
    reference: Reference,
    features: FeatureOptions,
    data: DataOptions,
    sampling: SamplingOptions,
    output: JsonOutput = "evaluation.json",
    overwrite: Overwrite = False,
    work_dir: WorkDir = None,
    save_reference: SaveReference = None,
    crop: Crop = None,
    half_precision: Annotated[bool, typer.Option("--half-precision", help="distances as the ADM evaluator's")] = False,
    batch_size: Annotated[int, typer.Option(help="images that a process holds at once")] = 32,
    num_images: NumImages = None,
    classes: Annotated[str, typer.Option(help="of a pipeline's samples: balanced or random")] = "balanced",
    seed: Annotated[int, typer.Option(help="of a pipeline's samples")] = 0,
    dtype: Dtype = "float32",
    device: Device = None,
):
    """Measure images: FID, sFID, Inception Score, precision, recall and KID."""
    from randar_hf.evaluation.evaluating import check_counts, evaluate_images
    from randar_hf.evaluation.images import open_images
    from randar_hf.evaluation.references import open_reference
    from randar_hf.evaluation.sampling import is_pipeline, sample_images, start_processes

    target = check_json(output, overwrite)
    folder = work_folder(work_dir, target)
    if save_reference is not None:
        check_output_file("--save-reference", save_reference, (".npz",), overwrite)
    from_model = is_pipeline(samples)
    if not from_model and (sampling.given() or num_images is not None):
        raise ValueError(
            "`--num-images` and the options of sampling must go with a pipeline, got images that are there."
        )
    images = None if from_model else open_images("samples", samples)
    state = start_processes(device)
    network = features.load(device or state.device)
    opened = open_reference(reference, network, folder / "features", crop, **data.given())
    check_counts(num_images or 50_000 if images is None else images.count, opened)
    if images is None:
        requested: dict[str, Any] = {"num_images": num_images or 50_000, "classes": classes}
        requested |= {"seed": seed, "dtype": dtype}
        requested |= {"batch_size": batch_size, "device": device, "write_npz": False}
        images = open_images("samples", sample_images(samples, folder / "samples", **requested, **sampling.given()))
    result = evaluate_images(
        images,
        opened,
        network,
        folder / "features",
        batch_size=batch_size,
        half_precision=half_precision,
        save_reference=save_reference,
        state=state,
    )
    if result is not None:
        for name, value in result["metrics"].items():
            print(f"{name}: {value:.6g}")
        print(result["sentence"])
        write_numbers(target, result)
    state.destroy_process_group()
