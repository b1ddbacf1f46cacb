"""RAR on the digits, in three schedules: raster order alone, random orders alone, and annealed from these to raster.

```sh
python -m randar_hf.training.experiments.digits_rar --output-dir runs/rar
```

Data and tokenizer are those of the shipped RandAR (`digits`), the model is a RAR of 0.9M parameters. It writes, under
the output folder, `tokens/`, a run for each schedule and seed with its numbers in `evaluation.json`, all numbers in
`results.json`, and the annealed model of seed 0 with merged positions in `pipeline/`. Runs that are finished are kept,
and one that was interrupted goes on.
"""

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from randar_hf import RandARGenerationConfig, demo_checkpoint
from randar_hf.pipelines import RARPipeline

from ..checkpoints import list_checkpoints
from ..outputs import write_json
from ..run_settings import RUN_FILE
from ..tokenizing import TokenizingConfig, tokenize_images
from ..trainer import train
from ..training_config import TrainingConfig
from .digits import IMAGES_PER_CLASS, save_without_origin
from .digits_data import write_digits
from .digits_evaluation import DigitsEvaluationConfig, evaluate_digits


MAX_STEPS = 1600
# Shares of the steps at which annealing starts and ends; the published ones are 200 and 300 of 400 epochs.
SCHEDULES = {"raster": (0.0, 0.0), "random": (1.0, 1.0), "annealed": (0.5, 0.75)}
GUIDANCE_SCALE, GUIDANCE_POWER = 1.5, 0.0


@dataclass(kw_only=True)
class DigitsRARConfig:
    """Settings of the comparison; the rest of it is fixed."""

    output_dir: str = field(metadata={"help": "folder for everything; runs that it holds are kept or go on"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "seeds of the runs"})
    schedules: list[str] = field(
        default_factory=lambda: list(SCHEDULES), metadata={"help": "of raster, random and annealed"}
    )

    def __post_init__(self):
        unknown = [name for name in self.schedules if name not in SCHEDULES]
        if unknown or not self.schedules:
            raise ValueError(f"`schedules` must be of {', '.join(map(repr, SCHEDULES))}, got {unknown or 'none'}")
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"`seeds` must be one or more, each at least 0, got {self.seeds}")


def training_config(folder: Path, schedule: str, seed: int) -> TrainingConfig:
    """RAR: four layers of width 96 with the published dropouts and optimizer."""
    start, end = (round(share * MAX_STEPS) for share in SCHEDULES[schedule])
    return TrainingConfig(
        dataset=str(folder / "tokens"),
        output_dir=str(folder / f"{schedule}-{seed}"),
        tokenizer=str(Path(demo_checkpoint(), "vqvae")),
        validation_split="validation",
        model_type="rar",
        annealing_start=start,
        annealing_end=end,
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_steps=MAX_STEPS,
        learning_rate=1e-3,
        warmup_steps=250,
        weight_decay=0.03,
        adam_beta2=0.96,
        validation_steps=400,
        checkpointing_steps=200,
        seed=seed,
    )


def prepare_tokens(folder: Path) -> None:
    """Tokens of both splits, by the shipped tokenizer, if they are not there."""
    for split in ("train", "validation"):
        if not (folder / "tokens" / f"{split}.parquet").is_file():
            write_digits(folder / "images")
            tokenize_images(
                TokenizingConfig(
                    dataset=str(folder / "images"),
                    tokenizer=str(Path(demo_checkpoint(), "vqvae")),
                    output_dir=str(folder / "tokens"),
                    split=split,
                )
            )


def train_run(folder: Path, schedule: str, seed: int) -> Path:
    """Train one model, from its latest checkpoint if there is one, or not at all if it is finished.

    Returns:
        The folder of the run.
    """
    config = training_config(folder, schedule, seed)
    run = Path(config.output_dir)
    if (run / "pipeline" / "model_index.json").is_file():
        return run
    if list_checkpoints(run):
        config.resume = "latest"
    else:
        config.overwrite = (run / RUN_FILE).is_file()
    return train(config)


def evaluate_run(run: Path) -> dict:
    """The numbers of a finished run, by `evaluate_digits` with the guidance of this recipe, which is stored."""
    output = run / "evaluation.json"
    if output.is_file():
        return json.loads(output.read_text())
    transformer = run / "pipeline" / "transformer"
    generation = RandARGenerationConfig.from_pretrained(transformer)
    generation.guidance_scale, generation.guidance_power = GUIDANCE_SCALE, GUIDANCE_POWER
    generation.save_pretrained(transformer)
    return evaluate_digits(
        DigitsEvaluationConfig(model=str(run / "pipeline"), output=str(output), images_per_class=IMAGES_PER_CLASS)
    )


def assemble_pipeline(folder: Path) -> Path:
    """The annealed model of seed 0 as a pipeline with merged positions, in `folder / "pipeline"`."""
    pipeline = RARPipeline.from_pretrained(folder / "annealed-0" / "pipeline")
    merged = RARPipeline(
        transformer=pipeline.transformer.merge_positions(), vqvae=pipeline.vqvae, id2label=pipeline.id2label
    )
    return save_without_origin(merged, folder / "pipeline")


def summarize(runs: dict[str, list[dict]]) -> dict:
    """Mean and standard deviation over the seeds, by schedule and number, of the `runs` of each schedule."""
    summary = {}
    for schedule, numbers in runs.items():
        columns = {
            "validation_nats_per_token": [run["validation_bits_per_token"] * math.log(2) for run in numbers],
            **{name: [run[name] for run in numbers] for name in numbers[0]},
        }
        summary[schedule] = {
            name: {"mean": statistics.mean(values), "deviation": statistics.stdev(values) if values[1:] else 0.0}
            for name, values in columns.items()
        }
    return summary


def make_table(summary: dict) -> str:
    """A Markdown table of `summarize`."""
    lines = [
        "| trained in | validation nats per token | bits per token | named as asked | Fréchet distance | repeats |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for schedule, numbers in summary.items():
        cells = [
            f"{numbers[name]['mean']:{form}} ± {numbers[name]['deviation']:{form}}"
            for name, form in {
                "validation_nats_per_token": ".3f",
                "validation_bits_per_token": ".3f",
                "class_accuracy": ".1%",
                "frechet_distance": ".1f",
                "repeated_share": ".1%",
            }.items()
        ]
        lines.append(f"| {schedule} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run_comparison(config: DigitsRARConfig) -> dict:
    """Train and measure a model for each schedule and seed, and assemble the annealed one of seed 0.

    Returns:
        The numbers: `runs`, by schedule and seed, and their `summary`.

    Raises:
        ValueError: a folder of a run holds another one.
    """
    folder = Path(config.output_dir).expanduser()
    prepare_tokens(folder)
    runs = {
        schedule: {str(seed): evaluate_run(train_run(folder, schedule, seed)) for seed in config.seeds}
        for schedule in config.schedules
    }
    if "annealed" in config.schedules and 0 in config.seeds:
        assemble_pipeline(folder)
    results = {"runs": runs, "summary": summarize({name: list(by_seed.values()) for name, by_seed in runs.items()})}
    write_json(folder / "results.json", results)
    return results


def main() -> None:
    """Run the comparison from the command line."""
    (config,) = HfArgumentParser(DigitsRARConfig).parse_args_into_dataclasses()
    print(make_table(run_comparison(config)["summary"]))


if __name__ == "__main__":
    main()
