"""Cards of models on the Hub."""

import re
from pathlib import Path

import pytest
import transformers.utils.hub as hub_utils
from huggingface_hub import HfApi, ModelCard, RepoUrl

import randar_hf
from randar_hf import RandARConfig, RARConfig
from randar_hf.cards import Origin, make_card
from randar_hf.configuration_generation import RandARGenerationConfig
from randar_hf.conversion.published_files import PUBLISHED_FILES
from randar_hf.pipelines import RandARPipeline


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
    card = pushed["README.md"].decode()
    assert "A RandAR model" in card and "pipeline_tag: image-feature-extraction" in card
    assert 'AutoModel.from_pretrained("someone/features")' in card and "model.extract_features(tokens)" in card
    assert "generate" not in card.split("## Limits")[0] and "RandARPipeline" not in card


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


def card_of(config, **settings):
    return make_card("mine", config, RandARGenerationConfig.from_model_config(config), 100, **settings)


@pytest.mark.parametrize(
    ("config", "tag", "pipeline", "arxiv"),
    [
        (RandARConfig(), "randar", "RandARPipeline", "2412.01827"),
        (RandARConfig(position_instruction="none"), "llamagen", "RandARPipeline", "2406.06525"),
        (RARConfig(), "rar", "RARPipeline", "2411.00776"),
    ],
)
@pytest.mark.parametrize("pixels", [None, (16, 16)])
def test_each_family_has_its_paper_and_its_pipeline(config, tag, pipeline, arxiv, pixels):
    card = card_of(config, pixels=pixels)
    assert card.data.tags[0] == tag
    assert f"model (arXiv {arxiv})" in card.text and f"journal={{arXiv preprint arXiv:{arxiv}}}" in card.text
    assert {pipeline} == set(re.findall(r"\b(?!Diffusion)\w+Pipeline\b", card.text))


def test_details_of_rar():
    text = card_of(RARConfig()).text
    assert "| order at the end of training | raster |" in text and "position instruction" not in text
    assert "| position embeddings | of tokens and of targets |" in text
    assert "power_cosine guidance of 15.5 with the power 2.5, temperature 1.02 |" in text
    assert "merged" in card_of(RARConfig(merged_positions=True)).text
    assert (
        "| spiral_in, a fraction of 0.125 permuted |"
        in card_of(RARConfig(scan_order="spiral_in", random_ratio=0.125)).text
    )
    text = card_of(RandARConfig()).text
    assert "| position instruction | rope |" in text and "linear guidance of 4.0 |" in text


def test_a_published_rar_names_figures_licence_and_limits():
    origin = PUBLISHED_FILES["rar_l.bin"].origin
    card = card_of(RARConfig(), pixels=(256, 256), origin=origin)
    assert card.data.license == "apache-2.0" and card.data.base_model == "yucornetto/RAR"
    assert "| 15.5 | 1.7 | [authors' README]" in card.text and "issue 50" in card.text


def test_a_stored_window_stands_where_steps_would(model):
    card = make_card("mine", model.config, RandARGenerationConfig(speculative_window=16), 100, pixels=(16, 16))
    assert "order random, lossless decoding with a window of 16, linear guidance of 4.0 |" in card.text


def test_a_pushed_rar_carries_its_card(make_rar, pushed):
    make_rar().push_to_hub("someone/tench")
    assert "A RAR model" in pushed["README.md"].decode()
    assert b'"guidance_power": 0.0' in pushed["generation_config.json"]


@pytest.mark.parametrize("config", [RandARConfig(), RARConfig(merged_positions=True)])
@pytest.mark.parametrize("pixels", [None, (16, 16)])
@pytest.mark.parametrize("has_code", [False, True])
def test_examples_on_cards_are_python(config, pixels, has_code):
    card = card_of(config, pixels=pixels, has_code=has_code)
    blocks = card.text.split("```python\n")[1:]
    for block in blocks:
        compile(block.split("```")[0], "card", "exec")
    assert len(blocks) == (3 if pixels else 1) and "{" not in card.text.split("## Citation")[0]


def test_the_snippets_of_a_card_run(model, vqvae, class_names, tmp_path):
    """All three ways to load, as the card of a saved pipeline writes them, with its folder for a repository."""
    RandARPipeline(model, vqvae, id2label=class_names).save_pretrained(tmp_path / "mine")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert card.data.widget == [{"text": "tench"}, {"text": "great white shark"}, {"text": "crane"}]
    blocks = card.text.split("```python\n")[1:]
    assert len(blocks) == 3
    found = [{} for _ in blocks]
    for block, names in zip(blocks, found):
        exec(block.split("```")[0].replace('"mine"', repr(str(tmp_path / "mine"))), names)
    assert [names["image"].size for names in found[:2]] == [(16, 16)] * 2 and found[2]["tokens"].shape == (1, 16)


@pytest.mark.parametrize("folder", randar_hf.DEMO_FOLDERS.values())
def test_the_snippets_of_the_shipped_cards_run(folder):
    text = (Path(randar_hf.__file__).parent / "checkpoints" / folder / "README.md").read_text()
    blocks = text.split("```python\n")[1:]
    assert len(blocks) == 3
    for block in blocks:
        exec(block.split("```")[0], {})
