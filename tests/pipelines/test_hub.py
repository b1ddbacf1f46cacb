"""What a pipeline's folder and repository hold beside weights."""

from pathlib import Path

import diffusers.pipelines.pipeline_utils as pipeline_utils
import diffusers.utils.hub_utils as hub_utils
import pytest
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard, RepoUrl

from randar_hf import demo_checkpoint
from randar_hf.pipelines import RandARInpaintPipeline, RandARPipeline


@pytest.fixture
def pipe(model, vqvae, class_names):
    return RandARPipeline(transformer=model, vqvae=vqvae, id2label=class_names)


@pytest.fixture
def uploaded(monkeypatch):
    """Files of what is pushed, by name, as the Hub would get them; nothing leaves the machine."""
    files = {}

    def upload_folder(repo_id, folder_path, **kwargs):
        folder = Path(folder_path)
        files.update(
            {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        )

    def no_card(*args, **kwargs):
        raise hub_utils.EntryNotFoundError("no card")

    for module in (hub_utils, pipeline_utils):
        monkeypatch.setattr(
            module, "create_repo", lambda repo_id, **kwargs: RepoUrl(f"https://huggingface.co/{repo_id}")
        )
    monkeypatch.setattr(hub_utils, "upload_folder", upload_folder)
    monkeypatch.setattr(hub_utils.ModelCard, "load", no_card)
    return files


def test_saving_adds_card_and_stub(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "mine")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert card.data.library_name == "diffusers" and "randar" in card.data.tags
    assert 'from_pretrained("mine")' in card.text and "pipe('tench')" in card.text and "16 x 16 pixels" in card.text
    again = DiffusionPipeline.from_pretrained(tmp_path / "mine", custom_pipeline="pipeline", trust_remote_code=True)
    assert type(again) is RandARPipeline


def test_card_and_stub_of_a_rar_model_name_its_pipeline(rar_pipe, tmp_path):
    rar_pipe.save_pretrained(tmp_path / "mine")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert 'RARPipeline.from_pretrained("mine")' in card.text and "RandARPipeline" not in card.text
    assert "2411.00776" in card.text and "16 x 16 pixels" in card.text


def test_one_process_loads_folders_of_many_pipelines_through_the_base_class(pipe, rar_pipe, tmp_path):
    for saved, name in ((pipe, "randar"), (rar_pipe, "rar"), (RandARInpaintPipeline.from_pipe(pipe), "inpaint")):
        saved.save_pretrained(tmp_path / name)
        again = DiffusionPipeline.from_pretrained(tmp_path / name, custom_pipeline="pipeline", trust_remote_code=True)
        assert type(again) is type(saved)


def test_saving_keeps_what_lies_there(pipe, tmp_path):
    for name in ("README.md", "pipeline.py"):
        (tmp_path / name).write_text("# mine\n")
    pipe.save_pretrained(tmp_path)
    assert {(tmp_path / name).read_text() for name in ("README.md", "pipeline.py")} == {"# mine\n"}


def test_pushing_carries_card_stub_and_defaults(pipe, uploaded):
    pipe.transformer.generation_config.guidance_scale = 2.5
    pipe.push_to_hub("someone/tench")
    assert {"README.md", "pipeline.py", "model_index.json", "transformer/generation_config.json"} <= set(uploaded)
    card = uploaded["README.md"].decode()
    assert 'RandARPipeline.from_pretrained("someone/tench")' in card and "guidance of 2.5" in card
    assert "automatically generated" not in card
    assert b'"guidance_scale": 2.5' in uploaded["transformer/generation_config.json"]
    assert b"from randar_hf.pipelines import RandARPipeline" in uploaded["pipeline.py"]


def test_saving_and_pushing_at_once(pipe, uploaded, tmp_path):
    pipe.save_pretrained(tmp_path / "tench", push_to_hub=True, repo_id="someone/tench")
    assert b"A RandAR model" in uploaded["README.md"] and "pipeline.py" in uploaded


def test_a_repository_keeps_its_card(pipe, uploaded, monkeypatch):
    monkeypatch.setattr(hub_utils.ModelCard, "load", lambda *args, **kwargs: ModelCard("---\nlicense: mit\n---\nkept"))
    pipe.push_to_hub("someone/tench")
    assert "kept" in uploaded["README.md"].decode()


def test_a_loaded_pipeline_takes_its_card_along(tmp_path):
    RandARPipeline.from_pretrained(demo_checkpoint()).save_pretrained(tmp_path)
    text = (Path(demo_checkpoint()) / "README.md").read_text().split("---", 2)[2]
    assert (tmp_path / "README.md").read_text().split("---", 2)[2].strip() == text.strip()


def test_the_working_folder_lends_no_card(pipe, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nsomething else")
    monkeypatch.chdir(tmp_path)
    assert "something else" not in pipe.make_card("mine").text


def test_a_card_that_goes_along_names_the_new_place(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "mine")
    text = RandARPipeline.from_pretrained(tmp_path / "mine").make_card("someone/tench").text
    assert 'from_pretrained("someone/tench")' in text and 'from_pretrained("mine")' not in text


@pytest.mark.parametrize("name", ["pipeline.py", "README.md", "model_index.json", "vqvae", "transformer/config.json"])
@pytest.mark.parametrize("there", [False, True])
def test_no_link_is_written_through(pipe, tmp_path, name, there):
    victim, link = tmp_path / "victim", tmp_path / "out" / name
    if there:
        victim.write_text("kept")
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with pytest.raises(ValueError, match=f"`save_directory` must hold no links, .*{name}"):
        pipe.save_pretrained(tmp_path / "out")
    assert victim.read_text() == "kept" if there else not victim.exists()
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == sorted(Path(name).parts)
