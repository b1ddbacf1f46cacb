"""Options of commands: a setting and its help are written once, as a field of a class or as a type."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, Literal, get_type_hints

import typer


Label = Annotated[str, typer.Argument(help="class name or id", show_default=False)]
Labels = Annotated[list[str], typer.Argument(help="class names or ids", show_default=False)]
ImageFile = Annotated[str, typer.Argument(help="image file", show_default=False)]
NumImages = Annotated[int, typer.Option(help="images for each label")]
Output = Annotated[str, typer.Option(help="image to write: .png, .jpg or .webp")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what exists")]
Dtype = Literal["float32", "bfloat16", "float16"]
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


@dataclass(kw_only=True)
class SheetOptions:
    """Where the images are written, and how they are shown."""

    output: str = setting("image to write: .png, .jpg or .webp", SHEET, default="images.png")
    overwrite: bool = setting("replace what exists", SHEET, default=False)
    scale: int = setting("times that each pixel is shown larger", SHEET, default=1)
    captions: bool = setting("write the label below each image", SHEET, default=False)


@dataclass(kw_only=True)
class FilmOptions(SheetOptions):
    """The same, and how the images appear."""

    animate: str | None = setting("GIF of the images as they appear, step by step, in a loop", SHEET)


@dataclass(kw_only=True)
class PipelineOptions:
    """Which model samples where."""

    model: str | None = setting("folder or Hub name of a pipeline", PIPELINE, shown="the shipped one")
    seed: int = setting("seed of the first image; each following image counts one up", PIPELINE, default=0)
    dtype: Dtype = setting("type of the weights", PIPELINE, default="float32")
    device: str = setting("a torch device", PIPELINE, default="cpu")


def from_fields(function: Callable) -> Callable:
    """A command that takes an option for each field of those parameters that are settings classes."""
    signature = inspect.signature(function)
    classes = {name: each.annotation for name, each in signature.parameters.items() if is_dataclass(each.annotation)}

    @wraps(function)
    def command(**values):
        for name, settings_class in classes.items():
            given = {each.name: values.pop(each.name) for each in fields(settings_class)}
            values[name] = settings_class(**{name: value for name, value in given.items() if value is not None})
        return function(**values)

    parameters = [each for name, each in signature.parameters.items() if name not in classes]
    parameters += [each for settings_class in classes.values() for each in option_parameters(settings_class)]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    command.__signature__ = signature.replace(parameters=parameters)
    return command


def option_parameters(settings_class: type) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters of a command, `None` where nothing is given."""
    types = get_type_hints(settings_class)
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[types[each.name] | None, _option(each)],
        )
        for each in fields(settings_class)
    ]


def _option(setting: Field) -> typer.models.OptionInfo:
    option = setting.metadata.get("option") or (f"--{setting.name}" if setting.type is bool else None)
    names = [option] if option else []
    default = setting.default if setting.default is not MISSING else None
    shown = setting.metadata.get("shown") or (False if default is None else str(default))
    return typer.Option(
        *names, help=setting.metadata["help"], show_default=shown, rich_help_panel=setting.metadata.get("panel")
    )
