"""The tab that generates images of classes."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from .controls import GALLERY, PIXELS, build_buttons, build_guidance, build_seed, connect, of_model
from .drawing import draw_film, draw_sheet
from .files import keep_file
from .snippets import write_snippet
from .studio import MAX_IMAGES, Studio


def build_generate_tab(studio: Studio, source: str | None) -> gr.Gallery:
    """Build the tab; returns the gallery of the images made last."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            controls = _build_controls(studio)
            buttons = build_buttons("Generate")
        with gr.Column(scale=3, min_width=280):
            results = _build_results()
    with gr.Accordion("The same in Python", open=False):
        snippet = gr.Code(language="python", label="Settings as code", interactive=False)
    connect(buttons, _make_task(studio, source), controls, [*results, snippet], api_name="generate")
    return results[-1]


def _build_controls(studio: Studio) -> list[gr.components.Component]:
    """Build what the task takes: classes, count, seed, guidance, order, steps and window."""
    config, generation = studio.pipe.transformer.config, studio.pipe.transformer.generation_config
    classes = gr.Dropdown(
        [(name, i) for i, name in enumerate(studio.class_names())],
        value=[0],
        multiselect=True,
        label="Classes",
        info="Type to search; several at once make a row each.",
        elem_id="generate-classes",
    )
    count = gr.Slider(1, 8, 4, step=1, label="Images of each class", info=f"At most {MAX_IMAGES} in all.")
    seed = build_seed("The first image takes this seed, the next ones count up.")
    guidance = build_guidance(studio)
    order = gr.Dropdown(
        studio.orders,
        value=generation.order if studio.any_order else studio.orders[0],
        label="Order",
        info="Which part of the image comes first.",
        visible=studio.any_order,
    )
    steps = gr.Slider(
        1,
        config.num_tokens,
        min(generation.num_inference_steps, config.num_tokens),
        step=1,
        label="Steps",
        info=f"Fewer are faster: {config.num_tokens} tokens are decoded in so many groups.",
        visible=studio.any_order,
    )
    window = gr.Slider(
        0,
        min(32, config.num_tokens),
        0,
        step=1,
        label="Lossless window",
        info="Above 0: the image of one token a step, in fewer passes; the number of steps is not used.",
        visible=studio.any_order,
    )
    return [classes, count, seed, guidance, order, steps, window]


def _build_results() -> tuple[gr.Image, gr.DownloadButton, gr.DownloadButton, gr.Gallery]:
    """Build what the task gives: the sheet, its PNG and GIF, and image by image."""
    sheet = gr.Image(
        label="Images as they appear",
        type="pil",
        elem_id="generate-sheet",
        height=360,
        alt_text="The generated images, a row for each class",
        buttons=["fullscreen"],
        **PIXELS,
    )
    with gr.Row():
        png = gr.DownloadButton("Download PNG")
        gif = gr.DownloadButton("Download GIF")
    latest = gr.Gallery(
        label="Image by image",
        height="auto",
        columns=4,
        buttons=["download", "fullscreen"],
        elem_id="generate-images",
        **GALLERY,
    )
    return sheet, png, gif, latest


def _make_task(studio: Studio, source: str | None) -> Callable:
    names = studio.class_names()

    @of_model
    def generate(classes: list[int], count: int, seed: int, guidance: float, order: str, steps: int, window: int):
        """Generate images of classes: a sheet with a row for each class, its PNG and GIF, each image, and Python code.

        Args:
            classes: names of the classes.
            count: images of each class.
            seed: seed of the first image; the next ones count up.
            guidance: scale of classifier-free guidance; 1 turns it off.
            order: decoding order; a model of one order takes its own.
            steps: decoding steps.
            window: window of lossless parallel decoding; 0 decodes in steps.
        """
        settings: dict[str, Any] = {"guidance_scale": guidance}
        if studio.any_order:
            pace = {"speculative_window": window} if window else {"num_inference_steps": steps}
            settings |= {"order": order} | pace
        labels = [label if label in studio.pipe.id2label.values() else i for i, label in enumerate(names)]
        code = write_snippet(type(studio.pipe).__name__, source, [labels[i] for i in classes], count, seed, settings)
        sheets = []  # all outputs are given as values: gradio loses track of the files of a component it updates
        for frame in studio.generate(classes, count, seed, **settings):
            sheets.append(draw_sheet(frame.images, len(classes)))
            yield keep_file(sheets[-1], "images.png"), None, None, None, code
        images = [
            (keep_file(image), f"{names[classes[i // count]]}, seed {seed + i}")
            for i, image in enumerate(frame.images)
        ]
        png, gif = keep_file(sheets[-1], "images.png"), keep_file(draw_film(sheets), "images.gif")
        yield png, png, gif, images, code

    return generate
