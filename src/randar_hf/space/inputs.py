"""What a visitor hands in: images within limits, and the choice of one."""

import functools
from collections.abc import Callable, Iterator

import gradio as gr
from PIL import Image

from .components import ImageInput


def mask_of_size(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A mask in another size (width, height): white where it has any white."""
    return mask.resize(size, Image.Resampling.BOX).point(lambda value: 255 * (value > 0))


def explained(task: Callable[..., Iterator]) -> Callable[..., Iterator]:
    """A task, as an iterator, whose errors of value reach the visitor as messages."""

    @functools.wraps(task)
    def run(*arguments):
        try:
            yield from task(*arguments)
        except ValueError as error:
            raise gr.Error(str(error)) from error

    return run


def build_source(examples: list[Image.Image]) -> tuple[gr.Image, gr.Gallery]:
    """
    Build an image to upload, and a shelf to choose one from.

    Returns:
        the image, and the gallery that the app fills with what was generated last.
    """
    image = ImageInput(
        label="Image",
        type="pil",
        format="png",
        sources=["upload", "clipboard"],
        placeholder="Drop an image here",
        alt_text="The image to work on",
        elem_classes="pixels",
        buttons=["fullscreen"],
        height=280,
    )
    shelf = gr.Gallery(
        value=examples,
        label="Or choose one of these",
        columns=4,
        height=250,
        allow_preview=False,
        object_fit="contain",
        elem_classes="pixels",
        buttons=[],
        interactive=False,
        format="png",
        type="filepath",
    )
    shelf.select(_chosen, shelf, image, api_visibility="private", show_progress="hidden")
    return image, shelf


def _chosen(items: list[tuple[str, str]], event: gr.SelectData) -> str:
    return items[event.index][0]
