"""Saving a pipeline together with its code, for machines where `randar_hf` is not installed."""

import ast
import inspect
import json
import os
import re
from pathlib import Path

from diffusers import DiffusionPipeline

from randar_hf.checks import check_path

from .hub import check_no_adapter


PIPELINES = Path(__file__).parent
CORE = Path(inspect.getfile(check_path)).parent
ENTRY = '''"""A class with its code beside it: diffusers copies only the files that this one names."""

{imports}
'''


def save_with_code(pipeline: DiffusionPipeline, save_directory: str | os.PathLike):
    """
    Save a pipeline and the code it needs, so that it loads with `trust_remote_code=True` and nothing else installed.

    `DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)` loads the folder,
    `AutoModelForCausalLM.from_pretrained(folder, subfolder="transformer", trust_remote_code=True)` its model.

    Args:
        pipeline (`DiffusionPipeline`): a pipeline of this package.
        save_directory (`str`): a new or empty folder.

    Raises:
        TypeError: if `pipeline` is none of this package.
        ValueError: if the folder holds files, or the pipeline an adapter.
    """
    if not isinstance(pipeline, DiffusionPipeline) or Path(inspect.getfile(type(pipeline))).parent != PIPELINES:
        raise TypeError(f"`pipeline` must be a pipeline of randar_hf, got {type(pipeline).__name__}.")
    check_no_adapter(pipeline)
    folder = check_path("save_directory", save_directory)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"`save_directory` must be empty or new, got {str(folder)!r}, which holds files.")
    transformer, model, config = folder / "transformer", pipeline.transformer, pipeline.transformer.config
    entry = config.model_type  # the module that diffusers is to load the model from
    code = CORE / Path(inspect.getfile(type(model))).name
    transformer.mkdir(parents=True, exist_ok=True)
    # transformers looks for the code of a model in a sub-folder at the top, diffusers in the sub-folder.
    modules = [Path(inspect.getfile(type(pipeline))), code]
    _copy_code(modules, folder / "pipeline.py", f"{type(pipeline).__name__} as Pipeline")  # named as in hub.STUB
    _copy_code([code], transformer / f"{entry}.py", type(model).__name__)
    pipeline.make_card(folder.resolve().name, has_code=True).save(folder / "README.md")
    DiffusionPipeline.save_pretrained(pipeline, str(folder))
    _edit_json(folder / "model_index.json", transformer=[entry, type(model).__name__])
    parts = {"AutoConfig": config, "AutoModel": model.base_model, "AutoModelForCausalLM": model}
    classes = {name: type(part) for name, part in parts.items()}
    auto_map = {name: f"{cls.__module__.split('.')[-1]}.{cls.__name__}" for name, cls in classes.items()}
    _edit_json(transformer / "config.json", auto_map=auto_map)


def _copy_code(modules: list[Path], entry: Path, name: str):
    """Copy modules and what they need of this package beside an entry, which names all and a class of the first."""
    paths, waiting = {}, [*modules]
    while waiting:
        path = waiting.pop()
        paths[path.stem] = path
        waiting += [needed for needed in _imported_files(path) if needed.stem not in paths]
    for stem, path in paths.items():
        source = path.read_text(encoding="utf-8")
        if path.parent == PIPELINES:
            source = re.sub(r"^from randar_hf\.(\w+) import", r"from .\1 import", source, flags=re.MULTILINE)
        (entry.parent / f"{stem}.py").write_text(source, encoding="utf-8")
    others = [f"from .{stem} import __name__ as _{stem}  # noqa: F401" for stem in sorted(paths)]
    imports = "\n".join([*others, f"from .{modules[0].stem} import {name}"])
    entry.write_text(ENTRY.format(imports=imports), encoding="utf-8")


def _imported_files(path: Path) -> list[Path]:
    """The files of this package that a module imports: siblings, and from a pipeline those of the core."""
    files = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.level == 1:
                files.append(path.with_name(f"{node.module}.py"))
            elif node.module.startswith("randar_hf."):
                files.append(CORE / f"{node.module.removeprefix('randar_hf.')}.py")
    return files


def _edit_json(path: Path, **changes):
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
