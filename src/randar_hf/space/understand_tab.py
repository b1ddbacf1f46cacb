"""The tab that shows what a model sees in an image, and how it decodes."""

from collections.abc import Callable
from html import escape

import gradio as gr
from PIL import Image

from .controls import MODEL_QUEUE, PIXELS, build_seed, check_image, of_model
from .drawing import colour_features, draw_order
from .files import keep_file
from .inputs import build_source
from .studio import Studio


MAX_BARS = 10
MAX_CLASSES = 100  # judged unless some are chosen


def build_understand_tab(studio: Studio, examples: list[Image.Image]) -> gr.Gallery:
    """Build the tab; returns its shelf of images to choose from."""
    with gr.Accordion("What does the model see in an image?", open=True):
        shelf = _build_reading(studio, examples)
    with gr.Accordion("In which order is an image decoded?", open=True):
        _build_orders(studio)
    return shelf


def _build_reading(studio: Studio, examples: list[Image.Image]) -> gr.Gallery:
    names = studio.class_names()
    many = len(names) > MAX_CLASSES
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            image, shelf = build_source(examples)
            classes = gr.Dropdown(
                [(name, i) for i, name in enumerate(names)],
                value=list(range(MAX_BARS)) if many else [],
                multiselect=True,
                label="Classes to judge",
                info="Type to search." if many else "Type to search; none means all.",
            )
            num_orders = gr.Slider(
                1, 16, 4, step=1, label="Random orders", info="The likelihood is the mean over so many."
            )
            seed = build_seed("Of the orders.")
            button = gr.Button("Read the image", variant="primary", elem_id="understand-run")
        with gr.Column(scale=3, min_width=280):
            bars = gr.HTML(label="How likely the image is as each class", elem_id="understand-bars", container=True)
            with gr.Row():
                once, twice = (
                    gr.Image(
                        label=f"Features, read {times}",
                        type="pil",
                        alt_text=f"Features of the sequence read {times}, as colours",
                        elem_id=f"understand-{times}",
                        buttons=["download", "fullscreen"],
                        min_width=120,
                        height=260,
                        **PIXELS,
                    )
                    for times in ("once", "twice")
                )
            gr.Markdown(
                "The colours are the first three principal components of what the model computes at each position: "
                "what has one colour is alike to it. Read twice, every position sees the whole image."
            )

    controls, results = [image, classes, num_orders, seed], [bars, once, twice]
    button.click(_make_understand(studio), controls, results, **MODEL_QUEUE, api_name="understand")
    return shelf


def _make_understand(studio: Studio) -> Callable:
    names = studio.class_names()

    @of_model
    def understand(image: Image.Image, classes: list[int], num_orders: int, seed: int):
        """Judge how likely an image is as each class, and show its features as colours, read once and twice.

        Args:
            image: the image; it is scaled to the model's size.
            classes: classes to judge; none means all, if they are few.
            num_orders: random orders to average over.
            seed: seed of the orders.
        """
        check_image(image)
        if not classes and len(names) > MAX_CLASSES:
            raise ValueError(f"No class is chosen: of {len(names)} classes choose some to judge.")
        judged = classes or list(range(len(names)))
        nats = studio.log_likelihoods(image, judged, num_orders, seed)
        found = sorted(zip(nats, (names[i] for i in judged), strict=True), reverse=True)
        colours = [keep_file(colour_features(studio.features(image, rounds, seed))) for rounds in (1, 2)]
        yield write_bars(found[:MAX_BARS], len(found)), *colours

    return understand


def _build_orders(studio: Studio):
    config, generation = studio.pipe.transformer.config, studio.pipe.transformer.generation_config
    orders = studio.orders
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            name = gr.Dropdown(orders, value=orders[0], label="Order", info="One of the decoding orders.")
            steps = gr.Slider(
                1,
                config.num_tokens,
                min(generation.num_inference_steps, config.num_tokens) if studio.any_order else config.num_tokens,
                step=1,
                label="Steps",
                info="Tokens of one step appear together.",
                interactive=studio.any_order,
            )
            button = gr.Button("Show the order", variant="primary", elem_id="order-run")
        with gr.Column(scale=3, min_width=280):
            film = gr.Image(
                label="From the first token (blue) to the last (red)",
                type="filepath",
                interactive=False,
                alt_text="The cells of an image, coloured as they are decoded",
                elem_id="order-film",
                height=320,
                buttons=["download", "fullscreen"],
            )

    def show_order(name: str, steps: int) -> str:
        """Show as a GIF in which order the tokens of an image are decoded.

        Args:
            name: name of the order.
            steps: decoding steps.
        """
        return keep_file(draw_order(name, config.grid, steps, seed=0), "order.gif")

    button.click(show_order, [name, steps], film, api_name="show_order")


def write_bars(found: list[tuple[float, str]], count: int) -> str:
    """
    HTML of bars, a class each, as long as the likelihood of an image lies above that of the last one.

    Args:
        found: nats and class name, the likeliest first.
        count (`int`): classes that were judged.
    """
    best, worst = found[0][0], found[-1][0]
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td><div class="bar" style="width:'
        f'{100 * (nats - worst) / max(best - worst, 1e-9):.1f}%"></div></td><td>{nats - best:.1f}</td></tr>'
        for nats, name in found
    )
    caption = f"The {len(found)} likeliest of {count} classes: nats against the likeliest"
    return f'<table class="bars"><caption>{caption}</caption><tbody>{rows}</tbody></table>'
