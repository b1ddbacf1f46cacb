"""Images for an evaluation: many of them, each from a seed of its own, in a folder that a later run completes."""

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import tqdm
from diffusers import DiffusionPipeline
from PIL import Image

from randar_hf import demo_checkpoint
from randar_hf.checks import check_int, check_path
from randar_hf.devices import check_device
from randar_hf.files import clear_partial, hold_folder, whole_file, write_text
from randar_hf.images import open_image
from randar_hf.outputs import check_no_links, check_output_folder, files_of_runs
from randar_hf.pipelines.loading import load_pipeline
from randar_hf.threads import warn_of_busy_cores

from .extractors import add_weights
from .images import LABELS_FILE, SETTINGS_FILE, read_settings


CLASSES, TYPES = ("balanced", "random"), ("float32", "bfloat16", "float16")
ARRAY_FILE = "samples.npz"
STARTED_WITH = "started_with"  # what is noted in the settings, but may be another when a run goes on
LIBRARIES = ("randar-hf", "torch", "transformers", "diffusers")
MAX_IMAGES = 10_000_000
MAX_WAIT = timedelta(days=2)  # for the slowest process, and for the array


def sample_images(
    model: str | os.PathLike | None,
    output_dir: str | os.PathLike,
    num_images: int = 50_000,
    classes: str = "balanced",
    batch_size: int = 32,
    seed: int = 0,
    num_inference_steps: int | None = None,
    speculative_window: int | None = None,
    guidance_scale: float | None = None,
    guidance_schedule: str | None = None,
    guidance_power: float | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    order: str | None = None,
    spatial_guidance_scale: float | None = None,
    spatial_dropout: float | None = None,
    dtype: str = "float32",
    device: str | None = None,
    write_npz: bool = True,
) -> Path:
    """
    Sample the images that a model is evaluated on into a folder; called again, complete what is missing there.

    Started as several processes, by `accelerate launch` or `torchrun`, each of them samples its part. An image depends
    on the seed and its index alone, up to the rounding of sums in batches of another size.

    Args:
        model (`str` or `None`): folder or Hub name of a [`RandARPipeline`] or [`RARPipeline`]; `None` for the shipped
            one.
        output_dir (`str`): folder to write; a new or empty one, or that of the run to go on with.
        num_images (`int`): images in all, from 1 to ten million.
        classes (`str`): `"balanced"`, one class after the other in turn, or `"random"`.
        batch_size (`int`): images that a process samples at once.
        seed (`int`): seed of all images, at least 0.
        num_inference_steps, speculative_window, guidance_scale, guidance_schedule, guidance_power, temperature, top_k,
            top_p, order (*optional*): as for the pipeline; by default what is stored with the model.
        spatial_guidance_scale, spatial_dropout (`float`, *optional*): spatial contextual guidance, for RandAR alone.
        dtype (`str`): `"float32"`, `"bfloat16"` or `"float16"`.
        device (`str`, *optional*): a torch device; by default what `accelerate` finds, one for each process.
        write_npz (`bool`): write all images into one array file at the end, as the ADM evaluator reads it.

    Returns:
        `pathlib.Path`: the folder, with `images/`, `labels.txt`, `settings.json` and `samples.npz`.

    Raises:
        ValueError: for an argument out of its range, a model that does not load, a folder that holds other files, or
            one that holds images of other settings; before anything is written.
    """
    given = {
        "num_inference_steps": num_inference_steps,
        "speculative_window": speculative_window,
        "guidance_scale": guidance_scale,
        "guidance_schedule": guidance_schedule,
        "guidance_power": guidance_power,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "order": order,
    }
    spatial = {"spatial_guidance_scale": spatial_guidance_scale, "spatial_dropout": spatial_dropout}
    given |= {name: value for name, value in spatial.items() if value is not None}
    request: dict[str, Any] = {"num_images": num_images, "classes": classes, "seed": seed, "dtype": dtype}
    _check_arguments(**request, batch_size=batch_size, order=order)
    folder = check_path("output_dir", output_dir)
    _check_folder(folder)
    state = start_processes(device)
    target = state.device if device is None else torch.device(device)
    source = demo_checkpoint() if model is None else os.fspath(model)
    pipe = load_pipeline("model", source, "RandARPipeline", getattr(torch, dtype))
    request |= {"pipeline": type(pipe).__name__, "model_sha256": model_hash(pipe)}
    pipe.to(target).set_progress_bar_config(disable=True)
    labels = [image_class(classes, seed, i, pipe.transformer.config.num_classes) for i in range(num_images)]
    settings = {**request, **_resolve(pipe, given, labels[:batch_size])}
    started_with: dict[str, Any] = {
        "model": source if model else "the shipped one",
        "batch_size": batch_size,
        "device": str(target),
        "num_processes": state.num_processes,
    }
    paths = _image_paths(folder, num_images)
    with hold_folder(state, "output_dir", folder, partial(_check_run, folder, settings)):
        if state.is_main_process:
            _open_folder(folder, settings, started_with, labels)
        state.wait_for_everyone()  # the folder is there
        batches = _missing_batches(paths, batch_size)[state.process_index :: state.num_processes]
        state.wait_for_everyone()  # all have seen what is missing
        _sample(pipe, paths, labels, batches, seed, given)
        state.wait_for_everyone()  # all images are there
        if state.is_main_process and write_npz and not (folder / ARRAY_FILE).exists():
            _write_array(folder / ARRAY_FILE, paths, labels, settings["height"], settings["width"])
        state.wait_for_everyone()  # a launcher stops all processes as soon as one of them ends badly
    return folder


