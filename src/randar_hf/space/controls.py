"""Controls and rules that the tabs share."""

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from PIL import Image

from .studio import MAX_SEED, Studio


# One run at a time has the model; the others wait in one queue and see their position in it.
MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 1}
# Of what shows images as they are, one or several.
PIXELS: dict[str, Any] = {"format": "png", "interactive": False, "elem_classes": "pixels"}
GALLERY = PIXELS | {"type": "filepath", "object_fit": "contain"}


def of_model(task: Callable[..., Iterator]) -> Callable[..., Iterator]:
    """A task, as an iterator, that takes a GPU on a Space that is lent one, and tells errors of value as messages."""
    try:
        import spaces
    except ModuleNotFoundError:
        pass
    else:
        task = spaces.GPU(task)

    @functools.wraps(task)
    def run(*arguments):
        try:
            yield from task(*arguments)
        except ValueError as error:
            raise gr.Error(str(error)) from error

    return run


def check_image(image: Image.Image | None):
    """Raise a `ValueError` if a visitor gave no image."""
    if image is None:
        raise ValueError("There is no image yet: upload one, or choose one below.")


def build_buttons(name: str) -> tuple[gr.Button, gr.Button]:
    """Build what starts a task, and what stops it."""
    with gr.Row():
        start = gr.Button(name, variant="primary", elem_id=f"{name.lower()}-run")
        stop = gr.Button("Stop", variant="stop", elem_id=f"{name.lower()}-stop")
    return start, stop


def connect(buttons: tuple[gr.Button, gr.Button], task: Callable, inputs: list, outputs: Any, **settings: Any):
    """Let buttons start and stop a task."""
    start, stop = buttons
    run = start.click(task, inputs, outputs, **MODEL_QUEUE, **settings)
    stop.click(None, cancels=run, api_visibility="private")


def build_guidance(studio: Studio) -> gr.Slider:
    """Build the scale of guidance."""
    scale = studio.pipe.transformer.generation_config.guidance_scale
    info = "How strongly the class is asked for; 1 turns guidance off."
    return gr.Slider(0, 20, scale, step=0.1, label="Guidance", info=info)


def build_seed(info: str) -> gr.Number:
    """Build a seed with a dice beside it."""
    with gr.Row(equal_height=True):
        seed = gr.Number(0, label="Seed", info=info, precision=0, minimum=0, maximum=MAX_SEED, scale=4, min_width=140)
        dice = gr.Button("Roll the dice", scale=1, min_width=110)
    dice.click(roll, None, seed, api_visibility="private", queue=False, show_progress="hidden")
    return seed


def roll() -> int:
    """A seed by chance."""
    return random.randrange(MAX_SEED)


def build_class(names: list[str], info: str) -> gr.Dropdown:
    """Build the choice of one class, with search."""
    return gr.Dropdown([(name, i) for i, name in enumerate(names)], value=0, label="Class", info=info)
