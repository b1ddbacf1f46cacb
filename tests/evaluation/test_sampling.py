"""`randar-hf sample`: images that depend on their index alone, folders that can go on, the file of the evaluator."""

import collections
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from randar_hf import demo_checkpoint
from randar_hf.cli import main
from randar_hf.evaluation import sampling
from randar_hf.evaluation.sampling import image_class, image_seed, model_hash, sample_images
from randar_hf.pipelines import RandARPipeline, RARPipeline


@pytest.fixture(autouse=True)
def fresh_accelerate():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def folder(saved_pipeline, tmp_path, monkeypatch):
    """A folder with that of a tiny pipeline of 5 classes, 16 tokens and 16 x 16 pixels."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved_pipeline, "model")
    return tmp_path


def files(folder):
    """Everything in the folder of a run, by name, but what it notes of the machine."""
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    settings = json.loads(contents.pop("settings.json"))
    settings.pop("started_with")
    return {**contents, "settings": settings}


def pixels(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "images").iterdir())])


def test_what_a_run_leaves(folder):
    output = sample_images("model", "samples", 7, batch_size=3, seed=5, guidance_scale=2, top_k=9, device="cpu")
    assert sorted(files(output)) == [
        *(f"images/00000{index}.png" for index in range(7)), "labels.txt", "samples.npz", "settings",
    ]  # fmt: skip
    settings = json.loads((output / "settings.json").read_text())
    assert settings.pop("model_sha256") == model_hash(RandARPipeline.from_pretrained("model"))
    started_with = settings.pop("started_with")
    assert {"model": "model", "batch_size": 3, "num_processes": 1, "device": "cpu"}.items() <= started_with.items()
    assert started_with["torch"] == torch.__version__ and {"randar-hf", "diffusers"} <= set(started_with)
    assert settings == {
        "num_images": 7, "classes": "balanced", "seed": 5, "dtype": "float32", "pipeline": "RandARPipeline",
        "num_inference_steps": 16, "speculative_window": None,
        "guidance_scale": 2, "guidance_schedule": "linear", "guidance_power": 1.0,
        "temperature": 1.0, "top_k": 9, "top_p": 1.0, "order": "random", "do_sample": True, "height": 16, "width": 16,
    }  # fmt: skip


def test_the_array_holds_the_images_and_their_classes(folder):
    sample_images("model", "samples", 7, classes="random", device="cpu")
    with np.load("samples/samples.npz") as arrays:
        assert arrays.files == ["arr_0", "arr_1"]
        assert arrays["arr_0"].dtype == np.uint8 and arrays["arr_0"].shape == (7, 16, 16, 3)
        assert (arrays["arr_0"] == pixels(folder / "samples")).all()
        labels = [int(line) for line in (folder / "samples" / "labels.txt").read_text().splitlines()]
        assert arrays["arr_1"].tolist() == labels == [image_class("random", 0, i, 5) for i in range(7)]


def test_an_image_is_that_of_the_pipeline(folder):
    sample_images("model", "samples", 7, batch_size=1, seed=2, num_inference_steps=4, device="cpu", write_npz=False)
    pipe = RandARPipeline.from_pretrained("model")
    generator = torch.Generator().manual_seed(image_seed(2, 6))
    expected = pipe(6 % 5, num_inference_steps=4, generator=generator).images[0]
    assert Image.open("samples/images/000006.png").tobytes() == expected.tobytes()
    assert not (folder / "samples" / "samples.npz").exists()
    sample_images("model", "samples", 7, seed=2, num_inference_steps=4, device="cpu")
    assert (np.load("samples/samples.npz")["arr_0"] == pixels(folder / "samples")).all()


def test_an_image_depends_on_the_seed_and_its_index_alone(folder):
    runs = {"one": (5, 1, 0), "four": (5, 4, 0), "few": (4, 4, 0), "other": (5, 4, 1)}
    for name, (num_images, batch_size, seed) in runs.items():
        sample_images("model", name, num_images, batch_size=batch_size, seed=seed, device="cpu", write_npz=False)
    one, four, few, other = (pixels(folder / name).astype(int) for name in runs)
    assert abs(one - four).max() <= 1  # sums of the tokenizer are rounded by batch
    assert (four[:4] == few).all()
    assert len({image.tobytes() for image in four}) == 5
    assert (four != other).any(axis=(1, 2, 3)).all()


def test_rar(make_rar, vqvae, tmp_path):
    RARPipeline(make_rar(), vqvae).save_pretrained(tmp_path / "rar")
    output = sample_images(tmp_path / "rar", tmp_path / "out", 3, guidance_power=2.0, temperature=0.9, device="cpu")
    settings = json.loads((output / "settings.json").read_text())
    assert settings["pipeline"] == "RARPipeline" and settings["order"] == "raster"
    assert settings["guidance_power"] == 2.0 and settings["num_inference_steps"] == 16
    assert pixels(output).shape == (3, 16, 16, 3)


@pytest.mark.parametrize(("num_images", "num_classes"), [(50, 10), (53, 10), (7, 10), (1234, 1000)])
def test_balanced_classes(num_images, num_classes):
    counts = collections.Counter(image_class("balanced", 0, i, num_classes) for i in range(num_images))
    expected = {num_images // num_classes, -(-num_images // num_classes)}
    assert {counts[label] for label in range(num_classes)} <= expected


def test_random_classes_are_uniform_and_depend_on_the_seed():
    labels = [image_class("random", 3, i, 10) for i in range(2000)]
    counts = np.bincount(labels, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-squared of nine degrees, one in a thousand
    assert labels != [image_class("random", 4, i, 10) for i in range(2000)]


def test_no_seed_of_a_run_comes_twice():
    assert len({image_seed(0, index) for index in range(50_000)}) == 50_000
    numbers = torch.stack(
        [torch.rand(8, generator=torch.Generator().manual_seed(image_seed(0, i))) for i in range(2000)]
    )
    correlation = np.corrcoef(numbers[:-1].flatten(), numbers[1:].flatten())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(numbers.numel())


def test_an_interrupted_run_goes_on(folder, monkeypatch):
    whole, write = files(sample_images("model", "whole", 6, batch_size=4, device="cpu")), sampling.write_png
    for kept in (0, 1, 4, 5):
        cut, left = Path(f"cut-{kept}"), iter(range(kept))

        def stop(path, image, left=left):
            if next(left, None) is None:
                path.with_name(f".{path.name}.0123.partial").write_bytes(b"half an image")
                raise KeyboardInterrupt
            write(path, image)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(sampling, "write_png", stop)
            sample_images("model", cut, 6, batch_size=4, device="cpu")
        assert len(list((cut / "images").glob("*.png"))) == kept and not (cut / "samples.npz").exists()
        sample_images("model", cut, 6, batch_size=4, device="cpu")
        assert files(folder / cut) == whole


def test_a_run_stopped_while_it_writes_other_files_goes_on(folder):
    whole = files(sample_images("model", "whole", 4, device="cpu"))
    shutil.copytree("whole", "cut")
    for name in ("samples.npz", "labels.txt"):
        Path("cut", name).unlink()
        Path("cut", f".{name}.0123.partial").write_bytes(b"half")
    sample_images("model", "cut", 4, device="cpu")
    assert files(folder / "cut") == whole
    Path("first").mkdir()
    Path("first", ".settings.json.0123.partial").write_bytes(b"half")
    sample_images("model", "first", 4, device="cpu")
    assert files(folder / "first") == whole


def test_a_damaged_image_is_not_passed_on(folder):
    sample_images("model", "samples", 2, device="cpu", write_npz=False)
    for damaged in (b"half an image", Path("samples", "images", "000000.png").read_bytes()[:-300]):
        Path("samples", "images", "000001.png").write_bytes(damaged)
        with pytest.raises(ValueError, match="000001.png"):
            sample_images("model", "samples", 2, device="cpu")
    Image.new("RGB", (8, 8)).save("samples/images/000001.png")
    with pytest.raises(ValueError, match="shape.*000001.png"):
        sample_images("model", "samples", 2, device="cpu")
    assert not Path("samples", "samples.npz").exists()


def test_a_complete_run_is_left_alone(folder, monkeypatch):
    sample_images("model", "samples", 3, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in (folder / "samples").rglob("*")}
    monkeypatch.setattr(RandARPipeline, "__call__", None)
    sample_images("model", "samples", 3, batch_size=2, dtype="float32", device="cpu")
    assert {path: path.stat().st_mtime_ns for path in (folder / "samples").rglob("*")} == before


def test_other_settings_are_refused(folder, make_model, vqvae):
    sample_images("model", "samples", 3, guidance_scale=2.0, device="cpu")
    before = files(folder / "samples")
    with pytest.raises(ValueError, match="num_images: 3 there, now 4; seed: 0 there, now 1; top_k: 0 there, now 5"):
        sample_images("model", "samples", 4, seed=1, guidance_scale=2, top_k=5, device="cpu")
    changed = make_model(rope_theta=99.0)
    RandARPipeline(changed, vqvae).save_pretrained("changed")
    with pytest.raises(ValueError, match="samples'. model_sha256: [^;]*$"):
        sample_images("changed", "samples", 3, guidance_scale=2.0, device="cpu")
    assert files(folder / "samples") == before
    shutil.copytree("model", "moved")
    sample_images("moved", "samples", 3, guidance_scale=2.0, device="cpu")


def test_the_hash_is_that_of_the_weights(folder, make_model, vqvae):
    pipe = RandARPipeline.from_pretrained("model")
    first = model_hash(pipe)
    pipe.transformer.lm_head.weight.data[3, 4] += 1e-3
    assert model_hash(pipe) != first
    assert len(model_hash(pipe.to(torch.bfloat16))) == 64


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--num-images", "0"], "`num_images`"),
        (["--batch-size", "0"], "`batch_size`"),
        (["--seed", "-1"], "`seed`"),
        (["--classes", "sorted"], "`classes` must be one of balanced, random"),
        (["--model", "no/such/folder"], "`model` must be the folder of a pipeline, found none at 'no/such/folder'"),
        (["--steps", "17"], "`num_inference_steps`"),
        (["--order", "zigzag"], "`order`"),
        (["--temperature", "0"], "`temperature`"),
        (["--device", "nope"], "`device`"),
        (["--dtype", "float8"], "--dtype"),
        (["--refine", "1"], "--refine"),
        (["--output-dir", "model"], "`output_dir` must hold no other run, got 'model'"),
        (["--output-dir", "model/model_index.json"], "`output_dir` must be a folder"),
        (["--output-dir", "model/model_index.json/deep"], "`output_dir`"),
        (["--output-dir", "broken"], "`output_dir` must hold a settings.json that can be read"),
    ],
)
def test_wrong_input_is_one_line_and_code_two(folder, capsys, arguments, named):
    (folder / "broken").mkdir()
    (folder / "broken" / "settings.json").write_text('{"seed": 0')
    before = {str(path) for path in folder.rglob("*")}
    command = ["sample", "--model", "model", "--output-dir", "new", "--num-images", "2", *arguments]
    capsys.readouterr()
    try:
        code = main(command)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 2 and error.startswith("randar-hf") and named in error
    assert {str(path) for path in folder.rglob("*")} == before


def test_what_rar_cannot_do_is_refused(make_rar, vqvae, tmp_path):
    RARPipeline(make_rar(), vqvae).save_pretrained(tmp_path / "rar")
    for settings, named in (({"order": "random"}, "`order`"), ({"num_inference_steps": 8}, "`num_inference_steps`")):
        with pytest.raises(ValueError, match=named):
            sample_images(tmp_path / "rar", tmp_path / "out", 2, device="cpu", **settings)
    assert not (tmp_path / "out").exists()


def test_processes_that_would_repeat_each_other_are_refused(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)  # one that accelerate cannot connect
    with pytest.raises(ValueError, match="`device` must be cpu here for 2 processes"):
        sample_images("model", "samples", 2)


def test_processes_share_the_batches(folder, monkeypatch):
    """Threads instead of two processes: each samples its batches of those that are missing, at the same time."""
    rank, barrier, sampled = threading.local(), threading.Barrier(2, timeout=60), {0: [], 1: []}
    pipes = [RandARPipeline.from_pretrained("model") for _ in range(2)]

    def start(device):
        return SimpleNamespace(
            process_index=rank.value,
            num_processes=2,
            is_main_process=rank.value == 0,
            device=torch.device("cpu"),
            wait_for_everyone=barrier.wait,
        )

    def seed_of(seed, index):
        sampled[rank.value].append(index)
        return image_seed(seed, index)

    def run(index):
        rank.value = index
        return sample_images("model", "both", 18, batch_size=4)

    whole = files(sample_images("model", "whole", 18, batch_size=4, device="cpu"))
    shutil.copytree("whole", "both")
    for name in ("images/000000.png", "images/000006.png", "images/000007.png", "images/000017.png", "samples.npz"):
        Path("both", name).unlink()
    kept = {path: path.stat().st_mtime_ns for path in Path("both", "images").iterdir()}
    monkeypatch.setattr(sampling, "start_processes", start)
    monkeypatch.setattr(sampling, "load_pipeline", lambda *arguments: pipes[rank.value])
    monkeypatch.setattr(sampling, "image_seed", seed_of)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    assert sampled == {0: [0, 1, 2, 3, 16, 17], 1: [4, 5, 6, 7]}
    assert files(folder / "both") == whole
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.slow
def test_two_processes_of_a_launcher_give_the_same_bytes(tmp_path):
    """Images of the shipped model, each sampled by one of the processes."""
    launcher = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2 -m randar_hf"
    words = f"sample --num-images 20 --batch-size 4 --steps 4 --device cpu --output-dir {tmp_path / 'both'}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher.split(), *words.split()]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    # gloo may abort when all is done: the files decide.
    assert "12/12" in result.stderr, result.stderr  # three of five batches
    assert json.loads((tmp_path / "both" / "settings.json").read_text())["started_with"]["num_processes"] == 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = sample_images(
            demo_checkpoint(), tmp_path / "alone", 20, batch_size=4, num_inference_steps=4, device="cpu"
        )
    finally:
        torch.set_num_threads(threads)
    assert files(tmp_path / "both") == files(alone)


def test_what_is_no_run_does_no_harm_in_the_folder(folder):
    Path("samples").mkdir()
    Path("samples", ".DS_Store").write_bytes(b"\0")
    Path("samples", "nohup.out").write_text("started\n")
    Path("samples", "latest").symlink_to("nowhere")
    sample_images("model", "samples", 2, device="cpu")
    assert Path("samples", "nohup.out").read_text() == "started\n" and Path("samples", "latest").is_symlink()
    assert pixels(folder / "samples").shape == (2, 16, 16, 3)
