"""The app: four tabs on one model."""

from typing import Any

import gradio as gr
import torch
from PIL import Image

from .components import MAX_BYTES
from .edit_tab import build_edit_tab
from .extend_tab import build_extend_tab
from .files import keep_file
from .generate_tab import build_generate_tab
from .studio import Studio
from .understand_tab import build_understand_tab


NUM_EXAMPLES = 4
# Files of visitors and results are removed when they are an hour old, looked for every ten minutes.
DELETE_CACHE = (600, 3600)
ONE_ORDER = (
    "### Not with this model\n\nIt generates in one order only ({order}), so it cannot {task} around what is known. "
    "A RandAR model can."
)
FONT = ["system-ui", "sans-serif"]
THEME = gr.themes.Soft(font=FONT, font_mono=["ui-monospace", "monospace"])
CSS = """
.pixels img { object-fit: contain; width: 100%; height: 100%; }
.pixels .grid-wrap { padding-top: 2.2rem; }
table.bars { width: 100%; border-collapse: collapse; }
table.bars caption { text-align: left; padding-bottom: 0.5em; color: var(--body-text-color); }
table.bars th { text-align: left; font-weight: normal; white-space: nowrap; padding-right: 0.75em; width: 1%; }
table.bars td:last-child { text-align: right; padding-left: 0.75em; width: 1%; white-space: nowrap; }
table.bars .bar { height: 1.1em; min-width: 2px; border-radius: 3px; background: var(--color-accent); }
"""


def build_app(pipe: Any, source: str | None = None, examples: list[Image.Image] | None = None) -> gr.Blocks:
    """
    Build the app.

    Args:
        pipe ([`~randar_hf.pipelines.RandARPipeline`] or [`~randar_hf.pipelines.RARPipeline`]): the model; the tabs
            that it cannot serve say why.
        source (`str`, *optional*): folder or Hub name that it was loaded from, for the Python that the app shows;
            `None` for the shipped one.
        examples (`list[PIL.Image.Image]`, *optional*): images to edit; by default some are generated.

    Returns:
        `gradio.Blocks`: the app, with a queue; [`launch_app`] starts it.
    """
    studio = Studio(pipe)
    examples = draw_examples(studio) if examples is None else examples
    with gr.Blocks(title="randar_hf", analytics_enabled=False, delete_cache=DELETE_CACHE) as app:
        gr.Markdown(_describe(studio, source))
        with gr.Tab("Generate"):
            latest = build_generate_tab(studio, source)
        shelves = []
        for name, task, build in (
            ("Edit", "paint anew", build_edit_tab),
            ("Extend and enlarge", "fill in", build_extend_tab),
        ):
            with gr.Tab(name):
                if studio.any_order:
                    shelves.append(build(studio, examples))
                else:
                    gr.Markdown(ONE_ORDER.format(order=pipe.transformer.config.fixed_order, task=task))
        with gr.Tab("Understand"):
            shelves.append(build_understand_tab(studio, examples))
        shown = [keep_file(example) for example in examples]
        latest.change(
            lambda items: shelve(items, shown, len(shelves)),
            latest,
            shelves,
            api_visibility="private",
            show_progress="hidden",
        )
    return app.queue()


def launch_app(app: gr.Blocks, port: int | None = None, **settings: Any) -> tuple:
    """
    Start the app.

    Args:
        app (`gradio.Blocks`): from [`build_app`].
        port (`int`, *optional*): to listen on; by default the first free one from 7860.
        **settings: further arguments of `gradio.Blocks.launch`.

    Raises a `ValueError` for a port that is in use, or none at all.
    """
    try:
        return app.launch(
            server_port=port,
            theme=THEME,
            css=CSS,
            max_file_size=MAX_BYTES,
            mcp_server=True,
            footer_links=["api", "settings"],
            **settings,
        )
    except (OSError, OverflowError) as error:  # the latter of a number that is no port
        raise ValueError(f"`port` must be one that can be listened on, got {port}: {error}") from error


def draw_examples(studio: Studio) -> list[Image.Image]:
    """Images of some classes, evenly spaced among all."""
    num_classes = studio.pipe.transformer.config.num_classes
    count = min(NUM_EXAMPLES, num_classes)
    labels = [index * num_classes // count for index in range(count)]
    *_, last = studio.generate(labels, 1, seed=0)
    return last.images


def shelve(items: list[tuple[str, str]] | None, examples: list[str], count: int) -> list | list[list]:
    """What each of `count` shelves shows: the images made last, then the examples."""
    shown = [path for path, _ in items or []] + examples
    return [shown] * count if count > 1 else shown


def find_device() -> str:
    """The accelerator that PyTorch finds, or the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else found.type


def _describe(studio: Studio, source: str | None) -> str:
    config = studio.pipe.transformer.config
    size, family = "{} x {}".format(*studio.size), {"randar": "RandAR", "rar": "RAR"}[config.model_type]
    return (
        f"# {family}: {'images in any order' if studio.any_order else 'images token by token'}\n\n"
        f"{source or 'The small model that randar_hf ships'}: {config.num_classes} classes, {size} pixels, "
        f"{config.num_tokens} tokens an image."
    )
