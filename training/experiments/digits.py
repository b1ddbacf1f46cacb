"""The recipe of the checkpoint that ships with the package: handwritten digits on two cores, in under an hour.

```sh
python -m randar_hf.training.experiments.digits --output-dir runs/digits
```

Data: scikit-learn's 1,797 scans, a fixed fifth held out (`digits_data`). Model: 8 x 8 tokens of 64 kinds, a tokenizer
of 0.24M parameters and a RandAR of 1.6M. It writes, under the output folder, `images/`, `tokenizer/`, `tokens/`,
`model/`, the finished pipeline in `pipeline/`, and the numbers it reaches in `evaluation.json`.
"""

import json
import shlex
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

from diffusers import DiffusionPipeline
from transformers import HfArgumentParser

from randar_hf.pipelines import RandARPipeline

from ..outputs import write_json
from ..recipe_files import load_recipe
from ..tokenizer_training import TokenizerTrainingConfig, train_tokenizer
from ..tokenizing import TokenizingConfig, tokenize_images
from ..trainer import train
from ..training_config import TrainingConfig
from .digits_data import write_digits
from .digits_evaluation import DigitsEvaluationConfig, evaluate_digits


GUIDANCE_SCALE = 2.0
IMAGES_PER_CLASS = 50


@dataclass(kw_only=True)
class DigitsConfig:
    """What is not in the recipe `digits`."""

    output_dir: str = field(metadata={"help": "new folder for everything"})
    seed: int = field(default=0, metadata={"help": "seed of both trainings"})


def tokenizer_config(folder: Path, seed: int) -> TokenizerTrainingConfig:
    """Tokenizer: 32 x 32 pixels to 8 x 8 tokens of 64 kinds."""
    places = {"dataset": str(folder / "images"), "output_dir": str(folder / "tokenizer")}
    return TokenizerTrainingConfig(**load_recipe("digits", "train-tokenizer"), **places, seed=seed)


def tokenizing_configs(folder: Path) -> list[TokenizingConfig]:
    """Both splits to tokens."""
    names = {"dataset": "images", "tokenizer": "tokenizer", "output_dir": "tokens"}
    settings = load_recipe("digits", "tokenize") | {field: str(folder / name) for field, name in names.items()}
    return [TokenizingConfig(**settings, split=split) for split in ("train", "validation")]


def training_config(folder: Path, seed: int) -> TrainingConfig:
    """RandAR: five layers of width 160, 100 passes over the training digits."""
    names = {"dataset": "tokens", "output_dir": "model", "tokenizer": "tokenizer"}
    places = {field: str(folder / name) for field, name in names.items()}
    return TrainingConfig(**load_recipe("digits", "train"), **places, seed=seed)


def as_command(name: str, config) -> str:
    """The `randar-hf` command that does what a call with `config` does."""
    words = ["randar-hf", name]
    for option in fields(config):
        value = getattr(config, option.name)
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if value != default:
            values = value if isinstance(value, list) else [value]
            words += ["--" + option.name.replace("_", "-"), *map(str, values)]
    return shlex.join(words)


def assemble_pipeline(folder: Path) -> Path:
    """Copy the trained pipeline to `folder / "pipeline"`, with the guidance that suits it stored."""
    pipeline = RandARPipeline.from_pretrained(folder / "model" / "pipeline")
    pipeline.transformer.generation_config.guidance_scale = GUIDANCE_SCALE
    return save_without_origin(pipeline, folder / "pipeline")


def save_without_origin(pipeline: DiffusionPipeline, folder: Path) -> Path:
    """Save a pipeline without the places that its parts were loaded from, which mean nothing to others."""
    pipeline.save_pretrained(folder)
    for file in ("model_index.json", "vqvae/config.json"):
        content = json.loads((folder / file).read_text())
        content.pop("_name_or_path", None)
        write_json(folder / file, content)
    return folder


def run_recipe(config: DigitsConfig) -> dict:
    """Prepare the data, train both models, put them together and measure them.

    Returns:
        The numbers of `evaluate_digits`.

    Raises:
        ValueError: the output folder holds another run.
    """
    folder = Path(config.output_dir).expanduser()
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"`output_dir` must be a new or empty folder, got {str(folder)!r}")
    write_digits(folder / "images")
    steps = [("train-tokenizer", train_tokenizer, tokenizer_config(folder, config.seed))]
    steps += [("tokenize", tokenize_images, step) for step in tokenizing_configs(folder)]
    steps += [("train", train, training_config(folder, config.seed))]
    for name, function, step in steps:
        print(as_command(name, step), flush=True)
        function(step)
    pipeline = assemble_pipeline(folder)
    output = str(folder / "evaluation.json")
    return evaluate_digits(
        DigitsEvaluationConfig(model=str(pipeline), output=output, images_per_class=IMAGES_PER_CLASS)
    )


def main() -> None:
    """Run the recipe from the command line."""
    (config,) = HfArgumentParser(DigitsConfig).parse_args_into_dataclasses()
    print(json.dumps(run_recipe(config), indent=2))


if __name__ == "__main__":
    main()
