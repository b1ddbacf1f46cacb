"""The tab that extends an image beyond its sides, and generates larger ones."""

from collections.abc import Callable

import gradio as gr
from PIL import Image

from .controls import GALLERY, PIXELS, build_buttons, build_class, build_seed, check_image, connect, of_model
from .files import keep_file
from .inputs import build_source
from .studio import Studio


SIDES = ("left", "right", "top", "bottom")
PLAIN, FLAT, TRAINED = "without spatial guidance", "all cells at once", "the trained size"


def build_extend_tab(studio: Studio, examples: list[Image.Image]) -> gr.Gallery:
    """Build the tab; returns its shelf of images to choose from."""
    with gr.Accordion("Extend an image beyond its sides", open=True):
        shelf = _build_extend(studio, examples)
    with gr.Accordion("Generate an image larger than the trained ones", open=True):
        _build_enlarge(studio)
    return shelf


def _build_extend(studio: Studio, examples: list[Image.Image]) -> gr.Gallery:
    longest = max(studio.size)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            image, shelf = build_source(examples)
            label = build_class(studio.class_names(), "What the new parts show.")
            with gr.Row(elem_classes="sides"):
                sides = [
                    gr.Slider(
                        0,
                        longest,
                        longest // 2 // studio.factor * studio.factor if side in ("left", "right") else 0,
                        step=studio.factor,
                        label=f"Pixels {'at the' if side in ('top', 'bottom') else 'to the'} {side}",
                        info="Added on this side.",
                        min_width=180,
                    )
                    for side in SIDES
                ]
            seed = build_seed("Of the image.")
            buttons = build_buttons("Extend")
        with gr.Column(scale=3, min_width=280):
            result = gr.Image(
                label=f"Extended image; yours is scaled to {longest} pixels first",
                type="pil",
                alt_text="The image with its new parts",
                elem_id="extend-result",
                height=360,
                buttons=["download", "fullscreen"],
                **PIXELS,
            )

    connect(buttons, _make_extend(studio), [image, label, *sides, seed], result, api_name="extend")
    return shelf


def _make_extend(studio: Studio) -> Callable:
    @of_model
    def extend(image: Image.Image, label: int, left: int, right: int, top: int, bottom: int, seed: int):
        """Extend an image beyond its sides; it is scaled to the model's size first.

        Args:
            image: the image.
            label: class of what is painted.
            left: pixels to add to the left.
            right: pixels to add to the right.
            top: pixels to add at the top.
            bottom: pixels to add at the bottom.
            seed: seed of all randomness.
        """
        check_image(image)
        pixels = dict(zip(SIDES, (left, right, top, bottom), strict=True))
        if not any(pixels.values()):
            raise ValueError("No side is extended: move at least one of the sliders.")
        for frame in studio.extend(image, label, pixels, seed):
            yield keep_file(frame.images[0])

    return extend


def _build_enlarge(studio: Studio):
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            controls = _build_enlarge_controls(studio)
            buttons = build_buttons("Enlarge")
        with gr.Column(scale=3, min_width=280):
            results = gr.Gallery(
                label="Larger images side by side",
                height="auto",
                columns=3,
                elem_id="enlarge-results",
                buttons=["download", "fullscreen"],
                **GALLERY,
            )
    connect(buttons, _make_enlarge(studio), controls, results, api_name="enlarge")


def _build_enlarge_controls(studio: Studio) -> list[gr.components.Component]:
    """Build what the task takes: label, factor, guidance, frequencies, hierarchy, comparison and seed."""
    label = build_class(studio.class_names(), "What the image shows.")
    factor = gr.Slider(1, 3, 2, step=0.25, label="Factor", info="Times the trained size.")
    guidance = gr.Slider(
        1,
        5,
        1.5,
        step=0.1,
        label="Spatial guidance",
        info="Away from what is predicted without some of the tokens; 1 turns it off.",
    )
    frequencies = gr.Slider(
        0,
        8,
        0,
        step=1,
        label="Frequencies not interpolated",
        info="So many of the highest rotary frequencies keep the distance of neighbours.",
    )
    hierarchy = gr.Checkbox(
        True, label="Coarse tokens first", info="Otherwise all cells are decoded at once, in one order."
    )
    compare = gr.CheckboxGroup(
        [TRAINED, PLAIN, FLAT], value=[TRAINED, PLAIN], label="Compare with", info="Of the same seed."
    )
    seed = build_seed("Of all images.")
    return [label, factor, guidance, frequencies, hierarchy, compare, seed]


def _make_enlarge(studio: Studio) -> Callable:
    @of_model
    def enlarge(
        label: int,
        factor: float,
        guidance: float,
        frequencies: int,
        hierarchy: bool,
        compare: list[str],
        seed: int,
    ):
        """Generate an image larger than the trained ones, and others of the same seed beside it.

        Args:
            label: class of the image.
            factor: times the trained size.
            guidance: scale of spatial guidance; 1 turns it off.
            frequencies: of the highest rotary frequencies so many are not interpolated.
            hierarchy: decode coarse tokens first.
            compare: what to show beside it.
            seed: seed of all randomness.
        """
        asked = {"spatial_guidance_scale": guidance, "hierarchical": hierarchy, "num_extrapolated": frequencies}
        kinds = {
            f"{factor:g} times the size": asked,
            PLAIN: asked | {"spatial_guidance_scale": 1.0},
            FLAT: asked | {"hierarchical": False},
        }
        done: list[tuple[str, str]] = []
        for name, settings in kinds.items():
            if name in (PLAIN, FLAT) and name not in compare:
                continue
            for frame in studio.enlarge(label, factor, seed, **settings):
                shown = (keep_file(frame.images[0]), name)
                yield [*done, shown]
            done.append(shown)
        if TRAINED in compare:
            for frame in studio.generate([label], 1, seed):
                yield [*done, (keep_file(frame.images[0]), TRAINED)]

    return enlarge
