"""`randar-hf tokenize`."""

from randar_hf.training import TokenizingConfig

from .recipes import Recipe


def tokenize(settings: TokenizingConfig, recipe: Recipe = None):
    """Turn a data set of images into a data set of tokens."""
    from randar_hf.training import tokenize_images as run

    run(settings)