def is_pipeline(source: str | os.PathLike) -> bool:
    """Whether a name is that of a pipeline: a folder with its index, or a name on the Hub rather than a path."""
    path = Path(source).expanduser()
    if path.exists():
        return (path / "model_index.json").is_file()
    return path.suffix != ".npz" and not path.is_absolute() and str(source).count("/") == 1 and str(source)[0] != "."


def image_seed(seed: int, index: int) -> int:
    """The seed of an image's generator: 32 bits, since torch's take no more, and no two images of a run alike."""
    start = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return (start + 0x9E3779B1 * index) % 2**32  # an odd factor takes different indices to different seeds


def image_class(classes: str, seed: int, index: int, num_classes: int) -> int:
    """The class of an image: in turn if they are `"balanced"`, from the image's own seed if `"random"`."""
    if classes == "balanced":
        return index % num_classes
    return int(np.random.SeedSequence(image_seed(seed, index)).generate_state(1, np.uint64)[0] % num_classes)


def model_hash(pipe: DiffusionPipeline) -> str:
    """SHA-256 of the weights of a pipeline's model and tokenizer, and of the configurations that say what they do."""
    config, vq_config = pipe.transformer.config, pipe.vqvae.config
    configs = [
        {name: getattr(config, name) for name in type(config).__annotations__},
        {name: value for name, value in vq_config.items() if not name.startswith("_")},
    ]
    digest = hashlib.sha256(json.dumps(configs, sort_keys=True).encode())
    for module in (pipe.transformer, pipe.vqvae):
        add_weights(digest, module)
    return digest.hexdigest()


