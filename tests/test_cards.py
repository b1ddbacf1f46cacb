"""Cards of models on the Hub."""

import pytest
import transformers.utils.hub as hub_utils
from huggingface_hub import HfApi, ModelCard, RepoUrl

from randar_hf.cards import Origin, make_card
from randar_hf.configuration_generation import RandARGenerationConfig


ORIGIN = Origin(
    name="RandAR-S",
    repository="someone/RandAR",
    source="https://example.org/RandAR",
    license="mit",
    dataset="imagenet-1k",
    guidance_scale=3.4,
    fid=2.65,
    limits="Measured once.",
    inception_score=249,
)


@pytest.fixture
def pushed(monkeypatch):
    """Files of what is pushed, by name; nothing leaves the machine."""
    files = {}

    def create_commit(self, repo_id, operations, **kwargs):
        for operation in operations:
            with operation.as_file() as file:
                files[operation.path_in_repo] = file.read()

    def no_card(*args, **kwargs):
        raise hub_utils.EntryNotFoundError("no card")

    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, repo_id, **kwargs: RepoUrl(f"https://huggingface.co/{repo_id}")
    )
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    monkeypatch.setattr(hub_utils.ModelCard, "load", no_card)
    return files


def test_a_pushed_model_carries_card_and_defaults(model, pushed):
    model.generation_config.guidance_scale = 2.5
    model.push_to_hub("someone/tench")
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors"} <= set(pushed)
    card = pushed["README.md"].decode()
    assert "library_name: transformers" in card and 'from_pretrained("someone/tench")' in card
    assert "guidance of 2.5" in card and "automatically generated" not in card
    assert b'"guidance_scale": 2.5' in pushed["generation_config.json"]


def test_a_pushed_model_without_a_head_carries_a_card(model, pushed):
    model.model.push_to_hub("someone/features")
    assert "A RandAR model" in pushed["README.md"].decode()


def test_a_repository_keeps_its_card(model, pushed, monkeypatch):
    monkeypatch.setattr(hub_utils.ModelCard, "load", lambda *args, **kwargs: ModelCard("---\nlicense: mit\n---\nkept"))
    model.push_to_hub("someone/tench")
    assert "kept" in pushed["README.md"].decode()


def test_published_figures_name_their_source(model):
    card = make_card("mine", model.config, RandARGenerationConfig(), 100, pixels=(16, 16), origin=ORIGIN)
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["fid"].metric_value == 2.65 and results["inception_score"].metric_value == 249
    assert {result.source_url for result in results.values()} == {ORIGIN.source}
    assert "| 3.4 | 2.65 | 249 |" in card.text and "Measured once." in card.text and card.data.license == "mit"


@pytest.mark.parametrize("pixels", [None, (16, 16)])
@pytest.mark.parametrize("has_code", [False, True])
def test_examples_on_cards_are_python(model, pixels, has_code):
    card = make_card("mine", model.config, RandARGenerationConfig(), 100, pixels=pixels, has_code=has_code)
    blocks = card.text.split("```python\n")[1:]
    for block in blocks:
        compile(block.split("```")[0], "card", "exec")
    assert len(blocks) == (3 if pixels else 1) and "{" not in card.text.split("## Citation")[0]
