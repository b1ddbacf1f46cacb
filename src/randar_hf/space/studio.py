"""What the app asks of a model: every task as an iterator over images that appear. B images."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from randar_hf.checks import is_int
from randar_hf.orders import ORDER_NAMES
from randar_hf.pipelines import (
    RandARExtrapolationPipeline,
    RandARInpaintPipeline,
    RandAROutpaintPipeline,
)
from randar_hf.vq import encode_images


MAX_IMAGES = 32
PREVIEW_FRACTION = 0.3  # of the time of a run
MAX_SEED = 2**31 - 1


@dataclass
class Frame:
    """
    The images of a run at one moment.

    Attributes:
        images (`list[PIL.Image.Image]`): one per image of the run; cells that are not decoded yet are grey.
        done (`bool`): whether these are the results.
    """

    images: list[Image.Image]
    done: bool = False


class Studio:
    """
    The tasks of one model.

    Args:
        pipe ([`~randar_hf.pipelines.RandARPipeline`] or [`~randar_hf.pipelines.RARPipeline`]): its components are
            shared by all runs, which change none of them.
    """

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.any_order = pipe.transformer.config.fixed_order is None
        self.factor = pipe.image_processor.config.vae_scale_factor
        rows, columns = pipe.transformer.config.grid
        self.size = (columns * self.factor, rows * self.factor)  # of a trained image in pixels, width first

    @property
    def orders(self) -> list[str]:
        """Names of the orders that the model decodes in."""
        return list(ORDER_NAMES) if self.any_order else [self.pipe.transformer.config.fixed_order]

    def class_names(self) -> list[str]:
        """A name for each class, its number behind it where several share one."""
        count, names = self.pipe.transformer.config.num_classes, self.pipe.id2label
        firsts = [names[i].split(",")[0].strip() if i in names else f"class {i}" for i in range(count)]
        return [f"{name} ({i})" if firsts.count(name) > 1 else name for i, name in enumerate(firsts)]

    def generate(self, class_labels: list[int], count: int, seed: int, **settings) -> Iterator[Frame]:
        """Frames of `count` images for each class id; image i of all takes the seed `seed + i`."""
        return self._run(type(self.pipe), class_labels, count, seed, **settings)

    def edit(
        self, image: Image.Image, mask: Image.Image, class_label: int, count: int, seed: int, **settings
    ) -> Iterator[Frame]:
        """Frames of `count` answers for an image whose parts under the white of the mask are painted anew."""
        if mask.convert("L").point(lambda value: value >= 128).getbbox() is None:
            raise ValueError("Nothing is painted: mark with the brush what is to change.")
        return self._run(RandARInpaintPipeline, [class_label], count, seed, image=image, mask_image=mask, **settings)

    def extend(
        self, image: Image.Image, class_label: int, sides: dict[str, int], seed: int, **settings
    ) -> Iterator[Frame]:
        """Frames of an image, scaled to the model's size, that grows by `sides` in pixels."""
        return self._run(RandAROutpaintPipeline, [class_label], 1, seed, image=self.fit(image), **sides, **settings)

    def enlarge(self, class_label: int, factor: float, seed: int, **settings) -> Iterator[Frame]:
        """Frames of an image `factor` times the trained size, rounded to whole tokens."""
        width, height = (max(round(side * factor / self.factor), 1) * self.factor for side in self.size)
        return self._run(RandARExtrapolationPipeline, [class_label], 1, seed, height=height, width=width, **settings)

    def read(self, image: Image.Image) -> torch.Tensor:
        """Tokens (1, N) of an image, scaled to the trained size."""
        image = image.convert("RGB").resize(self.size, Image.Resampling.LANCZOS)
        return encode_images(self.pipe.vqvae, self.pipe.image_processor.preprocess(image)).flatten(1)

    def log_likelihoods(self, image: Image.Image, class_labels: list[int], num_orders: int, seed: int) -> list[float]:
        """Nats of an image under each of the classes, the mean over so many orders."""
        found = self.pipe.transformer.class_log_likelihoods(
            self.read(image), class_labels, num_orders, generator=torch.Generator().manual_seed(seed)
        )
        return found[0].tolist()

    def features(self, image: Image.Image, rounds: int, seed: int) -> torch.Tensor:
        """Features (h, w, D) of an image's tokens from a sequence that is read `rounds` times."""
        model = self.pipe.transformer
        found = model.extract_features(
            self.read(image), rounds=rounds, generator=torch.Generator().manual_seed(seed)
        )  # (1, N, D)
        return found[0].view(*model.config.grid, -1).float().cpu()

    def fit(self, image: Image.Image) -> Image.Image:
        """An image whose sides are whole tokens and its longer side the model's."""
        scale = max(self.size) / max(image.size)
        width, height = (max(round(side * scale / self.factor), 1) * self.factor for side in image.size)
        return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)

    def _run(self, kind: Callable, class_labels: list[int], count: int, seed: int, **settings) -> Iterator[Frame]:
        """The frames of a pipeline's call, whose arguments are checked for what a visitor can get wrong."""
        if not class_labels:
            raise ValueError("No class is chosen: choose at least one.")
        if not is_int(seed) or not 0 <= seed <= MAX_SEED:
            raise ValueError(f"The seed must be a whole number from 0 to {MAX_SEED}, got {seed}.")
        if not is_int(count) or not 1 <= len(class_labels) * count <= MAX_IMAGES:
            raise ValueError(f"At most {MAX_IMAGES} images are made at once, got {len(class_labels) * count}.")
        pipe = kind(**self.pipe.components)
        pipe.set_progress_bar_config(disable=True)
        settings = {name: value for name, value in settings.items() if value is not None}
        seeds = range(seed, seed + len(class_labels) * count)
        generators = [torch.Generator().manual_seed(number) for number in seeds]
        return iterate(pipe, class_labels=class_labels, num_images_per_prompt=count, generator=generators, **settings)


