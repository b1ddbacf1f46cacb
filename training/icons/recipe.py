"""All that is behind the shipped icons, on two cores: data, tokenizer, tokens, RandAR, RAR, classifier and numbers.

```sh
npm pack @iconify/json@2.2.535 && tar xzf iconify-json-2.2.535.tgz
python -m randar_hf.training.icons.recipe --source package --output-dir runs/icons
```

The same command goes on with what was interrupted and keeps what is finished. It needs the extra `icons`. Under the
output folder it writes `images/`, `tokenizer/`, `tokens/`, `icons-run/` and `icons-rar-run/`, the finished pipelines
`icons/` and `icons-rar/`, `classifier/`, and the numbers of both models in `icons-numbers/` and `icons-rar-numbers/`.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import HfArgumentParser

from randar_hf.pipelines import RARPipeline
from randar_hf.pipelines.loading import load_pipeline

from ..checkpoints import list_checkpoints
from ..data.reading import work_folder
from ..outputs import write_json
from ..recipe_files import load_recipe
from ..run_settings import RUN_FILE
from ..tokenizer_training import TokenizerTrainingConfig, train_tokenizer
from ..tokenizing import TokenizingConfig, tokenize_images
from ..trainer import train
from ..training_config import TrainingConfig
from ..validation import check_fields, check_not_negative
from .classifier import ClassifierConfig, train_classifier
from .data import IconDataConfig, write_icons
from .evaluation import IconEvaluationConfig, evaluate_icons
from .measures import check_num_images


# The settings that are stored with the models: of those that were tried, those with the best numbers.
GENERATION = {
    "icons": {"guidance_scale": 4.0, "num_inference_steps": 22},
    "icons-rar": {"guidance_scale": 3.0, "speculative_window": 16},
}


@dataclass(kw_only=True)
class IconRecipeConfig:
    """Settings of `run_recipe`; those of the trainings are in recipes."""

    source: str = field(metadata={"help": "folder of an unpacked @iconify/json"})
    output_dir: str = field(metadata={"help": "folder for everything; what it holds is kept or goes on"})
    recipe: str = field(default="icons", metadata={"help": "recipe of tokenizer, tokens and RandAR"})
    rar_recipe: str = field(default="icons-rar", metadata={"help": "recipe of RAR"})
    num_images: int = field(default=800, metadata={"help": "icons that each model generates to be measured"})
    seed: int = field(default=0, metadata={"help": "seed of data, trainings and generated icons"})

    def __post_init__(self):
        check_fields(self)
        check_not_negative(self, "seed")
        check_num_images(self)


def run_recipe(config: IconRecipeConfig) -> dict:
    """Do all of it, or what is not done yet.

    Returns:
        The numbers of `evaluate_icons` of `"icons"` and `"icons-rar"`.

    Raises:
        FileNotFoundError: `source` is no unpacked @iconify/json.
        ValueError: a folder holds another run than the one that is to go on.
    """
    for name in (config.recipe, config.rar_recipe):
        load_recipe(name, "train")  # a wrong one is no news for the end
    folder = Path(config.output_dir).expanduser()
    images, classifier = str(folder / "images"), str(folder / "classifier")
    if not Path(images).is_dir():
        write_icons(IconDataConfig(source=config.source, output_dir=images, seed=config.seed))
    tokenize(folder, config)
    numbers = {}
    if not (folder / "classifier" / "accuracy.json").is_file():
        train_classifier(ClassifierConfig(dataset=images, output_dir=classifier, seed=config.seed))
    for name, recipe in {"icons": config.recipe, "icons-rar": config.rar_recipe}.items():
        pipeline = train_model(folder, name, recipe, config.seed)
        output = folder / f"{name}-numbers"
        if not (output / "numbers.json").is_file():
            evaluate_icons(
                IconEvaluationConfig(
                    model=str(pipeline),
                    dataset=images,
                    classifier=classifier,
                    output_dir=str(output),
                    num_images=config.num_images,
                    seed=config.seed,
                )  # fmt: skip
            )
        numbers[name] = json.loads((output / "numbers.json").read_text())
    return numbers


def tokenize(folder: Path, config: IconRecipeConfig) -> None:
    """Train the tokenizer, and turn both splits into tokens."""
    settings = {"dataset": str(folder / "images")}
    tokenizer = TokenizerTrainingConfig(
        **load_recipe(config.recipe, "train-tokenizer"), **settings, output_dir=str(folder / "tokenizer"),
        seed=config.seed,
    )  # fmt: skip
    run_or_go_on(train_tokenizer, "train-tokenizer", tokenizer, folder / "tokenizer" / "metrics.json")
    settings |= {"tokenizer": str(folder / "tokenizer"), "output_dir": str(folder / "tokens")}
    for split in ("train", "validation"):
        state = work_folder(folder / "tokens", split) / "state.json"
        if not state.is_file() or not json.loads(state.read_text())["finished"]:
            tokenizing = TokenizingConfig(**load_recipe(config.recipe, "tokenize"), **settings, split=split)
            print(as_command("tokenize", tokenizing), flush=True)
            tokenize_images(tokenizing)


def train_model(folder: Path, name: str, recipe: str, seed: int) -> Path:
    """Train one model, and write its pipeline as it ships; returns the pipeline's folder."""
    run, shipped = folder / f"{name}-run", folder / name
    config = TrainingConfig(
        **load_recipe(recipe, "train"), dataset=str(folder / "tokens"), tokenizer=str(folder / "tokenizer"),
        output_dir=str(run), seed=seed,
    )  # fmt: skip
    run_or_go_on(train, "train", config, run / "pipeline" / "model_index.json")
    if not (shipped / "model_index.json").is_file():
        ship(run / "pipeline", shipped, GENERATION[name])
    return shipped


