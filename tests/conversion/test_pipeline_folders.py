"""From published files to a folder that transformers and diffusers load."""

import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, VQModel
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from randar_hf import RandARConfig, RandARForCausalLM, demo_checkpoint
from randar_hf.cli import main
from randar_hf.conversion import convert_checkpoint, convert_model, convert_tokenizer, published_state_dict
from randar_hf.conversion.published_files import PUBLISHED_FILES
from randar_hf.pipelines import RandARInpaintPipeline, RandARPipeline, RARPipeline


HEADS = {"num_attention_heads": 4, "grid_size": 4}


@pytest.fixture
def rar_files(published, tmp_path):
    """`rar_files()` writes a RAR model of 64 codes and 10 classes, and its tokenizer."""

    def write(name: str = "model.pt", num_codes: int = 64) -> tuple[Path, Path]:
        tensors = published("rar")
        for head in ("lm_head.weight", "lm_head.bias"):
            tensors[head] = tensors[head][:num_codes].clone()
        tensors["embeddings.weight"] = tensors["embeddings.weight"][: num_codes + 12].clone()
        torch.save(tensors, tmp_path / name)
        torch.save(published("maskgit_vq"), tmp_path / "tokenizer.pt")
        return tmp_path / name, tmp_path / "tokenizer.pt"

    return write


@pytest.fixture
def trained(make_rar, make_vqvae, class_names, tmp_path):
    """`trained()` writes the pipeline of a RAR model, as training does, and returns its folder."""

    def write(**overrides) -> Path:
        model = make_rar(**{"scan_order": "spiral_out", **overrides})
        model.generation_config.guidance_scale = 2.5
        RARPipeline(model, make_vqvae(), id2label=class_names).save_pretrained(tmp_path / "trained")
        return tmp_path / "trained"

    return write


def sample(pipe, **settings):
    pipe.set_progress_bar_config(disable=True)
    return pipe([3, 4], generator=torch.Generator().manual_seed(0), **settings).images


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("tokenizer", ["llamagen_vq", "maskgit_vq"])
@pytest.mark.parametrize("model", ["randar", "llamagen"])
def test_the_folder_loads_in_three_ways(published_files, tmp_path, model, tokenizer):
    checkpoint, tokens = published_files(model, tokenizer)
    folder = convert_checkpoint(checkpoint, tokens, tmp_path / "out", **HEADS)
    assert left_in(folder) == ["README.md", "model_index.json", "pipeline.py", "transformer", "vqvae"]

    direct = RandARPipeline(convert_model(checkpoint, **HEADS), convert_tokenizer(tokens))
    expected = sample(direct, output_type="np")
    ours = RandARPipeline.from_pretrained(folder)
    theirs = DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)
    for pipe in (ours, theirs):
        assert type(pipe) is RandARPipeline
        np.testing.assert_array_equal(sample(pipe, output_type="np"), expected)
    auto = AutoModelForCausalLM.from_pretrained(folder, subfolder="transformer")
    sampled = auto.generate([3, 4], generator=torch.Generator().manual_seed(0))
    assert torch.equal(sampled, sample(direct, output_type="latent"))


def test_a_rar_folder_loads_in_three_ways(rar_files, tmp_path):
    checkpoint, tokens = rar_files()
    folder = convert_checkpoint(checkpoint, tokens, tmp_path / "out")
    assert left_in(folder) == ["README.md", "model_index.json", "pipeline.py", "transformer", "vqvae"]
    assert "rar" in ModelCard.load(folder / "README.md").data.tags

    direct = RARPipeline(convert_model(checkpoint), convert_tokenizer(tokens))
    expected = sample(direct, output_type="np")
    theirs = DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)
    for pipe in (RARPipeline.from_pretrained(folder), theirs):
        assert type(pipe) is RARPipeline and pipe.transformer.config.grid == (4, 4)
        np.testing.assert_array_equal(sample(pipe, output_type="np"), expected)
    auto = AutoModelForCausalLM.from_pretrained(folder, subfolder="transformer")
    sampled = auto.generate([3, 4], generator=torch.Generator().manual_seed(0))
    assert torch.equal(sampled, sample(direct, output_type="latent"))


