"""`randar-hf space`."""

from typing import Annotated

import typer

from .options import Model


def space(
    model: Model = None,
    export: Annotated[str | None, typer.Option(help="new folder to write as a Space of the Hub, instead")] = None,
    push: Annotated[str | None, typer.Option(help="with --export: Space to upload the folder to")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="port to listen on", show_default="the first free from 7860")
    ] = None,
):
    """Open an app in the browser, or write it as a Space of the Hub."""
    if push is not None and export is None:
        raise ValueError(f"`--push` must go with `--export`, got {push!r} alone.")
    if export is not None and port is not None:
        raise ValueError(f"`--port` must not go with `--export`, got {port}.")
    from randar_hf import demo_checkpoint
    from randar_hf.pipelines.loading import load_pipeline
    from randar_hf.space import build_app, export_space, find_device, launch_app, push_space
    from randar_hf.space.export import check_export

    if export is not None:
        check_export(export)
    pipe = load_pipeline("--model", demo_checkpoint() if model is None else model, "RandARPipeline")
    if export is not None:
        print(f"wrote {export_space(pipe, export, model)}")
        if push is not None:
            print(f"pushed {push_space(export, push)}")
    else:
        launch_app(build_app(pipe.to(find_device()), model), port)
