"""`randar-hf train`."""

from randar_hf.training import TrainingConfig

from .recipes import Recipe


def train(settings: TrainingConfig, recipe: Recipe = None):
    """Train RandAR or RAR on a data set of tokens."""
    from randar_hf.training import train as run

    run(settings)
