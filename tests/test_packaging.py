import ast
import importlib.util
import inspect
import re
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import randar_hf


ROOT = Path(__file__).parents[1]
CORE = ROOT / "src" / "randar_hf"
FOLDERS = {
    "pipelines": ROOT / "pipelines",
    "training": ROOT / "training",
    "conversion": ROOT / "conversion",
    "evaluation": CORE / "evaluation",
    "space": CORE / "space",
    "cli": CORE / "cli",
}
MAY_IMPORT = {
    "pipelines": set(),
    "training": {"pipelines", "evaluation"},
    "conversion": {"pipelines"},
    "evaluation": {"pipelines"},
    "space": {"pipelines"},
    "cli": {"pipelines", "training", "conversion", "evaluation", "space"},
}
MODEL_MODULES = ("configuration_*.py", "modeling_*.py", "generation*.py")
MAX_CHECKPOINT_BYTES = 12 * 10**6


def relative_name(path, folder):
    return ".".join(path.relative_to(folder).with_suffix("").parts)


def import_nodes(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported_names(path, package):
    """Absolute names of all that a module of `package` imports, also inside functions and for type checkers."""
    names = set()
    for node in import_nodes(path):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
            continue
        base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*base, *([node.module] if node.module else [])])
        names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def imported_folders(path, package):
    """The folders of all that a module imports, or takes from `randar_hf` itself, which brings pipelines by name."""
    taken = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    names = [name.split(".") for name in imported_names(path, package) | taken]
    names = [name[1] for name in names if name[0] == "randar_hf" and len(name) > 1]
    return {"pipelines" if name in randar_hf.PIPELINES else name for name in names} & FOLDERS.keys()


def core_modules():
    rooms = {"evaluation", "space", "cli", "__main__"}  # the last is `python -m randar_hf`, the command line
    return [path for path in CORE.rglob("*.py") if relative_name(path, CORE).split(".")[0] not in rooms]


def model_modules():
    """The files of the models and all siblings they import, directly or not."""
    found, waiting = set(), {path for pattern in MODEL_MODULES for path in CORE.glob(pattern)}
    while waiting:
        path = waiting.pop()
        found.add(path)
        names = [name.split(".") for name in imported_names(path, "randar_hf")]
        siblings = {CORE / f"{name[1]}.py" for name in names if name[0] == "randar_hf" and len(name) > 1}
        waiting |= {sibling for sibling in siblings if sibling.exists()} - found
    return sorted(found)


@pytest.mark.parametrize("path", core_modules(), ids=lambda path: relative_name(path, CORE))
def test_core_imports_none_of_the_folders(path):
    package = ".".join(["randar_hf", *path.relative_to(CORE).parts[:-1]])
    assert not imported_folders(path, package)


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_folders_do_not_import_each_other(folder):
    for path in FOLDERS[folder].rglob("*.py"):
        package = ".".join(["randar_hf", folder, *path.relative_to(FOLDERS[folder]).parts[:-1]])
        assert imported_folders(path, package) <= MAY_IMPORT[folder] | {folder}, path


def test_modules_are_imported_by_statements_alone():
    """So that the tests above see all; two packages import their public names at the first use, none from above."""
    lazy = {CORE / "__init__.py", FOLDERS["training"] / "__init__.py"}
    by_text = set()
    for path in {path for folder in (CORE, *FOLDERS.values()) for path in folder.rglob("*.py")}:
        names = {name for name in imported_names(path, "") if re.match(r"importlib(?!\.metadata)|runpy|pkgutil", name)}
        names |= {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        if any(re.match(r"importlib|runpy|pkgutil|__import__$|exec$|eval$", name) for name in names):
            by_text.add(path)
    assert by_text == lazy
    found = re.findall(r"import_module\((.*?)\)", (CORE / "__init__.py").read_text())
    assert [name for name in FOLDERS if any(name in text for text in found)] == ["pipelines"]
    assert not FOLDERS.keys() & {*randar_hf.HOMES.values(), *randar_hf.MODULES}


def test_the_imports_of_the_core_are_those_that_are_told():
    """Beside what Python brings; the row of CONTRIBUTING lists them."""
    row = next(line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if "| `randar_hf` |" in line)
    found = {name.split(".")[0] for path in core_modules() for name in imported_names(path, "randar_hf")}
    told = set(re.findall(r"\w+", row.split("|")[3].split(";")[0])) - {"and", "for", "types"}
    assert found - sys.stdlib_module_names - {"randar_hf"} == told


@pytest.mark.parametrize("path", model_modules(), ids=lambda path: path.stem)
def test_model_modules_import_siblings_by_name(path):
    """Model files saved next to a checkpoint load there only if they import as `from .sibling import name`."""
    for node in import_nodes(path):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "randar_hf" for alias in node.names), ast.unparse(node)
        elif node.level:
            assert node.level == 1 and node.module, ast.unparse(node)
        else:
            assert node.module.split(".")[0] != "randar_hf", ast.unparse(node)