def _check_arguments(num_images: int, classes: str, seed: int, dtype: str, batch_size: int, order: str | None):
    for name, value, least in (("num_images", num_images, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        check_int(name, value, least, MAX_IMAGES if name == "num_images" else None)
    for name, word, choices in (("classes", classes, CLASSES), ("dtype", dtype, TYPES)):
        if word not in choices:
            raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {word!r}.")
    if order is not None and not isinstance(order, str):
        raise ValueError(f"`order` must be the name of an order, got {order!r}.")


def _check_folder(folder: Path):
    """Raise a `ValueError` for a folder that holds another run; a log, or what a system leaves there, does no harm."""
    check_output_folder("output_dir", folder)
    others = [] if (folder / SETTINGS_FILE).is_file() else files_of_runs(folder)
    if others:
        names = ", ".join(path.name for path in others)
        raise ValueError(
            f"`output_dir` must hold no other run, got {str(folder)!r} with {names}; choose another folder."
        )


def _check_run(folder: Path, settings: dict[str, Any]):
    """Raise a `ValueError` for a folder that holds another run, images of other settings, or links in their place."""
    _check_folder(folder)
    check_no_links("output_dir", *(folder / name for name in ("images", SETTINGS_FILE, LABELS_FILE, ARRAY_FILE)))
    check_same_settings(folder, settings)
    clear_partial(folder / "images")


def start_processes(device: str | None) -> PartialState:
    """What `accelerate` knows of the processes and of their devices; it connects those on a CPU only if told so."""
    if device is not None:
        check_device(device)
    on_cpu = not torch.accelerator.is_available() if device is None else device == "cpu"
    state = PartialState(cpu=on_cpu, timeout=MAX_WAIT)
    started = int(os.environ.get("WORLD_SIZE", 1))
    if state.num_processes != started:
        raise ValueError(f"`device` must be cpu here for {started} processes, got {device or str(state.device)!r}.")
    if started > 1 and device not in (None, "cpu"):
        raise ValueError(
            f"`device` must be left out or cpu for {started} processes, each of which takes its own, got {device!r}."
        )
    warn_of_busy_cores(device or str(state.device))
    return state


def _resolve(pipe: DiffusionPipeline, given: dict[str, Any], labels: list[int]) -> dict[str, Any]:
    """The settings of generation, the stored ones filled in, and the size in pixels; raises what a call would."""
    pipe.check_components()
    plan = pipe.transformer.plan_generation(labels, **given)
    resolved = {name: getattr(plan.settings, name, value) for name, value in given.items()}  # spatial ones as given
    height, width = (side * pipe.image_processor.config.vae_scale_factor for side in pipe.transformer.config.grid)
    return {
        **resolved,
        "num_inference_steps": plan.num_steps,
        "do_sample": plan.settings.do_sample,
        "height": height,
        "width": width,
    }


def check_same_settings(folder: Path, settings: dict[str, Any]):
    """Raise a `ValueError` that lists what differs from the settings of the images that lie in the folder."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        return
    stored = read_settings("output_dir", path)
    names = [*settings, *(name for name in stored if name not in settings and name != STARTED_WITH)]
    differing = [name for name in names if stored.get(name) != settings.get(name)]
    if differing:
        values = "; ".join(f"{name}: {stored.get(name)!r} there, now {settings.get(name)!r}" for name in differing)
        raise ValueError(f"`output_dir` must hold images of these settings, got others in {str(folder)!r}. {values}.")


def _open_folder(folder: Path, settings: dict[str, Any], started_with: dict[str, Any], labels: list[int]):
    """Write what is known before the first image, if it is not there yet."""
    started_with = started_with | {name: version(name) for name in LIBRARIES}
    if not (folder / SETTINGS_FILE).exists():
        write_text(folder / SETTINGS_FILE, json.dumps({**settings, STARTED_WITH: started_with}, indent=2) + "\n")
    if not (folder / LABELS_FILE).exists():
        write_text(folder / LABELS_FILE, "".join(f"{label}\n" for label in labels))
    (folder / "images").mkdir(exist_ok=True)


def write_png(path: Path, image: Image.Image):
    """Write an image by [`~randar_hf.files.whole_file`]."""
    content = BytesIO()
    image.save(content, format="PNG")
    with whole_file(path) as file:
        file.write(content.getbuffer())


def _image_paths(folder: Path, num_images: int) -> list[Path]:
    digits = max(6, len(str(num_images - 1)))
    return [folder / "images" / f"{index:0{digits}}.png" for index in range(num_images)]


def _missing_batches(paths: Sequence[Path], batch_size: int) -> list[range]:
    """
    The batches of which an image is missing.

    A batch holds the same images whatever is missing and however many processes there are: sums are rounded alike.
    """
    present = set(paths[0].parent.iterdir())
    starts = range(0, len(paths), batch_size)
    batches = [range(start, min(start + batch_size, len(paths))) for start in starts]
    return [batch for batch in batches if not present.issuperset(paths[batch.start : batch.stop])]


def _sample(
    pipe: DiffusionPipeline,
    paths: Sequence[Path],
    labels: list[int],
    batches: list[range],
    seed: int,
    given: dict[str, Any],
):
    """Sample batches of images, and write those that are missing."""
    with tqdm(total=sum(map(len, batches)), desc="images of this process", unit="") as progress_bar:
        for batch in batches:
            generators = [torch.Generator().manual_seed(image_seed(seed, index)) for index in batch]
            images = pipe(labels[batch.start : batch.stop], generator=generators, **given).images
            for index, image in zip(batch, images, strict=True):
                if not paths[index].exists():
                    write_png(paths[index], image)
            progress_bar.update(len(batch))


def _write_array(path: Path, paths: Sequence[Path], labels: list[int], height: int, width: int):
    """Write all images as `arr_0` and their classes as `arr_1`, one image in memory at a time."""
    shape = (len(paths), height, width, 3)
    with whole_file(path) as whole, zipfile.ZipFile(whole, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for image_path in tqdm(paths, desc=ARRAY_FILE, unit=""):
                file.write(_read_pixels(image_path, shape[1:]).tobytes())
        with archive.open("arr_1.npy", "w") as file:
            np.lib.format.write_array(file, np.array(labels))


def _read_pixels(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        pixels = np.asarray(open_image(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"`output_dir` must hold images that can be read, got {path.name}: {error}") from error
    if pixels.shape != shape:
        raise ValueError(f"`output_dir` must hold images of the shape {shape}, got {pixels.shape} for {path.name}.")
    return pixels
