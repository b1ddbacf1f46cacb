"""Pushing what was trained to the Hub; nothing leaves the machine."""

from pathlib import Path

import diffusers.pipelines.pipeline_utils as pipeline_utils
import diffusers.utils.hub_utils as diffusers_hub
import pytest
import transformers.utils.hub as transformers_hub
from huggingface_hub import HfApi, ModelCard, RepoUrl, constants
from huggingface_hub.errors import EntryNotFoundError, LocalTokenNotFoundError

from randar_hf import RandARForCausalLM
from randar_hf.cards import make_card
from randar_hf.configuration_generation import RandARGenerationConfig
from randar_hf.training import TrainingConfig, train
from randar_hf.training.trainer import Trainer


@pytest.fixture
def hub(monkeypatch):
    """What the Hub is asked for: `hub["calls"]` in turn, and `hub["files"]` that are uploaded, by name."""
    asked = {"calls": [], "files": {}}

    def create_repo(*args, **kwargs):
        repo_id = next(arg for arg in (*args, kwargs.get("repo_id")) if isinstance(arg, str))
        asked["calls"].append(f"create {repo_id}")
        return RepoUrl(f"https://huggingface.co/{repo_id if '/' in repo_id else 'me/' + repo_id}")

    def auth_check(self, repo_id, write):
        asked["calls"].append(f"write {repo_id}" if write else f"read {repo_id}")

    def create_commit(self, repo_id, operations, **kwargs):
        asked["calls"].append(f"commit {repo_id}")
        for operation in operations:
            with operation.as_file() as file:
                asked["files"][operation.path_in_repo] = file.read()

    def upload_folder(repo_id, folder_path, **kwargs):
        asked["calls"].append(f"upload {repo_id}")
        paths = [path for path in Path(folder_path).rglob("*") if path.is_file()]
        asked["files"].update({str(path.relative_to(folder_path)): path.read_bytes() for path in paths})

    def no_card(*args, **kwargs):
        raise EntryNotFoundError("no card")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "auth_check", auth_check)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    for module in (diffusers_hub, pipeline_utils):
        monkeypatch.setattr(module, "create_repo", create_repo)
    monkeypatch.setattr(diffusers_hub, "upload_folder", upload_folder)
    for module in (diffusers_hub, transformers_hub):
        monkeypatch.setattr(module.ModelCard, "load", no_card)
    return asked


@pytest.fixture
def settings(training_settings):
    return {**training_settings, "push_to_hub": "someone/stripes"}


def test_the_pipeline_is_pushed_at_the_end(settings, tokenizer_folder, hub, monkeypatch):
    save_model = Trainer.save_model
    monkeypatch.setattr(Trainer, "save_model", lambda self: hub["calls"].append("trained") or save_model(self))
    folder = train(TrainingConfig(**settings, tokenizer=str(tokenizer_folder), validation_split="validation"))
    assert hub["calls"][:3] == ["create someone/stripes", "write someone/stripes", "trained"]
    assert hub["calls"][-1] == "upload someone/stripes"
    pushed, saved = hub["files"], folder / "pipeline"
    names = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    assert names == set(pushed)
    assert all(pushed[name] == (saved / name).read_bytes() for name in names if name.endswith(".safetensors"))
    card = pushed["README.md"].decode()
    assert 'RandARPipeline.from_pretrained("someone/stripes")' in card and "# stripes" in card
    results = (saved / "README.md").read_text().partition("## Results\n")[2]
    assert "Validation loss of " in results and "6 of 6 training steps, each over 4 images" in results
    assert results in card and results.partition("## Limits")[0] in (folder / "README.md").read_text()


def test_the_model_alone_is_pushed_without_a_tokenizer(settings, hub):
    folder = train(TrainingConfig(**settings, ema_decay=0.9))
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors"} == set(hub["files"])
    assert hub["files"]["model.safetensors"] == (folder / "model.safetensors").read_bytes()  # the average
    card = hub["files"]["README.md"].decode()
    assert 'from_pretrained("someone/stripes")' in card and "6 training steps, not validated." in card


def test_a_name_without_an_owner_is_that_of_a_user(settings, hub):
    train(TrainingConfig(**{**settings, "push_to_hub": "stripes"}))
    assert hub["calls"][:2] == ["create stripes", "write me/stripes"] and hub["files"]


@pytest.mark.parametrize("name", ["", "a/b/c"])
def test_a_name_that_is_none_is_refused_before_any_work(settings, name):
    with pytest.raises(ValueError, match=f"`push_to_hub` must be a repository on the Hub .*, got '{name}'"):
        train(TrainingConfig(**{**settings, "push_to_hub": name}))
    assert not Path(settings["output_dir"]).exists()


def fail(error: Exception):
    def raise_error(*args, **kwargs):
        raise error

    return raise_error


@pytest.mark.parametrize("step", ["create_repo", "auth_check"])
def test_a_repository_that_cannot_be_written_to_is_refused_before_any_work(settings, hub, monkeypatch, step):
    monkeypatch.setattr(HfApi, step, fail(LocalTokenNotFoundError("Token is required,\nbut no token was found")))
    with pytest.raises(ValueError, match="`push_to_hub` must .*, got 'someone/stripes': .*Error: Token is required"):
        train(TrainingConfig(**settings))
    assert not Path(settings["output_dir"]).exists() and not hub["files"]


def test_a_hub_that_is_out_of_reach_is_named(settings, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="`push_to_hub` must be .*, got 'someone/stripes': .*OfflineModeIsEnabled"):
        train(TrainingConfig(**settings))
    assert not Path(settings["output_dir"]).exists()


def test_nothing_is_lost_when_pushing_fails_and_it_can_be_tried_again(settings, hub, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(HfApi, "create_commit", fail(ConnectionError("the cable is cut")))
        message = (
            "`push_to_hub` must be a repository that takes the model, got 'someone/stripes', which did not "
            ".*the cable is cut.* lies in '.*run': give the same command with `--resume latest` to try again"
            ".*checkpoint-6"
        )
        with pytest.raises(ValueError, match=message):
            train(TrainingConfig(**settings))
    folder = Path(settings["output_dir"])
    assert RandARForCausalLM.from_pretrained(folder) and not hub["files"]
    before = (folder / "model.safetensors").read_bytes()
    train(TrainingConfig(**{**settings, "push_to_hub": "someone/else"}, resume="latest"))
    assert hub["files"]["model.safetensors"] == before and hub["calls"][-1] == "commit someone/else"


def test_a_merged_model_is_pushed_of_a_run_with_adapters(settings, make_model, hub, tmp_path):
    model = make_model(vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    model.save_pretrained(tmp_path / "pretrained")
    folder = train(TrainingConfig(**settings, pretrained_model=str(tmp_path / "pretrained"), lora_rank=2))
    assert hub["files"]["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert not any("adapter" in name for name in hub["files"])
    assert "base_model" not in hub["files"]["README.md"].decode()  # a folder is none on the Hub


def test_the_card_names_the_model_on_the_hub_that_was_tuned(model, tmp_path, monkeypatch):
    def base_of(name: str) -> str | None:
        model.config.name_or_path = name
        card: ModelCard = make_card("mine", model.config, RandARGenerationConfig(), 100)
        return card.data.base_model

    monkeypatch.chdir(tmp_path)
    Path("runs", "tuned").mkdir(parents=True)
    assert base_of("someone/stripes") == "someone/stripes"
    assert [base_of(name) for name in ("", "runs/tuned", "./tuned", "/tmp/x", "../x/y", "a/b/c")] == [None] * 6
