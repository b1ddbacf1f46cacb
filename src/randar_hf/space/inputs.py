"""The choice of an image, from those of the visitor or of the model."""

import gradio as gr
from PIL import Image

from .components import ImageInput
from .controls import GALLERY


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
        buttons=[],
        **GALLERY,
    )
    shelf.select(_chosen, shelf, image, api_visibility="private", show_progress="hidden")
    return image, shelf


def _chosen(items: list[tuple[str, str]], event: gr.SelectData) -> str:
    return items[event.index][0]
