"""The papers' claims in miniature: small models of icons with equal budgets, in one table beside the papers' numbers.

```sh
python -m randar_hf.training.icons.claims --tokens runs/icons/tokens --tokenizer runs/icons/tokenizer \
    --dataset runs/icons/images --classifier runs/icons/classifier --output-dir runs/claims
```

Every model takes the same training steps of the same batches and is 64 wide, the larger one 96. It writes a folder
for each run, `results.json` and `table.md`. Runs and numbers that are there are kept; what was interrupted goes on.
With `--model` nothing is trained: a finished RandAR is measured in the claims that compare what one model does.
"""

import json
import statistics
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path

import torch
from transformers import HfArgumentParser

from randar_hf.evaluation.metrics import frechet_distance
from randar_hf.files import write_text
from randar_hf.orders import FIXED_ORDER_NAMES
from randar_hf.outputs import check_output_folder
from randar_hf.pipelines.loading import load_pipeline

from ..outputs import write_json
from ..trainer import train
from ..training_config import TrainingConfig
from ..validation import check_fields, check_positive
from .classifier import load_classifier, read_icons, same_object
from .measures import check_num_images, decode_images, generate_tokens, load_icons
from .names import class_names
from .recipe import run_or_go_on
from .zero_shot import fit_probe, pooled_features


GUIDANCE = 2.0
STEPS = 22  # of 64, as 88 of 256
SMALL = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 2}
LARGE = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 3}
RAR = {"model_type": "rar", "order": "raster", "attention_dropout": 0.0}
# What is trained: the fields of `TrainingConfig` that differ, and RAR's annealing as fractions of the steps.
MODELS = {
    "randar": {},
    "dense": {"position_instruction": "dense"},
    "merge": {"position_instruction": "merge"},
    "raster": {"order": "raster"},
    "larger": LARGE,
    "rar-raster": {**RAR, "annealing": (0.0, 0.0)},
    "rar-random": {**RAR, "annealing": (1.0, 1.0)},
    "rar-annealed": {**RAR, "annealing": (0.5, 0.75)},
}


@dataclass(frozen=True)
class Row:
    """One row: a model, the settings it generates with, or the rounds in which a probe reads, and the paper's number.

    The paper's number is an FID, or a probe's top-1 accuracy in percent; None where a figure alone tells it.
    """

    name: str
    model: str
    generation: dict | None = None
    rounds: int | None = None
    paper: float | None = None


def _orders(paper: dict[str, float]) -> list[Row]:
    settings = {
        name: {"order": name, "num_inference_steps": 64 if name in FIXED_ORDER_NAMES else STEPS} for name in paper
    }
    return [Row(name, "randar", settings[name], paper=fid) for name, fid in paper.items()]


def _steps(model: str, order: str) -> list[Row]:
    return [Row(f"{model}, {count} steps", model, {"order": order, "num_inference_steps": count})
            for count in (8, 16, STEPS, 32, 64)]  # fmt: skip


def _probes(model: str, paper: tuple[float, float]) -> list[Row]:
    return [Row(f"{model}, {rounds} round{'s' * (rounds > 1)}", model, rounds=rounds, paper=accuracy)
            for rounds, accuracy in zip((1, 2), paper, strict=True)]  # fmt: skip


QUICK, SLOW = {"num_inference_steps": STEPS}, {"num_inference_steps": 64}
CLAIMS = {
    "Position instructions (RandAR, Table 2)": [
        Row("rope", "randar", QUICK, paper=2.82),
        Row("dense", "dense", QUICK, paper=3.07),
        Row("merge", "merge", SLOW, paper=3.37),
    ],
    "Orders of generation (RandAR, Table 3)": _orders(
        {"random": 2.25, "hierarchical": 2.36, "center_first": 2.97, "border_first": 2.56, "raster": 4.82,
         "spiral_in": 3.36, "spiral_out": 3.79, "z_curve": 4.00, "subsample": 2.40, "alternate": 4.29}
    ),
    "Steps (RandAR, Figure 4b)": _steps("randar", "random") + _steps("raster", "raster"),
    "Sizes (RandAR, Figure 4a)": [
        Row("64 wide, 3 layers", "randar", QUICK),
        Row("96 wide, 4 layers", "larger", QUICK),
    ],
    "A second round (RandAR, Table 5)": _probes("raster", (62.6, 58.3)) + _probes("randar", (57.3, 63.1)),
    "Spatial guidance at the trained size (RandAR, Table D)": [
        Row("none", "randar", QUICK, paper=2.25),
        Row("1.2", "randar", {**QUICK, "spatial_guidance_scale": 1.2}, paper=2.34),
    ],
    "Annealing (RAR, its ablation)": [
        Row("raster order", "rar-raster", SLOW, paper=3.08),
        Row("random orders", "rar-random", SLOW, paper=3.01),
        Row("annealed", "rar-annealed", SLOW, paper=2.18),
    ],
}  # fmt: skip


