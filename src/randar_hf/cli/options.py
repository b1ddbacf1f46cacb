"""Options of commands: a setting and its help are written once, as a field of a class or as a type."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, Literal, get_type_hints

import typer

from .recipes import recipe_option


Label = Annotated[str, typer.Argument(help="class name or id", show_default=False)]
SomeLabels = Annotated[
    list[str] | None,
    typer.Argument(help="class names or ids; may be left out for a model of one class", show_default=False),
]
Labels = Annotated[list[str], typer.Argument(help="class names or ids", show_default=False)]
ImageFile = Annotated[str, typer.Argument(help="image file", show_default=False)]
NumImages = Annotated[int, typer.Option(help="images for each label")]
Output = Annotated[str, typer.Option(help="image to write: .png, .jpg or .webp")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what exists")]
Dtype = Literal["float32", "bfloat16", "float16"]
# Of the commands that several processes may run.
Device = Annotated[str | None, typer.Option(help="a torch device", show_default="what accelerate finds")]
Model = Annotated[str | None, typer.Option(help="folder or Hub name of a pipeline", show_default="the shipped one")]
OutputDir = Annotated[str, typer.Option(help="folder to write, or that of the run to go on with", show_default=False)]
SAMPLING, SHEET, PIPELINE = "Sampling", "Output", "Model and machine"


def setting(help: str, panel: str, default: Any = None, shown: str | None = None, option: str | None = None):
    """A field of a settings class, with the default to show and the option's name where they are not the field's."""
    return field(default=default, metadata={"help": help, "panel": panel, "shown": shown, "option": option})


@dataclass(kw_only=True)
class SamplingOptions:
    """How tokens are sampled; what is not given is stored with the model."""

    num_inference_steps: int | None = setting(
        "decoding steps, up to one per token", SAMPLING, shown="the model's", option="--steps"
    )
    speculative_window: int | None = setting(
        "lossless: tokens guessed at a time; the tokens of one step each, in fewer passes", SAMPLING, shown="off"
    )
    guidance_scale: float | None = setting("1 turns guidance off", SAMPLING, shown="the model's")
    guidance_schedule: str | None = setting("linear, constant or power_cosine", SAMPLING, shown="the model's")
    guidance_power: float | None = setting("exponent of power_cosine, at least 0", SAMPLING, shown="the model's")
    temperature: float | None = setting("divides the logits, above 0", SAMPLING, shown="the model's")
    top_k: int | None = setting("only the k likeliest tokens; 0 for all", SAMPLING, shown="the model's")
    top_p: float | None = setting("only the likeliest tokens of this probability", SAMPLING, shown="the model's")
    order: str | None = setting("name of a decoding order", SAMPLING, shown="the model's")

    def given(self) -> dict[str, Any]:
        """The settings that were given, by the name of the pipelines' argument."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(kw_only=True)
class RandAROptions(SamplingOptions):
    """What only random order can do is sampled with more."""

    spatial_guidance_scale: float | None = setting(
        "spatial contextual guidance; 1 turns it off", SAMPLING, shown="1; extrapolate: 2.5"
    )
    spatial_dropout: float | None = setting(
        "fraction of the tokens that its second sequence drops", SAMPLING, shown="0.25"
    )
    refine: int | None = setting("rounds in which unlikely tokens are sampled again", SAMPLING, shown="0")
    refine_share: float | None = setting("fraction of the tokens that a round samples again", SAMPLING, shown="0.1")
    compile: bool = setting("compile the passes of decoding: minutes at first, for many images", SAMPLING, False)

    def given(self) -> dict[str, Any]:
        """The settings that were given, by the name of the pipelines' argument."""
        given = super().given()
        if not given.pop("compile"):
            return given
        from transformers import CompileConfig

        return given | {"compile_config": CompileConfig(fullgraph=True)}


@dataclass(kw_only=True)
class SheetOptions:
    """Where the images are written, and how they are shown."""

    output: str = setting("image to write: .png, .jpg or .webp", SHEET, default="images.png")
    overwrite: bool = setting("replace what exists", SHEET, default=False)
    transparent: bool = setting(
        "black ink on nothing, of grey images: their level is the alpha; .png or .webp", SHEET, default=False
    )
    scale: int = setting("times as large, smoothly", SHEET, default=1)
    captions: bool = setting("write the label below each image", SHEET, default=False)


@dataclass(kw_only=True)
class FilmOptions(SheetOptions):
    """The same, and how the images appear."""

    animate: str | None = setting("GIF of the images as they appear, step by step, in a loop", SHEET)


@dataclass(kw_only=True)
class PipelineOptions:
    """Which model samples where."""

    model: str | None = setting("folder or Hub name of a pipeline", PIPELINE, shown="the shipped one")
    seed: int = setting("seed of all that is random; images after the first count one up", PIPELINE, default=0)
    dtype: Dtype = setting("type of the weights", PIPELINE, default="float32")
    device: str = setting("a torch device", PIPELINE, default="cpu")


def from_fields(function: Callable) -> Callable:
    """A command that takes an option for each field of those parameters that are settings classes."""
    signature = inspect.signature(function)
    annotations: dict[str, Any] = {name: each.annotation for name, each in signature.parameters.items()}
    classes = {name: each for name, each in annotations.items() if isinstance(each, type) and is_dataclass(each)}

    @wraps(function)
    def command(**values):
        for name, settings_class in classes.items():
            values[name] = settings_class(**{each.name: values.pop(each.name) for each in fields(settings_class)})
        return function(**values)

    parameters = [each for name, each in signature.parameters.items() if name not in classes]
    option = recipe_option if "recipe" in signature.parameters else _option
    parameters += [each for each_class in classes.values() for each in option_parameters(each_class, option)]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    vars(command)["__signature__"] = signature.replace(parameters=parameters)
    return command


def option_parameters(settings_class: type, option: Callable) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters of a command, annotated by `option(field, type)`."""
    types, parameters = get_type_hints(settings_class), []
    for each in fields(settings_class):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        default = inspect.Parameter.empty if default is MISSING else default
        annotation = option(each, types[each.name])
        parameters.append(
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return parameters


def _option(setting: Field, kind: type) -> Any:
    about = setting.metadata
    name = about["option"] or (f"--{setting.name}" if kind is bool else None)  # a switch has no opposite
    shown = about["shown"] or setting.default is not None
    names = [name] if name else []
    return Annotated[
        kind, typer.Option(*names, help=about["help"], show_default=shown, rich_help_panel=about["panel"])
    ]
