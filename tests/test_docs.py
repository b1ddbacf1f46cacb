"""The documentation: its Python runs, its commands parse, its options are complete, its links lead somewhere."""

import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import save_file
from transformers import HfArgumentParser
from typer.main import get_command

from randar_hf import cli
from randar_hf.conversion.published_files import PUBLISHED_FILES
from randar_hf.training.icons.claims import ClaimsConfig
from randar_hf.training.icons.classifier import ClassifierConfig
from randar_hf.training.icons.data import IconDataConfig
from randar_hf.training.icons.evaluation import IconEvaluationConfig
from randar_hf.training.icons.recipe import IconRecipeConfig
from randar_hf.training.icons.zero_shot import ZeroShotConfig
from randar_hf.training.recipe_files import COMMANDS


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROGRAM = get_command(cli.app).commands
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
SHARED_OPTIONS = "Options of "  # how the sections begin to which those of commands link
OUTPUTS = {"generate": "--output", "sample": "--output-dir", "tokenize": "--output-dir"}
MODULES = {
    "randar_hf.training.icons.claims": ClaimsConfig,
    "randar_hf.training.icons.classifier": ClassifierConfig,
    "randar_hf.training.icons.data": IconDataConfig,
    "randar_hf.training.icons.evaluation": IconEvaluationConfig,
    "randar_hf.training.icons.recipe": IconRecipeConfig,
    "randar_hf.training.icons.zero_shot": ZeroShotConfig,
}


def code_blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(lines before it, code) of each block of a language."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start(1)), block[1]) for block in found]


def shell_lines() -> list[tuple[str, str]]:
    """(page, command) of each command in a shell block."""
    blocks = [(page.name, code) for page in PAGES for _, code in code_blocks(page, "bash")]
    return [(name, line) for name, code in blocks for line in code.replace("\\\n", " ").splitlines() if line.strip()]


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if code_blocks(page, language)]


# Where commands come between the blocks, both are run: by `test_own_images.py`, and below for the README.
RUN_BY_BLOCKS = [page for page in pages_with("python") if page.name not in ("own-images.md", "README.md")]