def test_a_rar_file_is_merged_and_keeps_its_origin(rar_files, tmp_path, capsys, monkeypatch):
    checkpoint, tokens = rar_files("rar_b.bin")
    plain = convert_model(checkpoint)
    published = replace(PUBLISHED_FILES["rar_b.bin"], num_parameters=plain.num_parameters())
    monkeypatch.setitem(PUBLISHED_FILES, "rar_b.bin", published)
    assert run(capsys, checkpoint, tmp_path / "out", "--tokenizer", tokens, "--merge-positions")[0] == 0
    model = RARPipeline.from_pretrained(tmp_path / "out").transformer
    assert model.config.merged_positions and model.num_parameters() < plain.num_parameters()
    labels = torch.arange(10)
    torch.testing.assert_close(
        model.log_likelihood(tokens := plain.generate(labels, do_sample=False), labels),
        plain.log_likelihood(tokens, labels),
    )
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model == "yucornetto/RAR" and "position embeddings | merged" in card.text
    assert [(result.metric_type, result.metric_value) for result in card.data.eval_results] == [("fid", 1.95)]


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_trained_pipeline_is_merged(trained, class_names, tmp_path, capsys):
    folder = trained()
    before = files_of(folder)
    assert run(capsys, folder, tmp_path / "out", "--merge-positions")[0] == 0
    assert files_of(folder) == before
    old, new = RARPipeline.from_pretrained(folder), RARPipeline.from_pretrained(tmp_path / "out")
    assert new.transformer.config.merged_positions and not old.transformer.config.merged_positions
    assert new.id2label == class_names and new.transformer.generation_config.guidance_scale == 2.5
    np.testing.assert_allclose(sample(new, output_type="np"), sample(old, output_type="np"), atol=1e-5)
    text = (tmp_path / "out" / "README.md").read_text()
    assert 'RARPipeline.from_pretrained("out")' in text and "position embeddings | merged" in text


