"""`randar-hf tokenize`."""

import typer


def tokenize(context: typer.Context):
    """Turn a data set of images into a data set of tokens."""
    from randar_hf.training import tokenize_images as run
    from randar_hf.training.recipe_files import parse_settings

    run(parse_settings("tokenize", context.args))
