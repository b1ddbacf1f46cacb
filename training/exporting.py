"""`randar-hf export`: what a training run would have written, had it ended with one of its checkpoints."""

import json
import os
from pathlib import Path

import torch
from diffusers import VQModel
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint import load as load_parts
from transformers import AutoConfig

from randar_hf import RandARForCausalLM, RARForCausalLM
from randar_hf.checks import check_path
from randar_hf.configuration_generation import RandARGenerationConfig
from randar_hf.outputs import check_output_folder, check_replaced_folder, files_of_runs
from randar_hf.replacement import replacing

from .checkpoints import PARTS_FILE, Checkpoint, check_checkpoint, list_checkpoints
from .data.token_files import load_tokenizer
from .lora import add_adapter, merge_adapter
from .previews import make_pipeline
from .run_report import describe_run
from .run_settings import RUN_FILE, stored_settings
from .training_config import TrainingConfig, model_class


SHARED = "pytorch_model_fsdp_0"  # folder of weights that processes shared
WRAPPERS = {"module", "_orig_mod"}  # parts of names that several processes and compilation add
FILES = ("README.md", "transformer", "vqvae", "pipeline.py")  # of a pipeline, beside what any run may write


def export_run(
    run: str | os.PathLike,
    output: str | os.PathLike | None = None,
    checkpoint: str | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the pipeline of a checkpoint of `train`, or the tokenizer of one of `train-tokenizer`.

    The data is not needed. Averaged weights are taken where the run keeps them, and an adapter is merged.

    Args:
        run: folder of the run, which may be going on.
        output: folder to write; by default `pipeline` or `tokenizer` in that of the run.
        checkpoint: `"best"` by validation loss, `"last"` or a step; by default the best one if there are validations.
        tokenizer: folder or Hub name of the tokenizer; by default the one that the run was given.
        overwrite: replace `output`, if that is a folder of the same kind.

    Returns:
        The folder.

    Raises:
        ValueError: the folder is none of a run, or of one that has saved nothing; there is no such checkpoint, or not
            any more, or it is damaged; there is no tokenizer; `output` cannot be written, or exists.
    """
    run = check_path("run", run)
    if output is not None:  # named before the run is read
        output = check_path("output", output)
        check_output_folder("output", output)
    command, settings, num_processes = _read_run(run)
    is_tokenizer = command == "train-tokenizer"
    output = output or run / ("tokenizer" if is_tokenizer else "pipeline")
    if output.resolve() in (run.resolve(), *run.resolve().parents):
        raise ValueError(f"`output` must not hold the run, got {str(output)!r}")
    marker = "config.json" if is_tokenizer else "model_index.json"
    check_replaced_folder("output", output, marker, overwrite, (), FILES)
    if is_tokenizer and tokenizer is not None:
        raise ValueError(f"`tokenizer` must be None for a run of `randar-hf train-tokenizer`, got {tokenizer!r}")
    tokenizer = tokenizer or settings.get("tokenizer")
    if not is_tokenizer and tokenizer is None:
        raise ValueError(f"`tokenizer` must be given, since the run was given none, got None for {str(run)!r}")
    chosen = find_exported(run, checkpoint)
    if is_tokenizer:
        result = load_checkpoint_tokenizer(chosen)
    else:
        config = stored_settings(TrainingConfig, settings)
        model = load_checkpoint_model(chosen, config)
        model.card_results = describe_run(run, chosen.progress, config, num_processes)
        result = make_pipeline(model, load_tokenizer(tokenizer))
    with replacing(output, keep=not files_of_runs(output, *FILES)) as folder:
        result.save_pretrained(folder)
        if not is_tokenizer:
            result.make_card(output.resolve().name).save(folder / "README.md")
    return output


def find_exported(run: Path, checkpoint: str | None = None) -> Checkpoint:
    """The checkpoint of a run that `"best"`, `"last"`, a step or None, the best if there is one, mean; whole.

    Raises:
        ValueError: there is no such checkpoint, or not any more, or it is damaged.
    """
    found = {path.name.removeprefix("checkpoint-"): path for path in list_checkpoints(run)}
    if not found:
        raise ValueError(f"`run` must have saved a checkpoint, got {str(run)!r}, which has saved none")
    newest, there = list(found)[-1], ", ".join(("last", *found))
    last = check_checkpoint(found[newest], "checkpoint")
    best = last.progress.best_step
    if checkpoint is None:
        checkpoint = "last" if best is None else "best"
    if checkpoint == "best" and best is None:
        raise ValueError(f"`checkpoint` must be one of {there}, got 'best' of a run without validations")
    if checkpoint == "best" and str(best) not in found:
        raise ValueError(f"`checkpoint` must be one of {there}, got 'best', step {best}, which is there no more")
    step = {"last": newest, "best": str(best)}.get(checkpoint, checkpoint)
    if step not in found:
        raise ValueError(f"`checkpoint` must be one of best, {there}, got {checkpoint!r}")
    return last if step == newest else check_checkpoint(found[step], "checkpoint")


def load_checkpoint_model(checkpoint: Checkpoint, config: TrainingConfig) -> RandARForCausalLM | RARForCausalLM:
    """The model of a checkpoint: the averaged weights if there are such, with the adapter merged.

    Args:
        checkpoint: a whole one of `train`.
        config: the settings of its run.
    """
    model = model_class(config.model_type)(AutoConfig.from_pretrained(_check_described(checkpoint.folder)))
    generation_config = RandARGenerationConfig.from_pretrained(checkpoint.folder)
    if config.lora_rank is not None:
        model = add_adapter(model, config.lora_rank)
    _load_weights(model, checkpoint.folder)
    if config.ema_decay is not None:
        parts = torch.load(checkpoint.folder / PARTS_FILE, map_location="cpu", weights_only=True)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter, average in zip(trained, parts["ema"]["shadow_params"], strict=True):
            parameter.data.copy_(average)
    if config.lora_rank is not None:
        model = merge_adapter(model)
    model.generation_config = generation_config
    return model.eval()


def load_checkpoint_tokenizer(checkpoint: Checkpoint) -> VQModel:
    """The tokenizer of a whole checkpoint of `train-tokenizer`."""
    vqvae = VQModel.from_config(VQModel.load_config(_check_described(checkpoint.folder)))
    _load_weights(vqvae, checkpoint.folder)
    return vqvae


def _load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Give a model the weights of a checkpoint, also those that processes shared."""
    if (folder / SHARED).is_dir():
        load_parts({"model": model.state_dict()}, storage_reader=FileSystemReader(folder / SHARED), no_dist=True)
        return
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict(
        {".".join(p for p in name.split(".") if p not in WRAPPERS): weights[name] for name in weights}
    )


def _check_described(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"`checkpoint` must be one that this version has written, got {str(folder)!r} without config.json; go on "
            "with the run by `--resume`"
        )
    return folder


def _read_run(run: Path) -> tuple[str, dict, int]:
    """Name and settings of the command that has written a folder, and the number of its processes."""
    try:
        content = json.loads((run / RUN_FILE).read_text())
        return content["command"], content["config"], content.get("num_processes", 1)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"`run` must be the folder of a run, got {str(run)!r} without a readable run.json") from error


__all__ = ["export_run", "find_exported", "load_checkpoint_model", "load_checkpoint_tokenizer"]