def test_a_trained_pipeline_gets_code_and_names(trained, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    command = [trained(), tmp_path / "out", "--with-code", "--class-names", tmp_path / "names.txt"]
    assert run(capsys, *command)[0] == 0
    assert (tmp_path / "out" / "transformer" / "modeling_rar.py").exists()
    pipe = RARPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert pipe.id2label == dict(enumerate("abcde"))
    assert "trust_remote_code" in (tmp_path / "out" / "README.md").read_text()


def test_other_pipelines_stay_what_they_are(model, vqvae, tmp_path):
    vqvae.register_to_config(_pixel_range=(0.0, 1.0))
    RandARInpaintPipeline(model, vqvae).save_pretrained(tmp_path / "in")
    folder = convert_checkpoint(tmp_path / "in", None, tmp_path / "out")
    pipe = RandARInpaintPipeline.from_pretrained(folder)
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "RandARInpaintPipeline"
    assert tuple(pipe.vqvae.config["_pixel_range"]) == (0.0, 1.0)
    assert all(torch.equal(pipe.transformer.state_dict()[name], old) for name, old in model.state_dict().items())


def broken_pipeline(kind, folder, tmp_path):
    """Options for the folder of a pipeline with one thing wrong, and what the error must name."""
    if kind in ("tokenizer", "num-attention-heads", "grid-size"):
        return [f"--{kind}", 4], f"`{kind.replace('-', '_')}` must be given only for a `checkpoint` that is a file"
    if kind == "names":
        (tmp_path / "names.txt").write_text("cat\n")
        return ["--class-names", tmp_path / "names.txt"], "must hold 5 names, one for each class, got 1"
    if kind == "no pipeline":
        (folder / "model_index.json").unlink()
        return [], "has no model_index.json"
    if kind == "cut":
        weights = folder / "transformer" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
    if kind in ("foreign", "no class", "no index"):
        index = {"foreign": {"_class_name": ["mine", "Mine"]}, "no class": {}, "no index": []}[kind]
        (folder / "model_index.json").write_text(json.dumps(index))
        return [], "must be a RandARPipeline or"
    return [], "must be a pipeline that can be loaded"


@pytest.mark.parametrize(
    "kind",
    [
        "tokenizer",
        "num-attention-heads",
        "grid-size",
        "names",
        "no pipeline",
        "cut",
        "foreign",
        "no class",
        "no index",
    ],
)
def test_wrong_pipelines_are_one_line_and_leave_nothing(trained, tmp_path, capsys, kind):
    folder = trained()
    options, named = broken_pipeline(kind, folder, tmp_path)
    before = left_in(tmp_path)
    code, error = run(capsys, folder, tmp_path / "out", *options)
    assert code == 2 and named in error[0]
    assert left_in(tmp_path) == before


def unmergeable(kind, trained, published_files, tmp_path):
    """A checkpoint and options, and why its positions are not merged."""
    if kind == "a RandAR file":
        checkpoint, tokenizer = published_files()
        return (
            checkpoint,
            ["--tokenizer", tokenizer, "--num-attention-heads", 4],
            "must be given only for a RAR model",
        )
    if kind == "a RandAR pipeline":
        return demo_checkpoint(), [], "`merge_positions` must be given only for a RAR model"
    if kind == "annealing":
        return trained(random_ratio=0.2), [], "annealing has ended"
    if kind == "any order":
        return trained(scan_order="random"), [], "annealing has ended"
    convert_checkpoint(trained(), None, tmp_path / "merged", merge_positions=True)
    return tmp_path / "merged", [], "has them merged"


@pytest.mark.parametrize("kind", ["a RandAR file", "a RandAR pipeline", "annealing", "any order", "merged"])
def test_what_cannot_be_merged_leaves_the_output_as_it_was(trained, published_files, tmp_path, capsys, kind):
    checkpoint, options, reason = unmergeable(kind, trained, published_files, tmp_path)
    convert_checkpoint(demo_checkpoint(), None, tmp_path / "out")
    before, files = left_in(tmp_path), files_of(tmp_path / "out")
    command = [checkpoint, tmp_path / "out", "--merge-positions", "--overwrite", *options]
    code, error = run(capsys, *command)
    assert code == 2 and "`merge_positions`" in error[0] and reason in error[0]
    assert left_in(tmp_path) == before and files_of(tmp_path / "out") == files


def test_a_pipeline_is_not_replaced_by_itself(trained, tmp_path, capsys):
    folder = trained()
    before = files_of(folder)
    for output in (folder, folder / ".." / "trained"):
        code, error = run(capsys, folder, output, "--merge-positions", "--overwrite")
        assert code == 2 and "would be lost" in error[0]
    assert files_of(folder) == before


def test_a_folder_with_code_is_not_run(trained, tmp_path, capsys):
    convert_checkpoint(trained(), None, tmp_path / "code", with_code=True)
    code, error = run(capsys, tmp_path / "code", tmp_path / "out")
    assert code == 2 and "`checkpoint`" in error[0] and "trust_remote_code" in error[0]


def test_defaults_suit_the_checkpoint(published_files, tmp_path):
    folder = convert_checkpoint(*published_files("llamagen"), tmp_path / "raster", **HEADS)
    generation = RandARForCausalLM.from_pretrained(folder / "transformer").generation_config
    assert (generation.order, generation.num_inference_steps) == ("raster", 16)
    assert (generation.guidance_scale, generation.guidance_schedule) == (2.0, "constant")
    folder = convert_checkpoint(*published_files("randar"), tmp_path / "random", **HEADS)
    generation = RandARForCausalLM.from_pretrained(folder / "transformer").generation_config
    assert (generation.order, generation.guidance_scale, generation.guidance_schedule) == ("random", 4.0, "linear")


def test_files_with_a_published_name_tell_grid_and_results(published_files, tmp_path, monkeypatch):
    checkpoint, tokenizer = published_files("llamagen", name="c2i_L_384.pt")
    folder = convert_checkpoint(checkpoint, tokenizer, tmp_path / "other size", num_attention_heads=4)
    assert ModelCard.load(folder / "README.md").data.eval_results is None
    size = convert_model(checkpoint).num_parameters()
    monkeypatch.setitem(PUBLISHED_FILES, "c2i_L_384.pt", replace(PUBLISHED_FILES["c2i_L_384.pt"], num_parameters=size))
    folder = convert_checkpoint(checkpoint, tokenizer, tmp_path / "out", num_attention_heads=4)
    assert RandARConfig.from_pretrained(folder / "transformer").grid == (24, 24)
    data = ModelCard.load(folder / "README.md").data
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [("fid", 3.07)]
    assert data.license == "mit" and data.base_model == "FoundationVision/LlamaGen"


def test_files_of_other_names_claim_no_results(published_files, tmp_path):
    folder = convert_checkpoint(*published_files(), tmp_path / "out", **HEADS)
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results is None and card.data.license is None and "None are reported" in card.text


def test_a_thousand_classes_get_imagenets_names(published, published_files, tmp_path):
    checkpoint, tokenizer = published_files()
    tensors = torch.load(checkpoint)["model"]
    tensors["cls_embedding.embedding_table.weight"] = torch.zeros(1001, 64)
    torch.save(tensors, checkpoint)
    pipe = RandARPipeline.from_pretrained(convert_checkpoint(checkpoint, tokenizer, tmp_path / "out", **HEADS))
    assert len(pipe.id2label) == 1000 and pipe.get_label_ids(["golden retriever", "Tinca tinca"]) == [207, 0]


@pytest.mark.parametrize("suffix", ["txt", "list.json", "object.json"])
def test_names_from_a_file(published_files, tmp_path, suffix):
    names = [f"kind {i}, sort {i}" for i in range(10)]
    content = {
        "txt": "\n".join(names) + "\n",
        "list.json": json.dumps(names),
        "object.json": json.dumps({str(i): name for i, name in enumerate(names)}),
    }
    path = tmp_path / f"names.{suffix}"
    path.write_text(content[suffix])
    folder = convert_checkpoint(*published_files(), tmp_path / "out", class_names=path, **HEADS)
    pipe = RandARPipeline.from_pretrained(folder)
    assert list(pipe.id2label.values()) == names and pipe.get_label_ids("sort 7") == [7]


def run(capsys, *arguments):
    capsys.readouterr()
    try:
        code = main(["convert", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err.splitlines()[-1:]


def test_the_command(published_files, tmp_path, capsys):
    checkpoint, tokenizer = published_files()
    command = [checkpoint, tmp_path / "out", "--tokenizer", tokenizer, "--num-attention-heads", 4, "--grid-size", 4]
    assert run(capsys, *command)[0] == 0
    assert sample(RandARPipeline.from_pretrained(tmp_path / "out"))[0].size == (8, 8)


def test_an_existing_folder_is_replaced_only_if_asked(published_files, tmp_path, capsys):
    checkpoint, tokenizer = published_files()
    command = [checkpoint, tmp_path / "out", "--tokenizer", tokenizer, "--num-attention-heads", 4]
    assert run(capsys, *command)[0] == 0
    (tmp_path / "out" / "notes.txt").write_text("old")
    code, error = run(capsys, *command)
    assert code == 2 and "`output`" in error[0] and (tmp_path / "out" / "notes.txt").exists()
    assert run(capsys, *command, "--overwrite")[0] == 0
    assert left_in(tmp_path / "out") == ["README.md", "model_index.json", "pipeline.py", "transformer", "vqvae"]
    assert left_in(tmp_path) == ["model.pt", "out", "tokenizer.pt"]


def test_folders_that_hold_something_else_are_never_replaced(published_files, tmp_path, capsys):
    checkpoint, tokenizer = published_files()
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("precious")
    (home / "latest").symlink_to("nowhere")
    options = ["--tokenizer", tokenizer, "--num-attention-heads", 4, "--overwrite"]
    assert run(capsys, checkpoint, home, *options[:-1])[0] == 0  # beside what is no run's
    assert (home / "thesis.tex").read_text() == "precious" and (home / "latest").is_symlink()
    (home / "model_index.json").unlink()
    code, error = run(capsys, checkpoint, home, *options)
    assert code == 2 and "must be a folder with model_index.json to be replaced" in error[0]
    assert run(capsys, checkpoint, tmp_path / "out", *options)[0] == 0
    checkpoint.rename(tmp_path / "out" / "model.pt")
    code, error = run(capsys, tmp_path / "out" / "model.pt", tmp_path / "out", *options)
    assert code == 2 and "would be lost" in error[0] and (tmp_path / "out" / "model.pt").exists()


def broken(kind, checkpoint, tokenizer, tmp_path):
    """Arguments of the command with one thing wrong, and what the error must name."""
    options = {"checkpoint": checkpoint, "tokenizer": tokenizer, "output": tmp_path / "out"}
    extra = ["--num-attention-heads", 4]
    if kind == "missing":
        return options | {"checkpoint": tmp_path / "none.pt"}, extra, "none.pt"
    if kind == "missing tokenizer":
        return options | {"tokenizer": tmp_path / "none.pt"}, extra, "`tokenizer`"
    if kind == "cut":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
        return options, extra, "cannot be read"
    if kind == "tokenizer as model":
        return options | {"checkpoint": tokenizer}, extra, "must be a model, got LlamaGen's image tokenizer"
    if kind == "model as tokenizer":
        return options | {"tokenizer": checkpoint}, extra, "`tokenizer`"
    if kind == "another program":
        torch.save(torch.nn.Linear(2, 2).state_dict(), checkpoint)
        return options, extra, "must be a model in a published layout"
    if kind == "names":
        (tmp_path / "names.txt").write_text("cat\ndog\n")
        return (
            options,
            [*extra, "--class-names", tmp_path / "names.txt"],
            "must hold 10 names",
        )
    if kind == "no folder above":
        return options | {"output": tmp_path / "none" / "out"}, extra, "`output`"
    if kind == "no tokenizer":
        return options | {"tokenizer": None}, extra, "`tokenizer` must be given"
    if kind == "folder":
        return options | {"checkpoint": tmp_path}, extra, "has no model_index.json"
    if kind == "codes":
        tensors = torch.load(checkpoint)["model"]
        for name in ("tok_embeddings.weight", "output.weight"):
            tensors[name] = tensors[name][:60].clone()
        torch.save(tensors, checkpoint)
        return options, extra, "`vqvae` must have the transformer's 60 tokens, got one with 64"
    tensors = torch.load(checkpoint)["model"]
    torch.save(tensors | {"tok_embeddings.weight": torch.zeros(64, 60)}, checkpoint)
    return options, [], "num_attention_heads"


@pytest.mark.parametrize(
    "kind",
    ["missing", "missing tokenizer", "cut", "tokenizer as model", "model as tokenizer", "another program", "names"]
    + ["no folder above", "no tokenizer", "folder", "codes", "heads"],
)
def test_wrong_input_is_one_line_and_leaves_nothing(published_files, tmp_path, capsys, kind):
    checkpoint, tokenizer = published_files()
    options, extra, named = broken(kind, checkpoint, tokenizer, tmp_path)
    before = left_in(tmp_path)
    if options["tokenizer"] is not None:
        extra = [*extra, "--tokenizer", options["tokenizer"]]
    code, error = run(capsys, options["checkpoint"], options["output"], *extra)
    assert code == 2 and named in error[0]
    assert left_in(tmp_path) == before


def test_a_rar_model_needs_its_own_tokenizer(rar_files, tmp_path, capsys):
    checkpoint, tokenizer = rar_files(num_codes=60)
    code, error = run(capsys, checkpoint, tmp_path / "out", "--tokenizer", tokenizer)
    assert code == 2 and "`vqvae` must have the transformer's 60 tokens, got one with 64" in error[0]
    assert left_in(tmp_path) == ["model.pt", "tokenizer.pt"]


def test_what_is_no_path(published_files):
    with pytest.raises(TypeError, match="`output` must be a path, got 3"):
        convert_checkpoint(*published_files(), 3)
    with pytest.raises(TypeError, match="`checkpoint` must be a path, got None"):
        convert_checkpoint(None, None, "out")
    with pytest.raises(TypeError, match="`class_names` must be a path"):
        convert_checkpoint(*published_files(), "out", class_names=["cat"])


def test_no_space_left(published_files, tmp_path, monkeypatch, capsys):
    checkpoint, tokenizer = published_files()
    command = [checkpoint, tmp_path / "out", "--tokenizer", tokenizer, "--num-attention-heads", 4]
    assert run(capsys, *command)[0] == 0
    before = (tmp_path / "out" / "transformer" / "model.safetensors").read_bytes()

    def fill_the_disk(self, save_directory):
        (Path(save_directory).parent / "half").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(VQModel, "save_pretrained", fill_the_disk)
    code, error = run(capsys, *command, "--overwrite")
    assert code == 2 and "`output`" in error[0] and "No space left" in error[0]
    assert (tmp_path / "out" / "transformer" / "model.safetensors").read_bytes() == before
    assert left_in(tmp_path) == ["model.pt", "out", "tokenizer.pt"]


def test_a_disk_that_fills_up_while_weights_are_written(published_files, tmp_path, capsys):
    checkpoint, tokenizer = published_files()
    command = [checkpoint, tmp_path / "out", "--tokenizer", tokenizer, "--num-attention-heads", "4"]
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))  # as if the disk were full
    try:
        code, error = run(capsys, *command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and "`output` must be writable" in error[0]
    assert left_in(tmp_path) == ["model.pt", "tokenizer.pt"]


PEAK = """
import re, sys
from pathlib import Path
from randar_hf.conversion import convert_checkpoint
def peak():
    return 1024 * int(re.search("VmHWM: *([0-9]+)", Path("/proc/self/status").read_text().replace(chr(9), " "))[1])
before = peak()
convert_checkpoint(sys.argv[1], sys.argv[2], sys.argv[3])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux' /proc")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_memory_stays_below_one_and_a_half_files(published_files, tmp_path, suffix):
    _, tokenizer = published_files()
    state = published_state_dict(RandARForCausalLM(RandARConfig(vocab_size=64, num_hidden_layers=6, num_classes=10)))
    checkpoint = tmp_path / f"large.{suffix}"  # 310 MB
    save_file(state, checkpoint) if suffix == "safetensors" else torch.save({"model": state}, checkpoint)
    size = checkpoint.stat().st_size
    command = [sys.executable, "-c", PEAK, checkpoint, tokenizer, tmp_path / "out"]
    result = subprocess.run(map(str, command), capture_output=True, text=True, check=True)
    assert size < int(result.stdout.split()[-1]) <= 1.5 * size
