"""`randar-hf export`."""

from typing import Annotated

import typer

from .options import Overwrite


def export(
    run: Annotated[str, typer.Argument(help="folder of a training run, which may be going on", show_default=False)],
    output: Annotated[
        str | None, typer.Option(help="folder to write", show_default="pipeline or tokenizer in that of the run")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="best, last or a step", show_default="the best, if there are validations")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="folder or Hub name of the tokenizer", show_default="the run's")
    ] = None,
    overwrite: Overwrite = False,
):
    """Turn a checkpoint of a training into a pipeline or a tokenizer."""
    from randar_hf.training import export_run

    print(f"wrote {export_run(run, output, checkpoint, tokenizer, overwrite)}")
