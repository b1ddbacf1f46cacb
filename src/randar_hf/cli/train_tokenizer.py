"""`randar-hf train-tokenizer`."""

import typer


def train_tokenizer(context: typer.Context):
    """Train an image tokenizer."""
    from randar_hf.training import train_tokenizer as run
    from randar_hf.training.recipe_files import parse_settings

    run(parse_settings("train-tokenizer", context.args))
