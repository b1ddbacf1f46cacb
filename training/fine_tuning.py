"""Fine-tuning: what a pretrained model decides, and its weights in a model of other classes."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError
from transformers import AutoConfig

from randar_hf import RandARConfig, RandARForCausalLM, RARConfig, RARForCausalLM
from randar_hf.checks import is_path
from randar_hf.configuration_generation import RandARGenerationConfig
from randar_hf.pipelines.labels import find_label_id

from .data.reading import MissingDataError
from .failures import first_line
from .training_config import MODEL_FIELDS, MODEL_TYPES, TrainingConfig, model_class


# Fields that shape the weights; the other ones of `MODEL_FIELDS` are dropouts.
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "position_instruction")
# The embedding that holds the classes in its last rows, the null class in the very last; RAR's holds its codes before.
CLASS_TABLES = {"randar": "embed_classes", "rar": "embed_tokens"}


@dataclass(frozen=True)
class PretrainedModel:
    """What a pretrained model is, without its weights.

    Args:
        name: its folder or Hub name.
        subfolder: where it lies in there: `"transformer"` in a pipeline.
        config: its configuration.
        generation_config: its defaults of generation.
        id2label: its class names.
    """

    name: str
    subfolder: str
    config: RandARConfig | RARConfig
    generation_config: RandARGenerationConfig
    id2label: dict[int, str]


def read_pretrained(name: str) -> PretrainedModel:
    """Read the configuration of a pretrained model.

    Args:
        name: folder or Hub name of a model, or of a pipeline, whose transformer is meant.

    Raises:
        MissingDataError: (a `FileNotFoundError` and a `ValueError`) there is no such model.
        ValueError: it is none of RandAR or RAR.
    """
    if is_path(name) and not Path(name).is_dir():
        raise MissingDataError(f"`pretrained_model` must be a folder, found none at {name!r}")
    index = _pipeline_index(name)
    subfolder = "transformer" if index else ""
    try:
        config = AutoConfig.from_pretrained(name, subfolder=subfolder)
    except OSError as error:
        raise MissingDataError(f"`pretrained_model` must be a model, found none in {name!r}: {error}") from error
    except ValueError as error:
        raise ValueError(
            f"`pretrained_model` must be RandAR or RAR, got another one in {name!r}: {first_line(error)}"
        ) from error
    if config.model_type not in MODEL_TYPES:
        raise ValueError(
            f"`pretrained_model` must be of the type {' or '.join(map(repr, MODEL_TYPES))}, got "
            f"{config.model_type!r} in {name!r}"
        )
    try:
        generation_config = RandARGenerationConfig.from_pretrained(name, subfolder=subfolder)
    except OSError:  # a model may come without the file; `from_pretrained` gives it the same defaults
        generation_config = RandARGenerationConfig.from_model_config(config)
    names = index.get("id2label") or config.id2label
    id2label = {int(class_id): class_name for class_id, class_name in names.items()}
    return PretrainedModel(name, subfolder, config, generation_config, id2label)


def _pipeline_index(name: str) -> dict:
    """The configuration of a pipeline; empty for anything else."""
    try:
        with warnings.catch_warnings(action="ignore"):  # diffusers asks the Hub in a way that is deprecated
            return DiffusionPipeline.load_config(name)
    except OSError:
        return {}


def follow_pretrained(config: TrainingConfig, pretrained: PretrainedModel) -> TrainingConfig:
    """Settings with sizes, order and, where none are given, dropouts of the pretrained model.

    Raises:
        ValueError: it is of another type or size than what was given, or cannot be trained in the orders asked for.
    """
    stored = pretrained.config
    if config.model_type != stored.model_type:
        raise ValueError(
            f"`model_type` must be {stored.model_type!r}, that of `pretrained_model`, {pretrained.name!r}, got "
            f"{config.model_type!r}"
        )
    given = config.model_fields
    fields = {name: getattr(stored, name) for name in MODEL_FIELDS if hasattr(type(stored), name)}
    differing = [name for name in SIZES if name in given and given[name] != fields[name]]
    if differing:
        parts = (f"`{name}` must be {fields[name]!r}, got {given[name]!r}" for name in differing)
        raise ValueError(f"{'; '.join(parts)}: as in `pretrained_model`, {pretrained.name!r}")
    only = stored.only_order
    order = config.order or only or getattr(stored, "scan_order", "random")
    if only is not None and (order != only or config.annealing_end):
        asked = f"annealing to {order!r}" if config.annealing_end else repr(order)
        raise ValueError(
            f"`order` must be {only!r}, without annealing, the only one of `pretrained_model`, {pretrained.name!r}, "
            f"got {asked}"
        )
    return replace(config, order=order, **{**fields, **given})


def adapt_config(
    pretrained: PretrainedModel, vocab_size: int, grid: tuple[int, int], **changes
) -> RandARConfig | RARConfig:
    """The configuration of a pretrained model with some fields changed.

    Args:
        pretrained: the model.
        vocab_size: of the tokens to train on.
        grid: rows and columns of the tokens.
        changes: fields and their new values.

    Raises:
        ValueError: the model is one for other tokens, or a new value makes no sense.
    """
    stored = pretrained.config
    if (vocab_size, tuple(grid)) != (stored.vocab_size, stored.grid):
        raise ValueError(
            f"`pretrained_model` must be of the tokens' {vocab_size} codes on a grid of {tuple(grid)}, got "
            f"{pretrained.name!r} of {stored.vocab_size} codes on a grid of {stored.grid}"
        )
    fields = stored.to_dict() | changes
    fields.pop("auto_map", None)  # names code beside the weights, which does not come along
    config = type(stored).from_dict(fields)
    config.name_or_path = pretrained.name
    return config


def load_pretrained_weights(model: RandARForCausalLM | RARForCausalLM, pretrained: PretrainedModel) -> None:
    """Put the weights of a pretrained model into a fresh one, whose classes may be other ones.

    A class that the pretrained model knows by name, and the null class, get its embedding; other classes keep theirs.

    Args:
        model: made with a configuration of `adapt_config`.
        pretrained: where the weights lie.

    Raises:
        MissingDataError: there are none.
        ValueError: they are damaged, or those of another model.
    """
    weights = _read_weights(pretrained)
    name = f"model.{CLASS_TABLES[model.config.model_type]}.weight"
    table, source = model.state_dict()[name], weights[name]  # (codes and classes, D); the first one is the model's own
    first = len(table) - model.config.num_classes - 1  # row of the first class, in both
    table[:first], table[-1] = source[:first], source[-1]
    for class_id, class_name in model.config.id2label.items():
        known = known_class(class_name, pretrained.id2label)
        if known is not None:
            table[first + class_id] = source[first + known]
    model.load_state_dict(weights | {name: table})


def known_class(name: str, id2label: dict[int, str]) -> int | None:
    """The class of a name or of one of its synonyms; None for a name that is unknown, or that several classes have."""
    try:
        return find_label_id(name, id2label)
    except ValueError:
        return None


def _read_weights(pretrained: PretrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a pretrained model in full precision."""
    try:
        model, info = model_class(pretrained.config.model_type).from_pretrained(
            pretrained.name, subfolder=pretrained.subfolder, dtype=torch.float32, output_loading_info=True
        )
    except OSError as error:
        raise MissingDataError(
            f"`pretrained_model` must have weights, found none in {pretrained.name!r}: {error}"
        ) from error
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"`pretrained_model` must have whole weights that fit, got others in {pretrained.name!r}: "
            f"{first_line(error)}"
        ) from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"]))
        raise ValueError(f"`pretrained_model` must have all weights, got {pretrained.name!r} without {missing}")
    return model.state_dict()
