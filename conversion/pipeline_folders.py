"""Published checkpoints, and pipelines of this package, turned into the folder of a pipeline."""

import os
from pathlib import Path

from diffusers import DiffusionPipeline
from transformers import PreTrainedModel

from randar_hf.cards import Origin
from randar_hf.checks import check_path
from randar_hf.modeling_rar import RARForCausalLM
from randar_hf.outputs import check_replaced_folder, files_of_runs
from randar_hf.pipelines import RandARPipeline, RARPipeline, save_with_code
from randar_hf.pipelines.loading import load_pipeline
from randar_hf.replacement import replacing

from .class_names import check_class_names, imagenet_classes, read_class_names
from .detection import convert_model, convert_tokenizer
from .published_files import find_published


FILES = ("README.md", "transformer", "vqvae", "*.py")  # of a pipeline's folder, beside what every run may write


def convert_checkpoint(
    checkpoint: str | os.PathLike,
    tokenizer: str | os.PathLike | None,
    output: str | os.PathLike,
    num_attention_heads: int | None = None,
    grid_size: int | None = None,
    class_names: str | os.PathLike | None = None,
    with_code: bool = False,
    overwrite: bool = False,
    merge_positions: bool = False,
) -> Path:
    """
    Turn the published files of a model and of its tokenizer, or a pipeline of this package, into a pipeline's folder.

    The folder is written beside its place and takes it when it is complete, also where the process is killed.
    `RARPipeline.from_pretrained` loads that of a RAR model, `RandARPipeline.from_pretrained` any other.

    Args:
        checkpoint (`str`): file of a RandAR, LlamaGen or RAR model, or the folder of a pipeline of this package.
        tokenizer (`str` or `None`): file of the image tokenizer that the model was trained with; none for a folder.
        output (`str`): the folder to write; the one above it exists.
        num_attention_heads (`int`, *optional*): attention heads of a file; by default what its shapes tell, or as wide
            as in the published models.
        grid_size (`int`, *optional*): tokens per side of a file; by default what its shapes tell, what a published
            file of that name has, or 16.
        class_names (`str`, *optional*): file of names by class id, a text file with one on each line or JSON; by
            default those of the folder, or those of ImageNet for a file with 1,000 classes.
        with_code (`bool`): add the code, for machines without `randar_hf`.
        overwrite (`bool`): replace `output` as a whole, if it is a pipeline's folder. Logs and the like in a folder
            that is none stay there.
        merge_positions (`bool`): merge the two tables of positions of a RAR model, by
            [`~RARForCausalLM.merge_positions`].

    Returns:
        `pathlib.Path`: the folder.

    Raises:
        FileNotFoundError: if a file or the folder above `output` is missing.
        ValueError: for a file that is damaged or of another kind, files that do not fit each other, arguments that
            belong to files if `checkpoint` is a folder, positions that cannot be merged, an `output` that exists, or
            one that cannot be written. No folder is left behind then, and an existing one stays.
    """
    checkpoint, output = check_path("checkpoint", checkpoint), check_path("output", output)
    settings = {"num_attention_heads": num_attention_heads, "grid_size": grid_size}
    _check_output(output, overwrite, (checkpoint,) if tokenizer is None else (checkpoint, tokenizer))
    _check_source(checkpoint, {"tokenizer": tokenizer, **settings})
    names = None if class_names is None else read_class_names(class_names)
    if checkpoint.is_dir():
        pipeline, origin = load_pipeline("checkpoint", checkpoint), None
    else:
        pipeline, origin = _convert_files(checkpoint, tokenizer, **settings)
    pipeline.check_components()
    id2label = pipeline.id2label
    if names is not None:
        check_class_names(names, pipeline.transformer.config.num_classes)
        id2label = dict(enumerate(names))
    model = _merged(pipeline.transformer) if merge_positions else pipeline.transformer
    # A new one, which does not take along the card of the folder it was loaded from.
    pipeline = type(pipeline)(model, pipeline.vqvae, id2label=id2label or None)
    with replacing(output, keep=not files_of_runs(output, *FILES)) as folder:
        if with_code:
            save_with_code(pipeline, folder)
        else:
            pipeline.save_pretrained(folder)
        pipeline.make_card(output.resolve().name, origin, with_code).save(folder / "README.md")
    return output


def _check_source(checkpoint: Path, of_files: dict):
    """Raise for a checkpoint that is not there, and for arguments that do not suit a file or a folder."""
    if not checkpoint.exists():
        raise FileNotFoundError(
            f"`checkpoint` must be a file or the folder of a pipeline, found none at {str(checkpoint)!r}."
        )
    if not checkpoint.is_dir():
        if of_files["tokenizer"] is None:
            raise ValueError(
                f"`tokenizer` must be given for a `checkpoint` that is a file, got none for {str(checkpoint)!r}."
            )
        return
    if not (checkpoint / "model_index.json").is_file():
        raise ValueError(
            f"`checkpoint` must be a file or the folder of a pipeline, got {str(checkpoint)!r}, which has no "
            "model_index.json."
        )
    for name, value in of_files.items():
        if value is not None:
            raise ValueError(
                f"`{name}` must be given only for a `checkpoint` that is a file, got {str(value)!r} for the pipeline "
                f"in {str(checkpoint)!r}."
            )


def _convert_files(
    checkpoint: Path, tokenizer: str | os.PathLike, num_attention_heads: int | None, grid_size: int | None
) -> tuple[DiffusionPipeline, Origin | None]:
    """The pipeline of two published files, and whence the model comes if that is known."""
    published = find_published(checkpoint)
    if grid_size is None and published is not None:
        grid_size = published.grid_size
    try:
        vqvae = convert_tokenizer(tokenizer)
    except (FileNotFoundError, TypeError, ValueError) as error:
        raise type(error)(f"`tokenizer`: {error}") from error
    model = convert_model(checkpoint, num_attention_heads, **({} if grid_size is None else {"grid_size": grid_size}))
    names = imagenet_classes() if model.config.num_classes == len(imagenet_classes()) else ()
    pipeline_class = RARPipeline if isinstance(model, RARForCausalLM) else RandARPipeline
    is_published = published is not None and published.num_parameters == model.num_parameters()
    pipeline = pipeline_class(model, vqvae, id2label=dict(enumerate(names)) or None)
    return pipeline, published.origin if is_published else None


def _merged(model: PreTrainedModel) -> RARForCausalLM:
    if not isinstance(model, RARForCausalLM):
        raise ValueError(f"`merge_positions` must be given only for a RAR model, got it for a {type(model).__name__}.")
    return model.merge_positions()


def _check_output(output: Path, overwrite: bool, sources: tuple[str | os.PathLike, ...]):
    if not output.parent.is_dir():
        raise FileNotFoundError(f"`output` must lie in a folder that exists, got {str(output)!r}.")
    check_replaced_folder("output", output, "model_index.json", overwrite, sources, FILES)
