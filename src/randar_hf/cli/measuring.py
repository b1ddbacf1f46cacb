"""What the commands that measure share: whose features, which data, and the file of the numbers."""

import json
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from randar_hf.outputs import check_output_file, check_output_folder

from .images import open_pipeline
from .options import PipelineOptions, setting


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FEATURES, DATA = "Features", "Data"
Data = Annotated[
    str, typer.Argument(help="folder with a sub-folder for each class, or a data set", show_default=False)
]
JsonOutput = Annotated[str, typer.Option(help="JSON file to write")]
WorkDir = Annotated[
    str | None,
    typer.Option(help="folder for what a stopped run finds again", show_default="the output without .json"),
]
Layers = Annotated[str, typer.Option(help="layers with commas; tokenizer for its latents")]
Rounds = Annotated[str, typer.Option(help="how often the sequence is read, with commas")]


@dataclass(kw_only=True)
class FeatureOptions:
    """Whose features are compared."""

    features: str | None = setting(
        "folder or Hub name of a vision model of transformers", FEATURES, shown="FID's Inception"
    )
    weights: str | None = setting(
        "Inception's weights: a file or the Hub name of a repository", FEATURES, shown="what lies in the cache"
    )

    def load(self, device: Any):
        """The network, on a device."""
        from randar_hf.evaluation.extractors import load_extractor

        network = load_extractor(self.features, self.weights).to(device)
        print(f"features of {network.name}, SHA-256 of the weights {network.sha256}")
        return network


@dataclass(kw_only=True)
class DataOptions:
    """Where images and labels lie in a data set."""

    split: str = setting("split of the data set", DATA, default="train")
    image_column: str = setting("column of the images", DATA, default="image")
    label_column: str = setting("column of the classes", DATA, default="label")

    def given(self) -> dict[str, str]:
        """The settings by the name of the argument."""
        return asdict(self)


def work_folder(work_dir: str | None, output: Path) -> Path:
    """The folder for intermediate results: the one that was given, or the output's name without its suffix."""
    from randar_hf.checks import check_path

    folder = output.with_suffix("") if work_dir is None else check_path("--work-dir", work_dir)
    check_output_folder("--work-dir", folder)
    return folder


def check_json(output: str, overwrite: bool) -> Path:
    """The path of the numbers to write; raises before any work if it exists."""
    return check_output_file("--output", output, (".json",), overwrite)


def write_numbers(output: Path, numbers: dict[str, Any]):
    """Write the numbers as JSON, whole or not at all."""
    from randar_hf.files import write_text

    write_text(output, json.dumps(numbers, indent=2) + "\n")
    print(f"wrote {output}")


def load_model(options: PipelineOptions, kind: str = "RandARPipeline") -> "DiffusionPipeline":
    """The pipeline whose model is measured."""
    pipe = open_pipeline(kind, options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def read_layers(layers: str, rounds: str) -> list[tuple[int | str, int]]:
    """Each of the layers with each of the rounds, from texts with commas."""
    numbers = _read_numbers("--layers", layers, "tokenizer"), _read_numbers("--rounds", rounds)
    return list(product(*numbers))


def _read_numbers(option: str, text: str, word: str | None = None) -> list[Any]:
    """Whole numbers, and a word that stands for one, with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    try:
        return [part if part == word else int(part) for part in parts]
    except ValueError as error:
        allowed = "whole numbers" if word is None else f"whole numbers or {word}"
        raise ValueError(f"`{option}` must be {allowed} with commas, got {text!r}.") from error
