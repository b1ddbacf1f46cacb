"""`randar-hf train-tokenizer`."""

from randar_hf.training import TokenizerTrainingConfig

from .recipes import Recipe


def train_tokenizer(settings: TokenizerTrainingConfig, recipe: Recipe = None):
    """Train an image tokenizer."""
    from randar_hf.training import train_tokenizer as run

    run(settings)
