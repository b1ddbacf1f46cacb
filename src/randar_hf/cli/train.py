"""`randar-hf train`."""

import typer


def train(context: typer.Context):
    """Train RandAR or RAR on a data set of tokens."""
    from randar_hf.training import train as run
    from randar_hf.training.recipe_files import parse_settings

    run(parse_settings("train", context.args))
