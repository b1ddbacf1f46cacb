"""The folder of a Space: what it holds, that it runs alone, how it is pushed."""

import os
import socket
import subprocess
import sys
import time
from fnmatch import fnmatch
from importlib import metadata

import numpy as np
import pytest
from gradio_client import Client
from huggingface_hub import HfApi, RepoCard, RepoUrl
from PIL import Image

from randar_hf.pipelines import RandARPipeline
from randar_hf.space import export_space, push_space


@pytest.fixture(scope="module")
def exported(app_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    app_pipe.save_pretrained(folder / "mine")
    return export_space(app_pipe, folder / "space", source=str(folder / "mine"))


def test_the_folder_is_a_space(exported):
    card = RepoCard.load(exported / "README.md")
    assert card.data.sdk == "gradio" and card.data.sdk_version == metadata.version("gradio")
    assert (exported / card.data.app_file).is_file() and card.data.license == "apache-2.0"
    pins = dict(line.split("==") for line in (exported / "requirements.txt").read_text().splitlines())
    assert pins["gradio"] == card.data.sdk_version and "+" not in pins["torch"]
    assert all(metadata.version(name).startswith(version) for name, version in pins.items())
    assert len(list((exported / "examples").glob("*.png"))) == 4
    assert "Apache License" in (exported / "LICENSE").read_text()
    assert type(RandARPipeline.from_pretrained(str(exported / "model"))) is RandARPipeline
    assert not (exported / "randar_hf" / "checkpoints").exists() and not list(exported.rglob("__pycache__"))


def test_it_runs_alone(exported, app_pipe, images_of, tmp_path):
    """By its own code and model, from another folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "log"
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(exported)!r}); import randar_hf; "
        f"print(randar_hf.__file__, flush=True); runpy.run_path({str(exported / 'app.py')!r}, run_name='__main__')"
    )
    with open(log, "w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(port, process, log)
        client = Client(f"http://127.0.0.1:{port}/", verbose=False)
        assert str(exported / "randar_hf" / "__init__.py") in log.read_text()
        images = client.predict([1], 1, 3, 2.0, "raster", 4, 0, api_name="/generate")[3]
    finally:
        process.terminate()
        process.wait()
    expected = images_of(app_pipe, [1], [3], guidance_scale=2.0, order="raster", num_inference_steps=4)[0]
    assert np.array_equal(np.asarray(Image.open(images[0]["image"])), np.asarray(expected))


def _wait_for(port, process, log):
    for _ in range(600):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_a_model_of_the_hub_is_loaded_from_there(pipe, tmp_path):
    folder = export_space(pipe, tmp_path / "space", source="someone/their-model")
    assert not (folder / "model").exists()
    assert 'RandARPipeline.from_pretrained("someone/their-model")' in (folder / "app.py").read_text().replace("'", '"')
    assert RepoCard.load(folder / "README.md").data.models == ["someone/their-model"]


def test_a_rar_model_is_exported_with_its_pipeline(rar_pipe, tmp_path):
    folder = export_space(rar_pipe, tmp_path / "space")
    assert "RARPipeline.from_pretrained" in (folder / "app.py").read_text()
    assert "2411.00776" in (folder / "README.md").read_text()


def test_nothing_is_overwritten(pipe, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "app.py").write_text("keep")
    (tmp_path / "file").write_text("keep")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "README.md").symlink_to(tmp_path / "nothing")
    for name in ("full", "file", "linked"):
        with pytest.raises(ValueError, match="`folder` must be a"):
            export_space(pipe, tmp_path / name)
    assert not (tmp_path / "nothing").exists()
    assert (tmp_path / "full" / "app.py").read_text() == (tmp_path / "file").read_text() == "keep"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["app.py"]


def test_pushing_uploads_the_folder_as_a_space(exported, monkeypatch):
    asked = []

    def create_repo(self, repo_id, **kwargs):
        asked.append((repo_id, kwargs))
        return RepoUrl(f"https://huggingface.co/spaces/me/{repo_id}")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **kwargs: asked.append(kwargs))
    assert push_space(exported, "icons") == "https://huggingface.co/spaces/me/icons"
    (repo_id, created), uploaded = asked
    assert repo_id == "icons" and created == {"repo_type": "space", "space_sdk": "gradio", "exist_ok": True}
    assert uploaded["repo_id"] == "me/icons" and uploaded["repo_type"] == "space"
    assert uploaded["folder_path"] == exported
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    patterns = uploaded["allow_patterns"]
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in names)
    assert not any(fnmatch("notes.txt", pattern) for pattern in patterns)
