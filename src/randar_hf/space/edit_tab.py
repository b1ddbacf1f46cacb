"""The tab that paints parts of an image anew."""

from collections.abc import Callable

import gradio as gr
from PIL import Image

from randar_hf.images import open_image

from .components import ImageInput, MaskEditor
from .controls import (
    GALLERY,
    MODEL_QUEUE,
    build_buttons,
    build_class,
    build_guidance,
    build_seed,
    check_image,
    connect,
    of_model,
)
from .drawing import scale_to_view
from .files import keep_file
from .inputs import build_source
from .studio import Studio


NUM_ANSWERS = 4


def build_edit_tab(studio: Studio, examples: list[Image.Image]) -> gr.Gallery:
    """Build the tab; returns its shelf of images to choose from."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            image, shelf = build_source(examples)
            label = build_class(studio.class_names(), "What the painted part becomes; another class edits the image.")
            seed = build_seed("Of the first of the four answers.")
            guidance = build_guidance(studio)
        with gr.Column(scale=3, min_width=280):
            editor = _build_editor()
            buttons = build_buttons("Edit")
            answers, slider = _build_results()

    edit = _make_edit(studio)
    image.change(
        lambda image: image and {"background": scale_to_view(image), "layers": [], "composite": None},
        image,
        editor,
        api_visibility="private",
        show_progress="hidden",
    )
    connect(
        buttons,
        edit,
        [image, editor, label, seed, guidance],
        [answers, slider],
        api_name="edit_strokes",
        api_visibility="private",
    )
    answers.select(_compare, [image, answers], slider, api_visibility="private", show_progress="hidden")
    # The mask of an editor is made of strokes; whoever calls the app as an API gives it as an image.
    mask = ImageInput(label="Mask", type="pil", image_mode="L", visible=False)
    gr.Button(visible=False).click(
        edit, [image, mask, label, seed, guidance], [answers, slider], **MODEL_QUEUE, api_name="edit"
    )
    return shelf


def _build_editor() -> MaskEditor:
    """Build what strokes are painted in."""
    return MaskEditor(
        label="Paint here",
        type="pil",
        sources=[],
        transforms=[],
        layers=False,
        brush=gr.Brush(default_size=48, colors=["#e6007e"], color_mode="fixed"),
        eraser=gr.Eraser(default_size=64),  # more than the brush, so that a stroke goes whole
        elem_id="edit-editor",
        format="png",
        canvas_size=(512, 512),
    )


def _build_results() -> tuple[gr.Gallery, gr.ImageSlider]:
    """Build what the task gives: the answers, and one of them beside the image."""
    answers = gr.Gallery(
        label="Four answers: choose one to compare",
        columns=4,
        height=200,
        allow_preview=False,
        buttons=["download"],
        elem_id="edit-answers",
        **GALLERY,
    )
    slider = gr.ImageSlider(
        label="Before and after", format="png", type="pil", interactive=False, elem_id="edit-slider"
    )
    return answers, slider


def _make_edit(studio: Studio) -> Callable:
    @of_model
    def edit(image: Image.Image, mask: Image.Image, label: int, seed: int, guidance: float):
        """Paint parts of an image anew, four answers; all other pixels stay as they are.

        Args:
            image: the image.
            mask: white, or transparent elsewhere, where the image is to be painted anew, of the size of the image.
            label: class of what is painted.
            seed: seed of the first answer; the next ones count up.
            guidance: scale of classifier-free guidance; 1 turns it off.
        """
        check_image(image)
        if mask is None:
            raise ValueError("Nothing is painted: mark with the brush what is to change.")
        mask = mask.convert("L").resize(image.size, Image.Resampling.BOX)
        mask = mask.point(lambda value: 255 * (value > 0))  # white where there was any white
        for frame in studio.edit(image, mask, label, NUM_ANSWERS, seed, guidance_scale=guidance):
            images = [(keep_file(answer), f"seed {seed + i}") for i, answer in enumerate(frame.images)]
            before_and_after = _pair(image, frame.images[0]) if frame.done else None
            yield images, before_and_after

    return edit


def _compare(image: Image.Image, answers: list[tuple[str, str]], event: gr.SelectData):
    return _pair(image, open_image(answers[event.index][0]))


def _pair(before: Image.Image, after: Image.Image) -> tuple[str, str]:
    return keep_file(scale_to_view(before)), keep_file(scale_to_view(after))
