"""Small synthetic data and trained-for-two-steps components for the tests of `randar_hf.training`."""

import json
import multiprocessing
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from safetensors.torch import load_file

from randar_hf.training import (
    TokenizerTrainingConfig,
    TokenizingConfig,
    TrainingConfig,
    tokenize_images,
    tokenizer_training,
    train,
    train_tokenizer,
    trainer,
)


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    """Tiny tensors are quickest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Forget the previous test's process-wide settings, such as its precision."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def curves():
    """A test that asks for this has the curves of its runs drawn."""


@pytest.fixture(autouse=True)
def no_curves_unless_asked(request, monkeypatch):
    """Curves take longer than the few steps of these runs."""
    if "curves" not in request.fixturenames:
        monkeypatch.setattr(trainer, "save_curves", lambda folder: None)
        monkeypatch.setattr(tokenizer_training, "save_curves", lambda folder: None)


def make_image(label: int, index: int) -> PILImage.Image:
    """A 16 x 16 image: stripes whose direction and colour tell the class."""
    rng = np.random.default_rng([label, index])
    pixels = rng.integers(0, 40, (16, 16, 3), dtype=np.uint8)
    stripe = slice(4 * (index % 3), 4 * (index % 3) + 5)
    pixels[(stripe, slice(None)) if label else (slice(None), stripe)] += 200
    return PILImage.fromarray(pixels)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """An image folder: train and validation, two classes."""
    folder = tmp_path_factory.mktemp("folder")
    for split, count in {"train": 8, "validation": 3}.items():
        for label, name in enumerate(["down", "across"]):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                make_image(label, index).save(folder / split / name / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def image_parquet(tmp_path_factory):
    """The same images as parquet files, with other column names."""
    folder = tmp_path_factory.mktemp("parquet")
    features = Features({"image": Image(), "kind": ClassLabel(names=["down", "across"])})
    for split, count in {"train": 8, "validation": 3}.items():
        kinds = [label for label in range(2) for _ in range(count)]
        images = [make_image(label, index) for label in range(2) for index in range(count)]
        rows = Dataset.from_dict({"image": images, "kind": kinds}, features=features)
        rows.to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def small_tokenizer_settings():
    """Settings of a tokenizer that trains in a second: 16 x 16 pixels to 4 x 4 tokens."""
    return {
        "image_size": 16,
        "block_out_channels": [4, 4, 4],
        "codebook_size": 16,
        "code_dim": 2,
        "batch_size": 4,
        "max_steps": 4,
        "warmup_steps": 1,
        "restart_steps": 2,
        "logging_steps": 2,
    }


@pytest.fixture(scope="session")
def tokenizer_folder(image_folder, small_tokenizer_settings, tmp_path_factory):
    """A trained tokenizer."""
    folder = tmp_path_factory.mktemp("runs") / "tokenizer"
    train_tokenizer(
        TokenizerTrainingConfig(dataset=str(image_folder), output_dir=str(folder), **small_tokenizer_settings)
    )
    return folder


@pytest.fixture(scope="session")
def token_folder(image_folder, tokenizer_folder, tmp_path_factory):
    """Token rows of both splits."""
    folder = tmp_path_factory.mktemp("runs") / "tokens"
    for split in ("train", "validation"):
        tokenize_images(
            TokenizingConfig(
                dataset=str(image_folder), tokenizer=str(tokenizer_folder), output_dir=str(folder), split=split
            )
        )
    return folder


@pytest.fixture(scope="session")
def small_model_settings(token_folder):
    """Settings of a RandAR that trains in a second, with dropout on, but for the folder."""
    return {
        "dataset": str(token_folder),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "logging_steps": 1,
        "validation_steps": 100,
        "checkpointing_steps": 3,
    }


@pytest.fixture
def training_settings(small_model_settings, tmp_path):
    """`small_model_settings` with a folder of the test's own."""
    return {**small_model_settings, "output_dir": str(tmp_path / "run")}


