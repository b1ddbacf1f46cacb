"""`randar-hf sweep`."""

from pathlib import Path
from typing import Annotated

import typer

from randar_hf.outputs import check_output_folder

from .evaluate import Crop, Reference
from .measuring import DataOptions, FeatureOptions
from .options import Device, Dtype, Model, OutputDir


Values = "values with commas, or from:to:step"
Scales = Annotated[str | None, typer.Option(help=Values, show_default="the model's")]
Orders = Annotated[str | None, typer.Option(help="names of orders with commas", show_default="the model's")]
Schedules = Annotated[str | None, typer.Option(help="names of schedules with commas", show_default="the model's")]


def sweep(
    output_dir: OutputDir,
    reference: Reference,
    features: FeatureOptions,
    data: DataOptions,
    model: Model = None,
    guidance_scale: Scales = None,
    order: Orders = None,
    steps: Scales = None,
    temperature: Scales = None,
    top_k: Scales = None,
    spatial_guidance_scale: Scales = None,
    guidance_schedule: Schedules = None,
    guidance_power: Scales = None,
    top_p: Scales = None,
    num_images: Annotated[int, typer.Option(help="images of each setting")] = 10_000,
    batch_size: Annotated[int, typer.Option(help="images that a process holds at once")] = 32,
    classes: Annotated[str, typer.Option(help="balanced or random")] = "balanced",
    seed: Annotated[int, typer.Option(help="seed of all images")] = 0,
    crop: Crop = None,
    dtype: Dtype = "float32",
    device: Device = None,
):
    """Sample and evaluate a model at many settings, each once: a table, and a plot with the best marked."""
    from randar_hf.checks import check_path

    check_output_folder("--output-dir", check_path("--output-dir", output_dir))
    from randar_hf.evaluation.references import open_reference
    from randar_hf.evaluation.sampling import start_processes
    from randar_hf.evaluation.sweep import SWEPT, TABLE_FILE, expand_range, list_settings
    from randar_hf.evaluation.sweep import sweep as run

    texts = {
        "guidance_scale": guidance_scale,
        "order": order,
        "num_inference_steps": steps,
        "temperature": temperature,
        "top_k": top_k,
        "spatial_guidance_scale": spatial_guidance_scale,
        "guidance_schedule": guidance_schedule,
        "guidance_power": guidance_power,
        "top_p": top_p,
    }
    grid = {name: expand_range(name, text, SWEPT[name]) for name, text in texts.items() if text is not None}
    list_settings(grid)
    state = start_processes(device)
    network = features.load(device or state.device)
    rows = run(
        model,
        open_reference(reference, network, Path(output_dir) / "features", crop, **data.given()),
        output_dir,
        grid,
        network,
        num_images=num_images,
        batch_size=batch_size,
        seed=seed,
        classes=classes,
        dtype=dtype,
        device=device,
        state=state,
    )
    if rows:
        print(f"wrote {output_dir}/{TABLE_FILE}")
    state.destroy_process_group()
