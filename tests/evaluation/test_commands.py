"""The commands that measure, with a small model and a small vision model of seeded weights."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from accelerate.state import PartialState

from randar_hf import cli


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    PartialState._reset_state()


def run(*words):
    return cli.main([str(word) for word in words])


def refused(capsys, message, *words):
    assert run(*words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1], lines
    return True


def test_evaluate_folders_files_and_a_pipeline(model_folder, vit, make_images, tmp_path, capsys):
    samples, reference = make_images("samples", 8), make_images("reference", 9, seed=1)
    network = ("--features", vit / "classifier", "--device", "cpu")
    assert run("evaluate", samples, "--reference", reference, "--save-reference", "saved.npz", *network) == 0
    assert "no FID" in capsys.readouterr().out
    first = json.loads((tmp_path / "evaluation.json").read_text())
    assert run("evaluate", samples, "--reference", "saved.npz", "--output", "again.json", *network) == 0
    second = json.loads((tmp_path / "again.json").read_text())
    assert second["metrics"] == pytest.approx(first["metrics"], rel=1e-9)
    settings = ("--num-images", 6, "--steps", 4, "--guidance-scale", 2, "--output", "model.json")
    assert run("evaluate", model_folder, "--reference", "saved.npz", *settings, *network) == 0
    found = json.loads((tmp_path / "model.json").read_text())
    assert found["samples"]["count"] == 6 and found["samples"]["settings"]["num_inference_steps"] == 4
    assert found["samples"]["class_balance"] == {"classes": 5, "fewest": 1, "most": 2}


def test_wrong_evaluation_is_one_line_and_writes_nothing(vit, make_images, tmp_path, capsys, monkeypatch):
    samples, reference = make_images("samples", 8), make_images("reference", 9, seed=1)
    network = ("--features", vit / "plain", "--device", "cpu")
    before = sorted(tmp_path.rglob("*"))
    for message, words in (
        ("`samples` must be an npz file that exists", ("nothing.npz", "--reference", reference)),
        ("must go with a pipeline", (samples, "--reference", reference, "--num-images", 5)),
        ("`--save-reference` must end in .npz", (samples, "--reference", reference, "--save-reference", "a.txt")),
        ("`--output` must end in .json", (samples, "--reference", reference, "--output", "a.txt")),
        ("`batch_size` must be an int of at least 1", (samples, "--reference", reference, "--batch-size", 0)),
    ):
        assert refused(capsys, message, "evaluate", *words, *network)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert refused(capsys, "are not on this machine", "evaluate", samples, "--reference", reference, "--device", "cpu")
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "evaluation.json").write_text("{}")
    assert refused(capsys, "exists; --overwrite", "evaluate", samples, "--reference", reference, *network)


def test_sweep(model_folder, vit, make_images, tmp_path, capsys):
    reference = make_images("reference", 9)
    words = ("sweep", "--model", model_folder, "--reference", reference, "--output-dir", "out", "--num-images", 6)
    words += ("--features", vit / "classifier", "--device", "cpu", "--order", "random,raster")
    assert run(*words, "--guidance-scale", "1:2:1") == 0
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [(row["guidance_scale"], row["order"]) for row in table] == [
        (scale, order) for scale in (1.0, 2.0) for order in ("random", "raster")
    ]
    assert (tmp_path / "out" / "plot.png").exists()
    assert refused(capsys, "`guidance_scale` must be values", *words, "--guidance-scale", "1-2")
    words = ("--model", model_folder, "--features", vit / "plain", "--device", "cpu", "--steps", 2)
    for command in (("sweep", "--output-dir", "new"), ("evaluate", model_folder, "--output", "new.json")):
        asked = (*command, *words[2 if command[0] == "evaluate" else 0 :], "--reference", "none.npz")
        assert refused(capsys, "`reference` must be an npz file that exists", *asked)  # before a model is sampled
        assert not list(tmp_path.glob("new*"))


@pytest.mark.slow
def test_two_processes_find_the_same_numbers(model_folder, vit, make_images, tmp_path):
    reference = make_images("reference", 13)
    words = ["sweep", "--model", model_folder, "--reference", reference, "--num-images", 11, "--batch-size", 2]
    words += ["--features", vit / "classifier", "--device", "cpu", "--steps", "2,4", "--output-dir"]
    launcher = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2 -m randar_hf".split()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, *map(str, words), "both"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    # gloo may abort when all is done: the files decide
    assert "6/6" in result.stderr and "3/3" in result.stderr, result.stderr  # images and batches of the first of them
    assert run(*words, "alone") == 0
    tables = [json.loads((tmp_path / name / "table.json").read_text()) for name in ("alone", "both")]
    assert tables[0] == tables[1] and len(tables[0]) == 2
    settings = json.loads((tmp_path / "both" / "num_inference_steps=2" / "samples" / "settings.json").read_text())
    assert settings["started_with"]["num_processes"] == 2


def test_probe_and_classify(model_folder, make_images, tmp_path, capsys):
    data, validation = make_images("data", 24), make_images("validation", 12, seed=1)
    model = ("--model", model_folder)
    words = ("probe", data, "--validation", validation, "--epochs", 2, "--warmup-epochs", 1, "--layers", "1,tokenizer")
    assert run(*words, *model, "--crops", 2) == 0
    found = json.loads((tmp_path / "probe.json").read_text())
    assert found["recipe"]["crops"] == 2 and found["data"]["images"] == 24
    assert {np.load(path, mmap_mode="r").shape[0] for path in tmp_path.rglob("pool.npy")} == {48, 12}
    assert [(row["layer"], row["rounds"]) for row in found["results"]] == [
        (1, 1),
        (1, 2),
        ("tokenizer", 1),
        ("tokenizer", 2),
    ]
    assert all(0 <= row["top_1"] <= row["top_5"] <= 1 for row in found["results"])
    assert refused(capsys, "`--layers` must be whole numbers or tokenizer", *words[:-1], "x", *model, "--overwrite")
    words = ("classify", data, "--num-orders", 2, "--num-images", 6, "--confusion", "confusion.png")
    assert run(*words, *model) == 0
    found = json.loads((tmp_path / "classification.json").read_text())
    assert len(found["predictions"]) == 6 and list(found["accuracy_by_orders"]) == ["1", "2"]
    assert (tmp_path / "confusion.png").exists()


def test_correspondence(model_folder, write_pair, noise, tmp_path, capsys):
    write_pair(tmp_path / "SPair-71k", 1, noise(), noise(), [[18, 14]], [[18, 14]], [0, 0, 30, 40])
    words = ("correspondence", "SPair-71k", "--model", model_folder, "--layers", "1,2", "--matches", "matches.png")
    assert run(*words) == 0
    found = json.loads((tmp_path / "correspondence.json").read_text())
    assert [row["per_image"] for row in found["results"]] == [100.0] * 4 and found["pairs"] == 1
    assert (tmp_path / "matches.png").exists()
    assert refused(capsys, "`data` must be the folder of SPair-71k", "correspondence", "x", "--output", "other.json")


def test_evaluate_inpainting(model_folder, vit, make_images, tmp_path, capsys):
    data = make_images("data", 5)
    words = ("evaluate-inpainting", data, "--model", model_folder, "--features", vit / "plain", "--steps", 3)
    assert run(*words, "--masks", "centre") == 0
    found = json.loads((tmp_path / "inpainting.json").read_text())
    assert list(found["results"]) == ["centre"] and found["results"]["centre"]["max_difference_known"] == 0
    assert np.isfinite(list(found["results"]["centre"].values())).all()
    assert refused(capsys, "`masks` must be of left, centre, strokes", *words, "--masks", "x", "--overwrite")
