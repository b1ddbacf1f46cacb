"""`randar-hf bench`."""

from typing import Annotated, Any

import typer

from .options import Dtype


TRAINING = "With --train"


def bench(
    model_type: Annotated[str, typer.Option(help="randar or rar")] = "randar",
    size: Annotated[str, typer.Option(help="B, L, XL, XXL or demo")] = "demo",
    batch_size: Annotated[int, typer.Option(help="images at once")] = 1,
    steps: Annotated[int | None, typer.Option(help="decoding steps", show_default="RandAR 88, RAR all")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="1 turns guidance off", show_default="RandAR 4, RAR by size")
    ] = None,
    dtype: Dtype = "float32",
    device: Annotated[str, typer.Option(help="a torch device")] = "cpu",
    grid_size: Annotated[
        tuple[int, int] | None, typer.Option(help="rows and columns of tokens", show_default="the trained ones")
    ] = None,
    known_tokens: Annotated[int, typer.Option(help="tokens of each image that are given")] = 0,
    speculative_window: Annotated[int | None, typer.Option(help="lossless decoding, instead of --steps")] = None,
    pack_weights: Annotated[
        bool, typer.Option("--pack-weights", help="lay the weights out for the products of a CPU first")
    ] = False,
    passes: Annotated[
        bool, typer.Option("--passes", help="count the passes of lossless decoding with the shipped model")
    ] = False,
    table: Annotated[
        str | None, typer.Option(help="JSON file for L, XL and XXL, batches of 1, 16 and 64, eager and captured")
    ] = None,
    runs: Annotated[int, typer.Option(help="timed runs, or training steps, after the warm-up")] = 3,
    train: Annotated[
        bool, typer.Option("--train", help="measure training instead of generation", rich_help_panel=TRAINING)
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="compile the model", rich_help_panel=TRAINING)] = False,
    no_activation_checkpointing: Annotated[
        bool,
        typer.Option("--no-activation-checkpointing", help="keep all activations", rich_help_panel=TRAINING),
    ] = False,
    gradient_accumulation_steps: Annotated[
        int | None,
        typer.Option(help="parts that share the images", show_default="1", rich_help_panel=TRAINING),
    ] = None,
    published: Annotated[
        str | None, typer.Option(help="folder of the published repository, timed in turn", rich_help_panel=TRAINING)
    ] = None,
):
    """Measure speed and memory with random weights."""
    shared: dict[str, Any] = {
        "model_type": model_type,
        "size": size,
        "batch_size": batch_size,
        "dtype": dtype,
        "device": device,
    }
    generation: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "grid_size": grid_size}
    generation |= {"known_tokens": known_tokens, "speculative_window": speculative_window}
    generation |= {"pack_weights": pack_weights, "passes": passes, "table": table}
    training: dict[str, Any] = {"compile": compile, "no_activation_checkpointing": no_activation_checkpointing}
    training |= {"gradient_accumulation_steps": gradient_accumulation_steps, "published": published}
    _check_kind(train, generation, training)
    if train:
        from randar_hf.training.benchmark import format_training, measure_training

        training["activation_checkpointing"] = not training.pop("no_activation_checkpointing")
        given = {name: value for name, value in training.items() if value is not None}
        print(format_training(measure_training(**shared, runs=runs, **given)))
        return
    from randar_hf.bench import count_passes, measure

    if file := generation.pop("table"):
        _write_table(file, dtype, device)
        return
    if generation.pop("passes"):
        scale: dict[str, Any] = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
        print(_format_table(count_passes(model_type, dtype=dtype, device=device, **scale)))
        return
    generation["num_inference_steps"] = generation.pop("steps")
    for name, value in measure(**shared, runs=runs, **generation).items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def _write_table(file: str, dtype: str, device: str):
    """Measure what `make gpu` asks for, in about six minutes."""
    from randar_hf.bench_table import measure_table
    from randar_hf.devices import check_device

    from .measuring import check_json, write_numbers

    output = check_json(file, overwrite=True)
    check_device(device)
    write_numbers(output, measure_table(device, dtype))


def _check_kind(train: bool, generation: dict[str, Any], training: dict[str, Any]):
    """Raise a `ValueError` for an option of the other kind of measurement."""
    for name, value in (generation if train else training).items():
        if value:
            option, rule = f"--{name.replace('_', '-')}", "not go with" if train else "go with"
            raise ValueError(f"`{option}` must {rule} `--train`, got {value!r}.")


def _format_table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as a table of Markdown."""
    cells = [list(rows[0]), ["---"] * len(rows[0])]
    for row in rows:
        cells.append([f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()])
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