@pytest.fixture(scope="session")
def finished(small_model_settings, tmp_path_factory):
    """The folder of a run of `small_model_settings` that is over, to be read."""
    return train(TrainingConfig(**small_model_settings, output_dir=str(tmp_path_factory.mktemp("runs") / "finished")))


@pytest.fixture
def finished_run(finished, training_settings):
    """A run of `training_settings` that is over, in its folder: a copy, to be damaged or resumed."""
    return shutil.copytree(finished, Path(training_settings["output_dir"]))


@pytest.fixture(scope="session")
def child_module():
    """The module of what child processes run, importable here and there."""
    sys.path.insert(0, str(Path(__file__).parent))
    import child

    yield child
    sys.path.remove(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def forkserver(child_module):
    """A context whose processes start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["randar_hf.training.trainer"])
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    context.Process(target=os.getpid).start()  # starts the server
    os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
    return context


@pytest.fixture
def start_training(child_module, forkserver, tmp_path):
    """`start_training(settings, processes=1, **more)` trains in processes of its own and returns them.

    They go on with the run that the output folder holds. What they print is in `tmp_path / "log"`. `more` is handed
    to `child.run`.
    """
    started = []

    def start(settings: dict, processes: int = 1, **more) -> list:
        environment = {}
        if processes > 1:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = str(free.getsockname()[1])
            environment = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
            environment["ACCELERATE_USE_CPU"] = "true"
        group = []
        for rank in range(processes):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            arguments = (settings, str(tmp_path / "log"), {**environment, **ranks})
            group.append(forkserver.Process(target=child_module.run, args=arguments, kwargs=more))
            group[-1].start()
        started.extend(group)
        return group

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.fixture(scope="session")
def read_metrics():
    """`read_metrics(folder)` gives the lines of a run, without what a clock says."""

    def read(folder) -> list[dict]:
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        return [{name: line[name] for name in line if not name.endswith("_per_second")} for line in lines]

    return read


@pytest.fixture(scope="session")
def same_weights():
    """`same_weights(first, second)` tells whether the models in two folders are equal, bit for bit."""

    def same(first, second) -> bool:
        first, second = load_file(Path(first) / "model.safetensors"), load_file(Path(second) / "model.safetensors")
        return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    return same


HEART = "M12 21C5 15 2 11 2 8a5 5 0 0 1 10-2 5 5 0 0 1 10 2c0 3-3 7-10 13z"
BAR = "M3 3h9v18H3z"


@pytest.fixture(scope="session")
def icon_package(tmp_path_factory):
    """An unpacked package of icons: two sets to train on, one of them with copies, one held out, one not allowed."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "json").mkdir()
    solid = {name: f'<path fill="currentColor" d="{path}"/>' for name, path in (("heart", HEART), ("bar", BAR))}
    line = {
        width: f'<path fill="none" stroke="currentColor" stroke-width="{width}" d="{HEART}"/>' for width in (2, 3, 4)
    }
    sets = {
        "tabler": {
            "heart": solid["heart"],
            "heart-outline": line[2],
            "heart-off": line[2],
            "bookmark-fill": solid["bar"],
        },
        "ph": {
            "favorite": solid["heart"],
            "bell-line": solid["heart"],
        },  # a copy, and a name that contradicts the image
        "eva": {"heart-outline": line[3], "heart": solid["heart"], "bell-outline": line[4]},
        "gpl": {"star": solid["bar"]},
    }
    mit = {"name": "A set", "author": {"name": "Somebody"}, "license": {"title": "MIT", "spdx": "MIT"}}
    collections = {prefix: mit for prefix in sets} | {"gpl": {**mit, "license": {"spdx": "GPL-3.0"}}}
    (folder / "collections.json").write_text(json.dumps(collections))
    for prefix, bodies in sets.items():
        icons = {name: {"body": body} for name, body in bodies.items()}
        content = {"prefix": prefix, "width": 24, "height": 24, "icons": icons}
        (folder / "json" / f"{prefix}.json").write_text(json.dumps(content))
    return folder
