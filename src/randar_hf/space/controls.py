"""Controls and rules that the tabs share."""

import random
from collections.abc import Callable

import gradio as gr

from .studio import MAX_SEED


# One run at a time has the model; the others wait in one queue and see their position in it.
MODEL_QUEUE = {"concurrency_id": "model", "concurrency_limit": 1}


def on_gpu(task: Callable) -> Callable:
    """A task that takes a GPU while it runs, on a Space of the Hub that lends one; itself elsewhere."""
    try:
        import spaces
    except ModuleNotFoundError:
        return task
    return spaces.GPU(task)


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