def iterate(pipe: Any, **arguments) -> Iterator[Frame]:
    """
    A pipeline's call, run in a thread, as an iterator over partial images and the results.

    After a step a partial image is shown unless showing has taken more than its fraction of the time, the consumer's
    included. Closing the iterator stops the run after the step in progress.

    Args:
        pipe: a pipeline that no other run uses.
        arguments: of its call; `width` and `height` tell the grid of a finer one.

    Returns:
        iterator over [`Frame`], the last one of which holds the results.
    """
    frames: queue.Queue[Frame | BaseException] = queue.Queue(maxsize=1)
    stop, began, shown = threading.Event(), time.monotonic(), 0.0

    def hand_over(thing: Frame | BaseException):
        while not stop.is_set():
            try:
                return frames.put(thing, timeout=0.1)
            except queue.Full:
                continue

    def show(pipe, step, timestep, inputs):
        nonlocal shown
        pipe._interrupt = stop.is_set()
        now = time.monotonic()
        if not pipe._interrupt and shown <= PREVIEW_FRACTION * (now - began):
            hand_over(Frame(_partial_images(pipe, inputs["latents"], arguments)))
            shown += time.monotonic() - now
        return {}

    def call():
        try:
            hand_over(Frame(pipe(**arguments, callback_on_step_end=show).images, done=True))
        except BaseException as error:
            hand_over(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        done = False
        while not done:
            frame = frames.get()
            if isinstance(frame, BaseException):
                raise frame
            done = frame.done
            yield frame
    finally:
        stop.set()
        thread.join()


def _partial_images(pipe: Any, latents: torch.Tensor, arguments: dict[str, Any]) -> list[Image.Image]:
    """The images of tokens (B, N), grey where unknown, of a call with these arguments."""
    factor, grid = pipe.image_processor.config.vae_scale_factor, pipe.transformer.config.grid
    if "height" in arguments:
        grid = (arguments["height"] // factor, arguments["width"] // factor)
    elif {"left", "right", "top", "bottom"} & arguments.keys():
        image = arguments["image"]
        height = image.height + arguments.get("top", 0) + arguments.get("bottom", 0)
        width = image.width + arguments.get("left", 0) + arguments.get("right", 0)
        grid = (height // factor, width // factor)
    return pipe.image_processor.postprocess(pipe.decode_latents(latents, *grid))
