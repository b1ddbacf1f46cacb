"""A published checkpoint and its tokenizer, turned into the folder of a pipeline."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from .checks import check_path
from .conversion import (
    check_class_names,
    convert_model,
    convert_tokenizer,
    find_published,
    imagenet_classes,
    read_class_names,
)
from .pipelines import RandARPipeline, save_with_code


def convert_checkpoint(
    checkpoint: str | os.PathLike,
    tokenizer: str | os.PathLike,
    output: str | os.PathLike,
    num_attention_heads: int | None = None,
    grid_size: int | None = None,
    class_names: str | os.PathLike | None = None,
    with_code: bool = False,
    overwrite: bool = False,
) -> Path:
    """
    Turn the published files of a model and of its tokenizer into a folder for `RandARPipeline.from_pretrained`.

    The folder is written beside its place and renamed when it is complete.

    Args:
        checkpoint (`str`): file of a RandAR or LlamaGen model.
        tokenizer (`str`): file of the image tokenizer that the model was trained with.
        output (`str`): the folder to write; the one above it exists.
        num_attention_heads (`int`, *optional*): attention heads; by default as wide as in the published models.
        grid_size (`int`, *optional*): tokens per side; by default what a published file of that name has, or 16.
        class_names (`str`, *optional*): file of names by class id, a text file with one on each line or JSON; by
            default those of ImageNet for a checkpoint with 1,000 classes.
        with_code (`bool`): add the code, for machines without `randar_hf`.
        overwrite (`bool`): replace `output` as a whole, if it is a pipeline's folder.

    Returns:
        `pathlib.Path`: the folder.

    Raises:
        FileNotFoundError: if a file or the folder above `output` is missing.
        ValueError: for a file that is damaged or of another kind, files that do not fit each other, an `output` that
            exists, or one that cannot be written. No folder is left behind then, and an existing one stays.
    """
    output = check_path("output", output)
    _check_output(output, overwrite, (checkpoint, tokenizer))
    names = None if class_names is None else read_class_names(class_names)
    published = find_published(checkpoint)
    if grid_size is None:
        grid_size = published.grid_size if published else 16
    try:
        vqvae = convert_tokenizer(tokenizer)
    except (FileNotFoundError, TypeError, ValueError) as error:
        raise type(error)(f"`tokenizer`: {error}") from error
    model = convert_model(checkpoint, num_attention_heads, grid_size=grid_size)
    if names is None:
        names = imagenet_classes() if model.config.num_classes == len(imagenet_classes()) else ()
    else:
        check_class_names(names, model.config.num_classes)
    pipeline = RandARPipeline(model, vqvae, id2label=dict(enumerate(names)) or None)
    pipeline.check_components()
    with _replacing(output) as folder:
        if with_code:
            save_with_code(pipeline, folder)
        else:
            pipeline.save_pretrained(folder)
        is_published = published is not None and published.num_parameters == model.num_parameters()
        origin = published.origin if is_published else None
        pipeline.make_card(output.resolve().name, origin, with_code).save(folder / "README.md")
    return output


def _check_output(output: Path, overwrite: bool, sources: tuple[str | os.PathLike, ...]):
    if not output.parent.is_dir():
        raise FileNotFoundError(f"`output` lies in the folder {str(output.parent)!r}, which does not exist.")
    if not output.exists() or output.is_dir() and not any(output.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"`output` {str(output)!r} exists; it is replaced only if asked to be overwritten.")
    if not (output / "model_index.json").is_file():
        raise ValueError(f"`output` {str(output)!r} is no folder of a pipeline, so it is not replaced.")
    for source in sources:
        if output.resolve() in Path(source).resolve().parents:
            raise ValueError(f"`output` {str(output)!r} holds {str(source)!r}, which would be lost.")


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """A folder to write that takes the place of `output` at the end; on an error it vanishes and `output` stays."""
    unique = uuid4().hex[:8]
    folder, old = (output.with_name(f".{output.name}.{part}-{unique}") for part in ("partial", "old"))
    try:
        yield folder
        if output.exists():
            output.rename(old)
        folder.rename(output)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"`output` {str(output)!r} cannot be written, nothing is left behind: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if old.exists() and not output.exists():
            old.rename(output)
        shutil.rmtree(old, ignore_errors=True)