@pytest.fixture
def fresh_accelerate():
    """Forget what a page has set for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize("page", RUN_BY_BLOCKS, ids=lambda page: page.stem)
def test_python_runs(page, tmp_path, monkeypatch, fresh_accelerate):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for lines_before, code in code_blocks(page, "python"):
        exec(compile("\n" * lines_before + code, str(page), "exec"), namespace)


@pytest.mark.parametrize(("page", "line"), shell_lines())
def test_commands_parse(page, line, tmp_path, monkeypatch, settings_from):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)
    if "-m" in words:  # python -m module, accelerate launch -m module
        module, *words = words[words.index("-m") + 1 :]
        if module in MODULES:
            HfArgumentParser(MODULES[module]).parse_args_into_dataclasses(words)
            return
        assert module == "randar_hf"
    elif words and words[0] == "randar-hf":
        words = words[1:]
    else:
        return
    command, *words = words
    if command in COMMANDS:
        for word in words:
            if word.endswith(".yaml"):  # a recipe of one's own
                Path(word).parent.mkdir(exist_ok=True)
                Path(word).write_text(f"about: A recipe.\n{command}: {{dataset: tokens}}\n")
        assert isinstance(settings_from([command, *words]), COMMANDS[command])
    else:
        PROGRAM[command].make_context(command, words)


def test_the_commands_of_the_readme_run_one_after_another(tmp_path, monkeypatch, fresh_accelerate, hasty):
    """As pasted into an empty folder, Python and commands in turn; less work of the same kind, a blank demo."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("randar_hf.cli.demo_sheet.draw_demo", lambda seed: Image.new("RGB", (8, 8)))  # test_demo.py
    namespace, text = {"__name__": "__main__"}, (ROOT / "README.md").read_text()
    for language, code in re.findall(r"^```(python|bash)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(code, namespace)
            continue
        for program, *words in (shlex.split(line, comments=True) for line in code.splitlines()):
            if program == "python":
                exec(words[1], {})
            elif program == "randar-hf":
                less = {"bench": ["--runs", "1"]}.get(words[0], [])
                assert cli.main([{"100": "4", "20": "6"}.get(word, word) for word in words] + less) == 0, words
            else:
                assert program == "make"


@pytest.fixture
def downloads(published, tmp_path, monkeypatch):
    """A folder with what the page for the published repositories names: small files of 1,000 classes, and images."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "randar_0.3b_llamagen_360k_bs_1024_lr_0.0004.safetensors",
        "randar_0.3b_maskgit_360k_bs_1024_lr_0.0004.safetensors",
        "c2i_L_384.pt",
    ):
        tensors = published("randar" if name.startswith("randar") else "llamagen")
        tensors["cls_embedding.embedding_table.weight"] = torch.zeros(1001, 64)
        for codes in ("tok_embeddings.weight", "output.weight"):
            tensors[codes] = tensors[codes][:64].clone()
        save_file(tensors, name) if name.endswith(".safetensors") else torch.save({"model": tensors}, name)
    tensors = published("rar")
    tensors["embeddings.weight"] = torch.zeros(64 + 1002, 64)
    for head in ("lm_head.weight", "lm_head.bias"):
        tensors[head] = tensors[head][:64].clone()
    torch.save(tensors, "rar_l.bin")
    torch.save({"model": published("llamagen_vq")}, "vq_ds16_c2i.pt")
    torch.save(published("maskgit_vq"), "maskgit-vqgan-imagenet-f16-256.bin")
    for wordnet_id in ("n01440764", "n01443537"):
        folder = Path("imagenet", "train", wordnet_id)
        folder.mkdir(parents=True)
        Image.new("RGB", (300, 260), "green").save(folder / "1.jpg")
    with tarfile.open("imagenet-llamagen-adm-256_codes.tar", "w") as archive:
        for class_id in range(1000):
            file = Path("0.npy")
            np.save(file, np.full((2, 256), class_id % 7))
            archive.add(file, f"codes/{class_id}/0.npy")


def test_the_commands_for_published_files_run(downloads, fresh_accelerate):
    """Each `randar-hf` command of the page in turn, with one label and four samples; training is only parsed."""
    lines = [line for page, line in shell_lines() if page == "from-the-published-code.md"]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("randar-hf ")]
    assert {words[0] for words in commands} == {"convert", "generate", "sample", "tokenize"}
    for words in commands:
        words = [{"50000": "4"}.get(word, word) for word in words]
        if words[0] == "generate":
            del words[2 : words.index("--model")]
        output = Path(words[2] if words[0] == "convert" else words[words.index(OUTPUTS[words[0]]) + 1])
        assert not output.exists()
        assert cli.main(words) == 0, words
        assert output.exists()


def test_the_page_of_the_command_line_lists_every_option():
    page = (DOCS / "command-line.md").read_text()
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    listed = {}
    for title, section in sections.items():
        rows = "".join(line for line in section.splitlines() if line.startswith("|"))
        listed[title] = set(re.findall(r"`(--[\w-]+)`", rows))
    shared = {title: listed.pop(title) for title in sections if title.startswith(SHARED_OPTIONS)}
    assert set(listed) == set(PROGRAM)
    for name, command in PROGRAM.items():
        options = {option for each in command.params for option in each.opts if option.startswith("--")}
        for title, others in shared.items():
            if f"(#{title.lower().replace(' ', '-')})" in sections[name]:
                assert not others & listed[name], name
                listed[name] |= others
        assert listed[name] == options - {"--help"}, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in headings(linked), target


def test_every_published_model_has_its_row_and_its_command():
    page = (DOCS / "published-models.md").read_text()
    commands = [shlex.split(line)[2] for name, line in shell_lines() if name == "published-models.md"]
    assert commands == list(PUBLISHED_FILES)
    for name, published in PUBLISHED_FILES.items():
        origin, row = published.origin, next(line for line in page.splitlines() if f"| `{name}` |" in line)
        assert f"| `{origin.repository}` |" in row and f"{origin.fid:.2f} at {origin.guidance_scale:g}" in row


def test_the_index_lists_every_page():
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "index.md").read_text()))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"index.md"}
