"""What the commands that make images share: reading, generating, writing."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from randar_hf.outputs import check_output_file

from .options import FilmOptions, PipelineOptions, SamplingOptions, SheetOptions


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ALPHA_SUFFIXES = (".png", ".webp")
CAPTION_HEIGHT = 14
MAX_FRAMES = 48
FRAME_MILLISECONDS, LAST_MILLISECONDS = 80, 1500


def read_image(option: str, path: str) -> "Image":
    """An image from a file; raises an error that names the option if there is none."""
    from randar_hf.images import open_image

    try:
        if not Path(path).is_file():
            raise FileNotFoundError(f"`{option}` must be an image, found no file {path!r}.")
        return open_image(path, mask=option == "mask")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"`{option}` must be an image that can be read: {error}") from error


def read_labels(words: list[str], id2label: dict[int, str]) -> list[int | str]:
    """Names where the words name classes, else class ids where they are whole numbers."""
    from randar_hf.pipelines.labels import class_ids_of

    is_id = [word.lstrip("-").isdecimal() and not class_ids_of(word, id2label) for word in words]
    return [int(word) if whole else word for word, whole in zip(words, is_id)]


def check_settings(pipe, settings: dict[str, Any]):
    """Raise a `ValueError` that names the options of settings that a pipeline does not have."""
    known = inspect.signature(pipe.__call__).parameters
    unknown = [f"`--{name.replace('_', '-')}`" for name in settings if name not in known]
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)} must not be given for this model, got a {type(pipe).__name__}, which cannot do "
            "that; the pipelines of RandAR models can."
        )


def open_pipeline(kind: str, options: PipelineOptions, sampling: SamplingOptions | None = None) -> "DiffusionPipeline":
    """The model as a kind of pipeline, if that can do what is asked."""
    import torch

    from randar_hf import demo_checkpoint
    from randar_hf.devices import check_device
    from randar_hf.pipelines.loading import load_pipeline
    from randar_hf.threads import warn_of_busy_cores

    check_device(options.device)
    warn_of_busy_cores(options.device)
    folder = demo_checkpoint() if options.model is None else options.model
    pipe = load_pipeline("--model", folder, kind, getattr(torch, options.dtype)).to(options.device)
    check_settings(pipe, {} if sampling is None else sampling.given())
    return pipe


def only_label(pipe: "DiffusionPipeline") -> list[str]:
    """The class of a model that has only one; a `ValueError` for any other model."""
    if (count := pipe.transformer.config.num_classes) != 1:
        raise ValueError(f"`labels` must be given for a model of {count} classes, got none.")
    return ["0"]


def make_images(
    pipe: "DiffusionPipeline", seed: int, labels: list[str], num_images: int = 1, **arguments
) -> list["Image"]:
    """The images of a call of a pipeline, each from a seed of its own."""
    import torch

    pipe.check_count(len(labels), num_images, "--num-images")
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(labels) * num_images)]
    class_labels = read_labels(labels, pipe.id2label)
    return pipe(class_labels=class_labels, generator=generators, **arguments).images


class Sheet:
    """The file of a command's images, row by row, which is checked before anything else is done."""

    def __init__(self, options: SheetOptions):
        self.output = check_output_file("--output", options.output, SHEET_SUFFIXES, options.overwrite)
        if options.scale < 1:
            raise ValueError(f"`--scale` must be at least 1, got {options.scale}.")
        if options.transparent and self.output.suffix.lower() not in ALPHA_SUFFIXES:
            raise ValueError(
                f"`--output` must end in {' or '.join(ALPHA_SUFFIXES)} with `--transparent`, got {options.output!r}."
            )
        self.scale, self.captions, self.transparent = options.scale, options.captions, options.transparent

    def check_kept(self, image: "Image", painted: "Image | None" = None):
        """
        Raise a `ValueError` for colours that would stay in a transparent sheet.

        Args:
            image: whose pixels are kept.
            painted: a mask of those that are not; one of another size, which the pipeline refuses, is not looked at.
        """
        if not self.transparent:
            return
        from randar_hf.images import to_ink

        kept = image.copy()
        if painted is not None and painted.size == image.size:
            kept.paste("black", mask=painted.point(lambda level: 255 * (level > 127)))
        to_ink(kept)

    def save(self, images: list["Image"], labels: list[str]):
        """Write the images, as many in turn for each label."""
        from randar_hf.images import to_ink

        self.draw([to_ink(image) for image in images] if self.transparent else images, labels).save(self.output)
        print(f"wrote {self.output}")

    def draw(self, images: list["Image"], labels: list[str]) -> "Image":
        """A row of images for each label, enlarged, with the label below each if asked for."""
        from PIL import Image, ImageDraw

        columns, mode = len(images) // len(labels), images[0].mode
        width, height = (self.scale * side for side in images[0].size)
        row_height = height + self.captions * CAPTION_HEIGHT
        ground = "#ffffff00" if mode == "RGBA" else "white"
        sheet = Image.new(mode, (columns * width, len(labels) * row_height), ground)
        draw = ImageDraw.Draw(sheet)
        for index, image in enumerate(images):
            left, top = index % columns * width, index // columns * row_height
            sheet.paste(image.resize((width, height), Image.Resampling.LANCZOS), (left, top))
            if self.captions:
                centre = (left + width // 2, top + height + CAPTION_HEIGHT // 2)
                draw.text(centre, labels[index // columns], fill="black", anchor="mm")
        return sheet


class Film(Sheet):
    """A sheet, and a GIF of it as the images are decoded, grey where a token is unknown."""

    def __init__(self, options: FilmOptions):
        super().__init__(options)
        self.film: Path | None = None
        self.frames: list[list[Any]] = []  # of each call, the tokens after each step
        if options.animate is not None:
            self.film = check_output_file("--animate", options.animate, (".gif",), options.overwrite)

    @property
    def callback(self) -> Callable | None:
        """What a pipeline calls after each step."""
        return self._keep if self.film else None

    def _keep(self, pipe, step: int, timestep: int, inputs: dict) -> dict:
        if step == 0:
            self.frames.append([])  # of another call
        self.frames[-1].append(inputs["latents"])
        return inputs

    def save_film(self, pipe: "DiffusionPipeline", images: list["Image"], labels: list[str], by_size: bool = False):
        """
        Write some of the steps, and the images at the end.

        Args:
            pipe: the pipeline.
            images: the images of all its calls.
            labels: their labels.
            by_size: whether the grid of tokens is that of the images' size, not the trained one.
        """
        if self.film is None:
            return
        import torch

        steps = max(len(frames) for frames in self.frames)
        chosen = range(steps) if steps <= MAX_FRAMES else [i * steps // MAX_FRAMES for i in range(MAX_FRAMES)]
        factor, grid = pipe.image_processor.config.vae_scale_factor, pipe.transformer.config.grid
        if by_size:
            grid = images[0].height // factor, images[0].width // factor
        sheets = []
        for index in list(chosen)[:-1]:
            latents = torch.cat([frames[min(index, len(frames) - 1)] for frames in self.frames])  # (B, N)
            partial = pipe.image_processor.postprocess(pipe.decode_latents(latents, *grid))
            partial = [frame.resize(image.size) for frame, image in zip(partial, images)]
            sheets.append(self.draw(partial, labels))
        sheets.append(self.draw(images, labels))
        durations = [FRAME_MILLISECONDS] * (len(sheets) - 1) + [LAST_MILLISECONDS]
        sheets[0].save(self.film, save_all=True, append_images=sheets[1:], duration=durations, loop=0)
        print(f"wrote {self.film}")