@dataclass(kw_only=True)
class ClaimsConfig:
    """Settings of `measure_claims`."""

    tokens: str = field(metadata={"help": "folder of the icons' tokens, both splits"})
    tokenizer: str = field(metadata={"help": "folder of their tokenizer"})
    dataset: str = field(metadata={"help": "folder that `icons.data` wrote"})
    classifier: str = field(metadata={"help": "folder that `icons.classifier` wrote"})
    output_dir: str = field(metadata={"help": "folder for everything; what it holds is kept or goes on"})
    max_steps: int = field(default=2000, metadata={"help": "training steps of each model"})
    batch_size: int = field(default=32, metadata={"help": "images of a training step"})
    num_images: int = field(default=480, metadata={"help": "icons generated for each row"})
    num_probed: int = field(default=4800, metadata={"help": "training images of the probes"})
    model: str | None = field(
        default=None,
        metadata={"help": "folder of a RandARPipeline to measure in the claims on one model; train none"},
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "seeds of the runs"})

    def __post_init__(self):
        check_fields(self)
        check_positive(self, "max_steps", "batch_size", "num_probed")
        check_num_images(self)
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"`seeds` must be one or more, each at least 0, got {self.seeds}")


def training_config(config: ClaimsConfig, model: str, seed: int) -> TrainingConfig:
    """The training of one model: everything but what it is named after is the same for all."""
    settings = {**SMALL, **MODELS[model]}
    if "annealing" in settings:
        start, end = settings.pop("annealing")
        settings |= {
            "annealing_start": round(start * config.max_steps),
            "annealing_end": round(end * config.max_steps),
        }
    return TrainingConfig(
        dataset=config.tokens, tokenizer=config.tokenizer, output_dir=str(Path(config.output_dir, f"{model}-{seed}")),
        validation_split="validation", residual_dropout=0.0, mlp_dropout=0.0, max_steps=config.max_steps,
        batch_size=config.batch_size, learning_rate=2e-3, warmup_steps=config.max_steps // 20, ema_decay=0.99,
        validation_steps=config.max_steps, checkpointing_steps=max(1, config.max_steps // 4), seed=seed, **settings,
    )  # fmt: skip


class Judge:
    """What all rows are measured by: the classifier, the held-out icons' features, and icons for probes."""

    def __init__(self, config: ClaimsConfig):
        self.config, self.classifier = config, load_classifier(config.classifier)
        self.train = self.held_out = self.reference = None

    def measure(self, row: Row, folder: Path, seed: int) -> dict:
        """The numbers of a row by the pipeline in a folder."""
        pipeline = load_pipeline("model", folder)
        pipeline.set_progress_bar_config(disable=True)
        if self.reference is None:  # all models have one tokenizer
            self.train = load_icons(pipeline.vqvae, self.config.dataset, "train", self.config.num_probed)
            self.held_out = load_icons(pipeline.vqvae, self.config.dataset, "validation")
            self.reference = read_icons(self.classifier, self.held_out.images)[1]
        if row.rounds is not None:
            return {"probe_accuracy": self.probe(pipeline.transformer, row.rounds, seed)}
        labels = [index % len(class_names()) for index in range(self.config.num_images)]
        guidance = GUIDANCE if self.config.model is None else None  # None is what is stored
        tokens = generate_tokens(pipeline, labels, seed, guidance_scale=guidance, **row.generation)
        named, features = read_icons(self.classifier, decode_images(pipeline, tokens))
        return {
            "frechet_distance": frechet_distance(features, self.reference),
            "object_accuracy": same_object(named, torch.tensor(labels)),
        }

    def probe(self, model, rounds: int, seed: int) -> float:
        """Objects of held-out icons that a linear probe of the last layer but one names rightly."""
        layer = max(1, model.config.num_hidden_layers - 1)
        features = [pooled_features(model, icons, layer, rounds, seed) for icons in (self.train, self.held_out)]
        return same_object(fit_probe(features[0], self.train.labels)(features[1]).argmax(1), self.held_out.labels)


def measure_claims(config: ClaimsConfig) -> dict:
    """Train what is not trained yet and measure what is not measured yet.

    Returns:
        The numbers by claim, row and seed; they are also in `results.json`, and `table.md` shows them.

    Raises:
        FileNotFoundError: the classifier is not there.
        ValueError: the data cannot be loaded, or the folder holds runs of other settings.
    """
    folder = Path(config.output_dir).expanduser()
    check_output_folder("output_dir", folder)
    file, judge = folder / "results.json", Judge(config)
    folder.mkdir(parents=True, exist_ok=True)
    results = json.loads(file.read_text()) if file.is_file() else {}
    for seed, (claim, row) in product(config.seeds, chosen_rows(config)):
        pipeline = trained_pipeline(config, row.model, seed)
        numbers = results.setdefault(claim, {}).setdefault(row.name, {})
        if str(seed) not in numbers:
            numbers[str(seed)] = judge.measure(row, pipeline, seed)
            write_json(file, results)
            write_text(folder / "table.md", make_table(results))
    return results


def chosen_rows(config: ClaimsConfig) -> list[tuple[str, Row]]:
    """The rows with their claims: all, or with `config.model` those of claims that compare rows of one RandAR."""
    if config.model is None:
        return [(claim, row) for claim, rows in CLAIMS.items() for row in rows]
    own = {claim: [row for row in rows if row.model == "randar"] for claim, rows in CLAIMS.items()}
    return [(claim, row) for claim, rows in own.items() if len(rows) > 1 for row in rows]


def trained_pipeline(config: ClaimsConfig, model: str, seed: int) -> Path:
    """The folder of the pipeline of a model, which is trained if it is not yet, and goes on if it was interrupted."""
    if config.model is not None:
        return Path(config.model).expanduser()
    training = training_config(config, model, seed)
    pipeline = Path(training.output_dir, "pipeline")
    run_or_go_on(train, "train", training, pipeline / "model_index.json")
    return pipeline


def quality(numbers: dict[str, dict]) -> float:
    """What rows are ranked by, less is better: the mean over the seeds of the distance, or of the probe's errors."""
    return statistics.mean(
        each["frechet_distance"] if "frechet_distance" in each else 1 - each["probe_accuracy"]
        for each in numbers.values()
    )


def disagreements(results: dict) -> list[str]:
    """A line for each claim in which rows are ranked differently than in the paper."""
    lines = []
    for claim, rows in CLAIMS.items():
        told = [row for row in rows if row.paper is not None and results.get(claim, {}).get(row.name)]
        pairs = list(combinations(told, 2))
        swapped = [pair for pair in pairs if _is_swapped(results[claim], *pair)]
        if swapped:
            here = min(told, key=lambda row: quality(results[claim][row.name])).name
            there = min(told, key=_rank).name
            first = f"{here} is best in both" if here == there else f"best here is {here}, there {there}"
            lines.append(f"- {claim}: {len(swapped)} of {len(pairs)} pairs are the other way round; {first}.")
    return lines


def _is_swapped(numbers: dict, first: Row, second: Row) -> bool:
    return (_rank(first) < _rank(second)) != (quality(numbers[first.name]) < quality(numbers[second.name]))


def _rank(row: Row) -> float:
    """What the paper's rows are ranked by, less is better."""
    return row.paper if row.rounds is None else -row.paper


def make_table(results: dict) -> str:
    """Markdown of `measure_claims`: what disagrees with the papers, and a table of all rows."""
    lines = ["Disagrees with the papers:", "", *(disagreements(results) or ["- nothing that was measured."]), ""]
    lines += [
        "| claim | row | Fréchet distance | named as asked | probe | paper |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    forms = {"frechet_distance": ".2f", "object_accuracy": ".1%", "probe_accuracy": ".1%"}
    for claim, rows in CLAIMS.items():
        for row in rows:
            if numbers := results.get(claim, {}).get(row.name):
                cells = [_cell([each[name] for each in numbers.values() if name in each], form)
                         for name, form in forms.items()]  # fmt: skip
                unit = "%" if row.rounds is not None else " FID"
                paper = "a figure" if row.paper is None else f"{row.paper}{unit}"
                lines.append(f"| {claim} | {row.name} | {' | '.join(cells)} | {paper} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float], form: str) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{deviation}"


def main() -> None:
    """Measure from the command line."""
    (config,) = HfArgumentParser(ClaimsConfig).parse_args_into_dataclasses()
    measure_claims(config)
    print((Path(config.output_dir).expanduser() / "table.md").read_text())


if __name__ == "__main__":
    main()