def run_or_go_on(function: Callable, command: str, config, last: Path) -> None:
    """Call a trainer with its settings, unless the file is there that it writes last.

    A run that was interrupted goes on from its latest checkpoint, or starts over where there is none.
    """
    if last.is_file():
        return
    run = Path(config.output_dir)
    if list_checkpoints(run):
        config.resume = "latest"
    else:
        config.overwrite = (run / RUN_FILE).is_file()
    print(as_command(command, config), flush=True)
    function(config)


def as_command(name: str, config) -> str:
    """The `randar-hf` command that does what a call with `config` does."""
    words = ["randar-hf", name]
    for option in fields(config):
        value, spelled = getattr(config, option.name), option.name.replace("_", "-")
        if value == option.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{spelled}" if value else f"--no-{spelled}")
        else:
            words += [f"--{spelled}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def ship(trained: Path, folder: Path, generation: dict) -> None:
    """Write a trained pipeline as it ships.

    Its settings of generation are stored, RAR's positions are merged, and its weights take 16 bits in the file; they
    are 32 bits when they are loaded. Where its parts were loaded from is told nowhere.
    """
    pipeline = load_pipeline("trained", trained)
    if isinstance(pipeline, RARPipeline):
        parts = {"vqvae": pipeline.vqvae, "id2label": pipeline.id2label}
        pipeline = RARPipeline(transformer=pipeline.transformer.merge_positions(), **parts)
    for name, value in generation.items():
        setattr(pipeline.transformer.generation_config, name, value)
    partial = folder.parent / ".partial" / folder.name  # the card tells its name
    pipeline.save_pretrained(partial)
    weights = partial / "transformer" / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    for file in (partial / "vqvae" / "config.json", partial / "model_index.json"):
        content = json.loads(file.read_text())
        content.pop("_name_or_path", None)
        write_json(file, content)
    partial.replace(folder)
    partial.parent.rmdir()


def main() -> None:
    """Run the recipe from the command line."""
    (config,) = HfArgumentParser(IconRecipeConfig).parse_args_into_dataclasses()
    print(json.dumps(run_recipe(config), indent=2))


if __name__ == "__main__":
    main()