def test_folders_import_by_their_installed_name_only(monkeypatch):
    assert not FOLDERS.keys() & sys.modules.keys()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path).resolve() != ROOT])
    for name in FOLDERS:
        assert importlib.util.find_spec(f"randar_hf.{name}") is not None
        assert importlib.util.find_spec(name) is None


def test_the_command_is_installed():
    commands = metadata.entry_points(group="console_scripts", name="randar-hf")
    assert [command.value for command in commands] == ["randar_hf.cli:main"]


def test_shipped_checkpoints_are_small():
    folder = CORE / "checkpoints"
    assert {path.name for path in folder.iterdir()} == set(randar_hf.DEMO_FOLDERS.values())
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MAX_CHECKPOINT_BYTES


@pytest.mark.parametrize("package", ["randar_hf", *(f"randar_hf.{name}" for name in FOLDERS if name != "cli")])
def test_public_names_are_typed(package):
    """`py.typed` is a promise to type checkers: every argument of what is public says what it takes."""
    assert (CORE / "py.typed").exists()
    module = importlib.import_module(package)
    public = [getattr(module, name) for name in module.__all__]
    functions = [thing for thing in public if inspect.isfunction(thing)]
    for thing in filter(inspect.isclass, public):
        methods = [vars(part) for part in thing.__mro__ if part.__module__.startswith("randar_hf")]
        functions += [
            method for names in methods for name, method in names.items() if inspect.isfunction(method)
            and (name == "__call__" or not name.startswith("_"))
        ]  # fmt: skip
    assert functions
    for function in functions:
        parameters = list(inspect.signature(function).parameters.values())
        bare = [each.name for each in parameters if each.annotation is each.empty and each.name not in ("self", "cls")]
        bare = [name for name in bare if name not in ("args", "kwargs", "settings")]
        assert not bare, f"{function.__module__}.{function.__qualname__}: {bare}"


@pytest.fixture
def package(monkeypatch):
    """What `setup.py` tells setuptools."""
    told = {}
    monkeypatch.setattr("setuptools.setup", told.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return told


def test_links_of_the_readme_work_on_a_package_index(package):
    """They lead to the repository, whose address the site's settings and the project's addresses share."""
    text, readme = package["long_description"], (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all(re.match(r"https://|#", link) for link in links)
    assert len(links) == len(re.findall(r"\]\(", readme))
    home = package["url"]
    paths = [re.sub(r"#.*", "", link).removeprefix(f"{home}/").split("/", 2) for link in links if home in link]
    assert paths and all(
        part[:2] in (["blob", "main"], ["raw", "main"]) and (ROOT / part[2]).exists() for part in paths
    )
    figures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert figures and all(figure.startswith(f"{home}/raw/main/") for figure in figures)
    assert package["project_urls"].keys() == {"Documentation", "Changelog", "Issues"}
    assert f"repository: {home}\n" in (ROOT / "mkdocs.yml").read_text()


def test_importing_registers_the_models_and_costs_no_more_than_one_of_transformers():
    """
    `import randar_hf` loads what the import of a model class of transformers loads, and little beside it.

    Both are timed in one process, one after the other: what the second adds is what it costs more.
    """
    script = (
        "import sys, time\n"
        "start = time.process_time()\n"
        "from transformers import LlamaForCausalLM\n"
        "theirs, before = time.process_time() - start, set(sys.modules)\n"
        "start = time.process_time()\n"
        "import randar_hf\n"
        "ours = time.process_time() - start\n"
        "assert ours < 0.2 * theirs, (ours, theirs)\n"
        "added = {name for name in set(sys.modules) - before if not name.startswith(('randar_hf', '__editable__'))}\n"
        "assert len(added) < 10, added\n"
        "assert not {'diffusers', 'datasets', 'gradio', 'accelerate.accelerator'} & added, added\n"
        "from transformers import AutoConfig, AutoModel, AutoModelForCausalLM\n"
        "import torch\n"
        "with torch.device('meta'):\n"
        "    for kind in ('randar', 'rar'):\n"
        "        for auto in (AutoModel, AutoModelForCausalLM):\n"
        "            auto.from_config(AutoConfig.for_model(kind, num_hidden_layers=1))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
