"""`randar-hf convert`."""

from typing import Annotated

import typer

from .options import Overwrite


Checkpoint = Annotated[str, typer.Argument(help="published file of a model, or a pipeline's folder")]
Tokenizer = Annotated[str | None, typer.Option(help="published file of the image tokenizer; needed for a file")]
Heads = Annotated[
    int | None, typer.Option(help="attention heads of a file", show_default="as wide as in published models")
]
GridSize = Annotated[
    int | None, typer.Option(help="tokens per side of a file", show_default="the published file's, or 16")
]
ClassNames = Annotated[
    str | None, typer.Option(help="text file with a name a line, or JSON", show_default="ImageNet's for 1,000")
]


def convert(
    checkpoint: Checkpoint,
    output: Annotated[str, typer.Argument(help="folder to write")],
    tokenizer: Tokenizer = None,
    num_attention_heads: Heads = None,
    grid_size: GridSize = None,
    class_names: ClassNames = None,
    merge_positions: Annotated[
        bool, typer.Option("--merge-positions", help="merge RAR's two tables of positions into one")
    ] = False,
    with_code: Annotated[bool, typer.Option("--with-code", help="add the code, to load without randar_hf")] = False,
    overwrite: Overwrite = False,
):
    """Turn published files, or a pipeline, into the folder of a pipeline."""
    from randar_hf.conversion import convert_checkpoint

    settings = {"num_attention_heads": num_attention_heads, "grid_size": grid_size, "class_names": class_names}
    flags = {"merge_positions": merge_positions, "with_code": with_code, "overwrite": overwrite}
    print(f"wrote {convert_checkpoint(checkpoint, tokenizer, output, **settings, **flags)}")
