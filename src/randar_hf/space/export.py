"""The app as a folder that is a Space of the Hub."""

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

import randar_hf
from randar_hf import pipelines
from randar_hf.checks import check_path
from randar_hf.outputs import check_output_folder, files_of_runs

from .app import draw_examples
from .studio import Studio


APP = '''"""The app of this Space."""

try:
    import spaces  # lends a GPU to each run on ZeroGPU; has to come before torch
except ModuleNotFoundError:
    pass

from pathlib import Path

from randar_hf.images import open_image
from randar_hf.pipelines import {pipeline}
from randar_hf.space import build_app, find_device, launch_app


here = Path(__file__).parent
pipe = {pipeline}.from_pretrained({model}).to(find_device())
examples = [open_image(path) for path in sorted((here / "examples").glob("*.png"))]

if __name__ == "__main__":
    launch_app(build_app(pipe, {source}, examples))
'''
README = """---
title: "{title}"
emoji: 🖼️
colorFrom: indigo
colorTo: pink
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
license: apache-2.0
short_description: Images that appear token by token{models}
---

# {title}

Generate, edit, extend, enlarge and understand images with [{family}]({paper}),
in the browser, as an API and as MCP tools. It runs on a CPU and on ZeroGPU.

The code lies in `randar_hf`, {weights}.
Start it on your own machine with `pip install -r requirements.txt` and `python app.py`.
"""
PAPERS = {
    "randar": ("RandAR", "https://arxiv.org/abs/2412.01827"),
    "rar": ("RAR", "https://arxiv.org/abs/2411.00776"),
}
REQUIREMENTS = (
    "accelerate",
    "diffusers",
    "gradio",
    "huggingface_hub",
    "mcp",
    "numpy",
    "pillow",
    "psutil",
    "safetensors",
    "torch",
    "transformers",
)
FILES = ("app.py", "README.md", "requirements.txt", "LICENSE", "model", "examples", "randar_hf")
COMMANDS = {"cli", "evaluation", "checkpoints", "__pycache__"}  # of the package, what the app does not need


def check_export(folder: str | Path) -> Path:
    """A folder to write a Space into; raises a `ValueError` for one that holds a run or a Space."""
    folder = check_path("folder", folder)
    check_output_folder("folder", folder)
    if found := files_of_runs(folder, *FILES, broken=True):
        raise ValueError(f"`folder` must be a new one, got {str(folder)!r} with {', '.join(p.name for p in found)}.")
    return folder


def export_space(pipe: Any, folder: str | Path, source: str | None = None) -> Path:
    """
    Write a folder that is a Space of the Hub, for CPU and ZeroGPU, and runs anywhere else by `python app.py`.

    Args:
        pipe ([`~randar_hf.pipelines.RandARPipeline`] or [`~randar_hf.pipelines.RARPipeline`]): its model.
        folder (`str`): a new folder, or one that holds no run and no Space.
        source (`str`, *optional*): name of the model on the Hub, from where the Space loads it; a folder or `None`
            (the shipped model) is copied along.

    Returns:
        `pathlib.Path`: the folder.

    Raises:
        ValueError: for a folder that holds one, or cannot be written.
    """
    folder = check_export(folder)
    (folder / "examples").mkdir(parents=True)
    on_hub = source is not None and not Path(source).exists()
    if not on_hub:
        pipe.save_pretrained(folder / "model")
    for index, example in enumerate(draw_examples(Studio(pipe))):
        example.save(folder / "examples" / f"{index}.png")
    _copy_code(folder / "randar_hf")
    family, paper = PAPERS[pipe.transformer.config.model_type]
    texts = {
        "app.py": APP.format(
            pipeline=type(pipe).__name__,
            model=repr(source) if on_hub else 'str(here / "model")',
            source=repr(source and (source if on_hub else "model")),
        ),
        "README.md": README.format(
            title=f"{family}: images token by token",
            gradio=metadata.version("gradio"),
            models=f"\nmodels:\n  - {source}" if on_hub else "",
            family=family,
            paper=paper,
            weights="the weights come from the Hub" if on_hub else "the weights in `model`",
        ),
        "requirements.txt": "".join(f"{name}=={metadata.version(name).partition('+')[0]}\n" for name in REQUIREMENTS),
        "LICENSE": _license(),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def push_space(folder: str | Path, repo_id: str) -> str:
    """
    Upload the folder of a Space.

    Args:
        folder (`str`): from [`export_space`].
        repo_id (`str`): of the Space, which is made if it does not exist.

    Returns:
        `str`: its address.
    """
    api = HfApi()
    url = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", exist_ok=True)
    api.upload_folder(
        folder_path=folder,
        repo_id=url.repo_id,
        repo_type="space",
        commit_message="Upload the app and its model",
        allow_patterns=[*FILES, *(f"{name}/*" for name in FILES)],
    )
    return str(url)


def _copy_code(folder: Path):
    """The package as it is installed, without commands, training and shipped models."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyi")
    for path in Path(randar_hf.__file__).parent.iterdir():
        if path.is_dir() and path.name not in COMMANDS | {"training", "conversion"}:
            shutil.copytree(path, folder / path.name, ignore=ignore)
        elif path.suffix == ".py":
            folder.mkdir(exist_ok=True)
            shutil.copy(path, folder)
    shutil.copytree(Path(pipelines.__file__).parent, folder / "pipelines", ignore=ignore, dirs_exist_ok=True)


def _license() -> str:
    """The text of the licence, as it was installed."""
    return next(
        file.read_text(encoding="utf-8") for file in metadata.files("randar-hf") or [] if file.name == "LICENSE"
    )
