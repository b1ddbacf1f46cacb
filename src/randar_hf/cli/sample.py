"""`randar-hf sample`."""

from typing import Annotated

import typer

from .options import Device, Dtype, Model, OutputDir, SamplingOptions


def sample(
    sampling: SamplingOptions,
    output_dir: OutputDir,
    model: Model = None,
    num_images: Annotated[int, typer.Option(help="images in all")] = 50_000,
    classes: Annotated[str, typer.Option(help="balanced or random")] = "balanced",
    batch_size: Annotated[int, typer.Option(help="images that a process samples at once")] = 32,
    seed: Annotated[int, typer.Option(help="seed of all images")] = 0,
    dtype: Dtype = "float32",
    device: Device = None,
    no_npz: Annotated[bool, typer.Option("--no-npz", help="do not write samples.npz")] = False,
):
    """Sample the images that a model is evaluated on."""
    from accelerate import PartialState

    from randar_hf.evaluation.sampling import sample_images

    folder = sample_images(
        model,
        output_dir,
        num_images=num_images,
        classes=classes,
        batch_size=batch_size,
        seed=seed,
        dtype=dtype,
        device=device,
        write_npz=not no_npz,
        **sampling.given(),
    )
    state = PartialState()
    if state.is_main_process:
        print(f"wrote {folder}")
    state.destroy_process_group()
