"""What the processes run that tests start from `conftest.start_training`, beside one another or to be killed."""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from randar_hf import RandARForCausalLM
from randar_hf.training import TokenizerTrainingConfig, TrainingConfig, trainer
from randar_hf.training.checkpoints import list_checkpoints
from randar_hf.training.run_settings import RUN_FILE
from randar_hf.training.tokenizer_training import train_tokenizer
from randar_hf.training.trainer import train


FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree"}


def run(
    settings: dict,
    log: str,
    environment: dict,
    kill_at: int | None = None,
    watch: str | None = None,
    sharding: dict | None = None,
    nan_at: int | None = None,
    tokenizer: bool = False,
) -> None:
    """Train, or go on with what the output folder holds.

    Args:
        settings: of `TrainingConfig`, or of `TokenizerTrainingConfig`.
        log: file for what is printed.
        environment: variables to set.
        kill_at: die when a file in the output folder is about to be used for the `kill_at`-th time.
        watch: folder for a file per process, with a line for each batch that the model is trained on.
        sharding: variables that make accelerate share the weights between the processes.
        nan_at: the step whose gradients are not finite.
        tokenizer: train a tokenizer.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # of loaders' workers, as in a process that a shell starts
    torch.set_num_threads(1)
    folder = Path(settings["output_dir"])
    if sharding is not None:
        share_weights(sharding)
    if nan_at is not None:
        spoil_gradients(nan_at)
    if kill_at is not None:
        kill_self(kill_at, str(folder))
    if watch is not None:
        watch_batches(Path(watch, environment.get("RANK", "0")))
    if list_checkpoints(folder):
        settings = {**settings, "resume": "latest"}
    elif (folder / RUN_FILE).is_file():
        settings = {**settings, "overwrite": True}
    if tokenizer:
        train_tokenizer(TokenizerTrainingConfig(**settings))
    else:
        train(TrainingConfig(**settings))


def kill_self(kill_at: int, folder: str) -> None:
    """Send this process SIGKILL when it is about to use a file below `folder` for the `kill_at`-th time."""
    count = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in FILE_EVENTS and str(arguments[0]).startswith(folder):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def share_weights(environment: dict) -> None:
    """Let accelerate share weights between processes; without this it does so on accelerators alone."""
    os.environ.update(environment)
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def spoil_gradients(step: int) -> None:
    """Make the loss of a step, counted from 1, not a number."""
    forward, calls = RandARForCausalLM.forward, 0

    def spoiled(self, *args, **kwargs):
        nonlocal calls
        output = forward(self, *args, **kwargs)
        if self.training:
            calls += 1
            output.loss = output.loss * (float("nan") if calls == step else 1)
        return output

    RandARForCausalLM.forward = spoiled
    trainer.compare_precision = lambda *arguments: None  # whose passes would be counted


def watch_batches(path: Path) -> None:
    """Append what each image of a batch is trained with to a file."""
    forward = RandARForCausalLM.forward

    def watched(self, input_ids, class_labels, order, labels, dropped_classes, **kwargs):
        columns = zip(input_ids.tolist(), class_labels.tolist(), order.tolist(), dropped_classes.tolist())
        images = [{"tokens": t, "label": c, "order": o, "dropped": d} for t, c, o, d in columns]
        with open(path, "a") as file:
            file.write(json.dumps(images) + "\n")
        return forward(self, input_ids, class_labels, order, labels, dropped_classes=dropped_classes, **kwargs)

    RandARForCausalLM.forward = watched
