"""What a run tells at its end: what was made, how good it is, where it lies, and what comes next."""

import shlex
from pathlib import Path

import randar_hf
from randar_hf.files import write_text

from .checkpoints import Progress
from .curves import read_metrics


def results_of(folder: Path, progress: Progress) -> str:
    """What the validation of a step of a run gave, as a sentence.

    Args:
        folder: of the run.
        progress: where it stood then.
    """
    step = progress.step
    lines = [line for line in read_metrics(folder) if line["step"] == step and line.get("validation_loss") is not None]
    if not lines:
        return f"{step:,} training steps, not validated."
    line, best = lines[-1], ", the best of the run" if progress.best_step == step else ""
    if "psnr" not in line:
        return f"Validation loss of {line['validation_loss']:.3f} nats per token after {step:,} steps{best}."
    return (
        f"Held-out images are reproduced with a PSNR of {line['psnr']:.2f} dB and an SSIM of {line['ssim']:.3f} after "
        f"{step:,} steps{best}, with {line['used_codes']:,} codes in use."
    )


def describe_run(folder: Path, progress: Progress, config, num_processes: int) -> str:
    """What a card tells of a run: what came of it, and how it was made.

    Args:
        folder: of the run.
        progress: where it stood when its result was saved.
        config: its settings.
        num_processes: of the run.
    """
    images = config.batch_size * num_processes * getattr(config, "gradient_accumulation_steps", 1)
    base, rank = getattr(config, "pretrained_model", None), getattr(config, "lora_rank", None)
    start = "" if base is None else f" from `{Path(base).name if Path(base).exists() else base}`"
    return (
        f"{results_of(folder, progress)}\n\nTrained{start} by randar_hf {randar_hf.__version__}: {progress.step:,} of "
        f"{config.max_steps:,} training steps, each over {images} images, with the learning rate "
        f"{config.learning_rate:g}, {config.lr_schedule} after {config.warmup_steps:,} steps of warm-up"
        f"{'' if rank is None else f', of an adapter of rank {rank}'}."
    )


def next_command(folder: Path, config, result: Path | None = None, label: str = "0") -> str:
    """The command that uses what a run has made.

    Args:
        folder: of the run.
        config: its settings.
        result: folder of the pipeline of `train`; None where the tokenizer was not at hand.
        label: a class of the pipeline.
    """
    if not hasattr(config, "tokenizer"):
        tokens = folder.with_name(f"{folder.name}-tokens")
        words = ["tokenize", "--dataset", config.dataset, "--tokenizer", str(folder), "--output-dir", str(tokens)]
    elif result is None:
        words = ["export", str(folder), "--tokenizer", "TOKENIZER"]
    else:
        words = ["generate", label, "--model", str(result)]
    return shlex.join(["randar-hf", *words])


def write_report(folder: Path, text: str, command: str) -> None:
    """Write the `README.md` of a run: the card of what it has made, its curves and images, and the next command."""
    previews = sorted((folder / "previews").glob("step-*.png"), key=lambda path: int(path.stem.rpartition("-")[2]))
    images = [path for path in (*previews[-1:], folder / "validation.png") if path.is_file()]
    lines = [f"![{path.stem}]({path.relative_to(folder)})\n" for path in images]
    section = "\n".join([*lines, f"All settings are in `recipe.yaml`. Next:\n\n```bash\n{command}\n```"])
    write_text(folder / "README.md", f"{text.rstrip()}\n\n## The run\n\n{section}\n")
