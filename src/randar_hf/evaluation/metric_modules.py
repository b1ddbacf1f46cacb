"""The metrics as modules of the `evaluate` library, which loads each from a folder of its own."""

from pathlib import Path
from typing import Any


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


def metric_info(description: str, inputs: str, citation: str, arxiv: str, *columns: str) -> Any:
    """The `evaluate.MetricInfo` of a module whose columns hold rows of numbers, one an image."""
    import datasets
    import evaluate

    rows = datasets.Sequence(datasets.Value("float64"))
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=inputs,
        features=datasets.Features(dict.fromkeys(columns, rows)),
        reference_urls=[f"https://arxiv.org/abs/{arxiv}"],
    )
