"""Training on one's own images: a tokenizer, a data set of tokens, a RandAR model."""

from importlib import import_module


_HOMES = {
    "TokenizerTrainingConfig": "tokenizer_training_config",
    "train_tokenizer": "tokenizer_training",
    "TokenizingConfig": "tokenizing_config",
    "tokenize_images": "tokenizing",
    "TrainingConfig": "training_config",
    "train": "trainer",
    "export_run": "exporting",
    "load_recipe": "recipe_files",
}

__all__ = list(_HOMES)


def __getattr__(name):
    """Import the module of a public name at its first use, so that importing this package stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return __all__
