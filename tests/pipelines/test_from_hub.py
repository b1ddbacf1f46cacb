"""Repositories on a Hub give what their folders give, through every entry point, with the real client."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import AutoPipelineForInpainting, AutoPipelineForText2Image, DiffusionPipeline
from small_hub import SmallHub

from randar_hf import RandARForCausalLM
from randar_hf.pipelines import RandARInpaintPipeline, RandARPipeline, RARPipeline, save_with_code


SETTINGS = {"num_inference_steps": 5, "guidance_scale": 2.5, "order": "spiral_in"}  # none is a default
WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["randar_hf"] = None  # as if it were not installed
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM
def tokens(*arguments, **options):
    pipe = DiffusionPipeline.from_pretrained(
        *arguments, custom_pipeline="pipeline", trust_remote_code=True, **options
    )
    return pipe("tench", output_type="latent", generator=torch.Generator().manual_seed(0)).images.tolist()
found = {"card": tokens(snapshot_download("someone/code"))}
if sys.argv[1] == "online":
    found["repository"] = tokens("someone/code", cache_dir="fresh")
    found["tagged"] = tokens("someone/code", revision="v1")
model = AutoModelForCausalLM.from_pretrained("someone/code", subfolder="transformer", trust_remote_code=True)
found["model"] = model.generate([0], generator=torch.Generator().manual_seed(0)).tolist()
print(json.dumps(found))
"""


@pytest.fixture
def hub():
    hub = SmallHub()
    yield hub
    hub.close()


@pytest.fixture
def pipe(model, vqvae, class_names):
    for name, value in SETTINGS.items():
        setattr(model.generation_config, name, value)
    pipe = RandARPipeline(transformer=model, vqvae=vqvae, id2label=class_names)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def client(hub, tmp_path, monkeypatch):
    """The client of this process, with an empty cache and that Hub alone."""
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)
    return hub


@pytest.fixture
def repository(tmp_path):
    """A name that no other test has used: the client remembers commits."""
    return f"someone/{tmp_path.name}"


def sample(pipe) -> torch.LongTensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe("tench", output_type="latent", generator=torch.Generator().manual_seed(0)).images


@pytest.mark.parametrize("entry_point", [RandARPipeline, DiffusionPipeline, AutoPipelineForText2Image])
def test_a_repository_gives_the_images_of_its_folder(client, repository, pipe, tmp_path, entry_point):
    pipe.save_pretrained(tmp_path / "tench")
    client.publish(tmp_path / "tench", repository)
    loaded = entry_point.from_pretrained(repository)
    assert type(loaded) is RandARPipeline and torch.equal(sample(loaded), sample(pipe))
    assert SETTINGS.items() <= loaded.transformer.generation_config.to_diff_dict().items()


def test_a_rar_repository_gives_the_images_of_its_folder(client, repository, rar_pipe, tmp_path):
    rar_pipe.transformer.generation_config.guidance_scale = 2.5
    rar_pipe.save_pretrained(tmp_path / "tench")
    client.publish(tmp_path / "tench", repository)
    for entry_point in (RARPipeline, DiffusionPipeline):
        loaded = entry_point.from_pretrained(repository)
        assert type(loaded) is RARPipeline and torch.equal(sample(loaded), sample(rar_pipe))


def test_what_inpaints_is_found_from_a_repository_and_from_a_pipeline(client, repository, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "tench")
    client.publish(tmp_path / "tench", repository)
    for loaded in (
        AutoPipelineForInpainting.from_pretrained(repository),
        AutoPipelineForInpainting.from_pipe(pipe),
    ):
        assert type(loaded) is RandARInpaintPipeline
        assert SETTINGS.items() <= loaded.transformer.generation_config.to_diff_dict().items()


def test_a_revision_has_its_own_settings(client, repository, pipe, tmp_path):
    for steps, revision in ((3, "v1"), (5, "main")):
        pipe.transformer.generation_config.num_inference_steps = steps
        pipe.save_pretrained(tmp_path / revision)
        client.publish(tmp_path / revision, repository, revision)
    for steps, revision in ((3, "v1"), (5, "main")):
        loaded = DiffusionPipeline.from_pretrained(repository, revision=revision)
        model = RandARForCausalLM.from_pretrained(repository, subfolder="transformer", revision=revision)
        assert loaded.transformer.generation_config.num_inference_steps == steps
        assert model.generation_config.num_inference_steps == steps


def test_a_repository_without_settings_has_the_defaults_of_its_model(client, repository, model, tmp_path):
    model.save_pretrained(tmp_path / "tench")
    (tmp_path / "tench" / "generation_config.json").unlink()
    client.publish(tmp_path / "tench", repository)
    for name in (repository, tmp_path / "tench"):
        loaded = RandARForCausalLM.from_pretrained(name)
        assert loaded.generation_config.num_inference_steps == model.config.generation_defaults["num_inference_steps"]


def test_settings_that_break_off_are_no_absent_ones(client, repository, pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's tries
    pipe.save_pretrained(tmp_path / "tench")
    client.publish(tmp_path / "tench", repository)
    client.broken = ("generation_config.json",)
    for load in (lambda: RandARPipeline.from_pretrained(repository), lambda: load_model(repository)):
        with pytest.raises(Exception, match="(?i)peer closed connection|incomplete|consistency"):
            load()
    client.broken = ()
    assert load_model(repository).generation_config.num_inference_steps == 5


def test_settings_that_cannot_be_looked_for_are_no_absent_ones(client, repository, pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path / "tench")
    client.publish(tmp_path / "tench", repository)
    load_model(repository)
    (setting,) = (tmp_path / "cache").rglob("generation_config.json")
    setting.unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="`generation_config.json` of 'someone/.*' is neither in the cache nor"):
        load_model(repository)


def test_settings_that_are_no_json_are_no_absent_ones(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(OSError, match="generation_config.json"):
        RandARForCausalLM.from_pretrained(tmp_path)


def test_a_model_without_a_name_has_the_defaults_of_its_configuration(model):
    loaded = RandARForCausalLM.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert loaded.generation_config.num_inference_steps == 16


def load_model(name: str) -> RandARForCausalLM:
    return RandARForCausalLM.from_pretrained(name, subfolder="transformer")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipe", "rar_pipe"])
def test_a_repository_with_code_needs_no_package(hub, kind, request, tmp_path):
    pipe = request.getfixturevalue(kind)
    save_with_code(pipe, tmp_path / "code")
    for revision in ("v1", "main"):
        hub.publish(tmp_path / "code", "someone/code", revision)
    expected = sample(pipe).tolist()
    online = run_without_the_package(hub, tmp_path, "online")
    assert online == dict.fromkeys(("card", "repository", "tagged", "model"), expected)
    hub.requests.clear()
    offline = run_without_the_package(hub, tmp_path, "offline", HF_HUB_OFFLINE="1")
    assert offline == dict.fromkeys(("card", "model"), expected) and not hub.requests


def run_without_the_package(hub: SmallHub, folder: Path, mode: str, **variables: str) -> dict[str, list]:
    """What a fresh process prints, whose Hub is the given one and whose cache lies in the folder."""
    environment = os.environ | {"HF_HOME": str(folder / "cache"), "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, mode]
    result = subprocess.run(command, capture_output=True, text=True, env=environment | variables, cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])
