"""The metrics as modules of the `evaluate` library, which loads each from a folder of its own."""

from pathlib import Path


FOLDER = Path(__file__).parent / "modules"


def metric_module(name: str) -> Path:
    """
    The folder of a metric for `evaluate.load(str(folder))`, which is also that of a metric Space for the Hub.

    Args:
        name (`str`): `"frechet_distance"`, `"inception_score"`, `"kernel_distance"` or `"precision_recall"`.

    Raises:
        ValueError: for another name.
    """
    names = sorted(path.name for path in FOLDER.iterdir() if (path / f"{path.name}.py").is_file())
    if name not in names:
        raise ValueError(f"`name` must be one of {', '.join(names)}, got {name!r}.")
    return FOLDER / name
