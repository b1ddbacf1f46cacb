"""What `mkdocs.yml` adds to the pages of docs/: the groups of `index.md`, the API of each package, and its source."""

import atexit
import re
import tempfile
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files


ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("pipelines", "training", "conversion")
PACKAGES = (
    "randar_hf",
    "randar_hf.pipelines",
    "randar_hf.training",
    "randar_hf.conversion",
    "randar_hf.evaluation",
    "randar_hf.space",
    "randar_hf.orders",
    "randar_hf.schedules",
    "randar_hf.vq",
)


# `name, name (type): text` and the lines of the same text, which are indented further
GROUP = r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+)(?P<rest>(?: \(.+?\))?: .*(?:\n(?P=indent) +.*)*)"


def public_objects(package: str) -> dict[str, Any]:
    """What a package makes public by name, but for what belongs to another of `PACKAGES`."""
    module = import_module(package)
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    objects = {name: getattr(module, name) for name in names}
    return {
        name: value
        for name, value in objects.items()
        if not isinstance(value, ModuleType) and home(getattr(value, "__module__", "")) == package
    }


def home(module: str) -> str | None:
    """The innermost of `PACKAGES` that holds a module."""
    return max((name for name in PACKAGES if f"{module}.".startswith(f"{name}.")), key=len, default=None)


OBJECTS = {package: public_objects(package) for package in PACKAGES}
PATHS = {
    name: f"{value.__module__}.{value.__qualname__}" for objects in OBJECTS.values() for name, value in objects.items()
}


def modules() -> set[str]:
    """The modules that define public names, or what these inherit."""
    objects = [value for objects in OBJECTS.values() for value in objects.values()]
    found = {part.__module__ for value in objects for part in getattr(value, "__mro__", [value])}
    return {module for module in found if home(module)}


def source_file(module: str) -> Path:
    """The file of a module in this checkout."""
    parts = module.split(".")[1:]
    path = (ROOT if parts and parts[0] in FOLDERS else ROOT / "src" / "randar_hf").joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def installed_tree() -> str:
    """A folder in which all packages lie as they are installed, for griffe, which reads files and imports nothing."""
    tree = tempfile.TemporaryDirectory()
    atexit.register(tree.cleanup)
    package = Path(tree.name, "randar_hf")
    package.mkdir()
    for path in [*(ROOT / "src" / "randar_hf").iterdir(), *(ROOT / folder for folder in FOLDERS)]:
        (package / path.name).symlink_to(path)
    return tree.name


@event_priority(100)  # before mkdocstrings reads its settings
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the navigation from `index.md`: a section per heading, a page per link."""
    index = Path(config.docs_dir, "index.md").read_text(encoding="utf-8")
    config.nav = [{"Documentation": "index.md"}]
    for title, section in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", index, re.MULTILINE | re.DOTALL):
        pages = [
            {name[0].upper() + name[1:]: page} for name, page in re.findall(r"\[([^\]]+)\]\(([\w-]+\.md)\)", section)
        ]
        config.nav.append({title: pages})
    config.nav[-1]["Reference"].append({"API": [{package: f"api/{package}.md"} for package in PACKAGES]})
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [installed_tree()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page per package of the API, and one per module with its source code."""
    for package, objects in OBJECTS.items():
        blocks = [
            f"::: {PATHS[name]}\n    options: {{heading: {name}, toc_label: {name}}}\n" for name in sorted(objects)
        ]
        content = f"# {package}\n\n{import_module(package).__doc__}\n\n" + "\n".join(blocks)
        files.append(File.generated(config, f"api/{package}.md", content=content))
    for module in sorted(modules()):
        code = source_file(module).read_text(encoding="utf-8")
        content = f'---\nsearch: {{exclude: true}}\n---\n# {module}\n\n``````python linenums="1"\n{code}\n``````\n'
        files.append(File.generated(config, f"source/{module}.md", content=content))
    return files


def on_page_markdown(markdown: str, config: MkDocsConfig, **kwargs: Any) -> str:
    """Lead links to files outside `docs/` to the repository."""
    return re.sub(r"\]\(\.\./([^)]+)\)", rf"]({config.extra['repository']}/blob/main/\1)", markdown)


class Docstrings(griffe.Extension):
    """Docstrings in the style of transformers, with links to the source; fields that are arguments as a signature."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Give a configuration or a named tuple, whose fields are its arguments, the signature that it has."""
        if not any(str(base).endswith(("PreTrainedConfig", "NamedTuple")) for base in cls.bases):
            return
        fields = [field for field in cls.attributes.values() if field.annotation and not field.has_labels("property")]
        parameters = griffe.Parameters(
            *[
                griffe.Parameter(
                    field.name,
                    annotation=field.annotation,
                    kind=griffe.ParameterKind.positional_or_keyword,
                    default=field.value,
                )
                for field in fields
                if not str(field.annotation).startswith("ClassVar")
            ]
        )
        if len(parameters) and "__init__" not in cls.members:
            cls.set_member("__init__", griffe.Function("__init__", parameters=parameters))

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Write a docstring in mkdocstrings' words."""
        if obj.docstring is None or obj.is_module or obj.lineno is None:
            return
        text = re.sub(r"\[`~?([\w.]+)`\](?!\[|\()", self.link, obj.docstring.value)
        text = re.sub(GROUP, self.one_line_each, text, flags=re.MULTILINE)
        # The signature tells the type; what more the docstring says of it, shapes above all, begins the description.
        text = re.sub(r"^( +\w+) \(`[^`]+`(?:, \*optional\*)?\): ", r"\1: ", text, flags=re.MULTILINE)
        text = re.sub(r"^( +\w+) \((.+?)(?:, \*optional\*)?\): ", r"\1: \2. ", text, flags=re.MULTILINE)
        source = f"../../source/{obj.module.path}/#__codelineno-0-{obj.lineno}"
        obj.docstring.value = f'{text}\n\n<a href="{source}">Source: {obj.module.path}, line {obj.lineno}</a>'

    @staticmethod
    def one_line_each(match: re.Match) -> str:
        """A line for each of the arguments that are told together."""
        return "\n".join(f"{match['indent']}{name}{match['rest']}" for name in match["names"].split(", "))

    @staticmethod
    def link(match: re.Match) -> str:
        """A link to a public name or a member of one; other names stay code."""
        name, _, member = match[1].removeprefix("randar_hf.").partition(".")
        path = f"{PATHS[name]}.{member}".rstrip(".") if name in PATHS else match[1]
        return f'<autoref optional identifier="{path}"><code>{match[1]}</code></autoref>'
