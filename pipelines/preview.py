"""Images in a notebook while they are decoded."""

from collections.abc import Callable
from typing import Any

from diffusers.utils import make_image_grid

from randar_hf.checks import check_int


def live_preview(every: int = 1, height: int | None = None, width: int | None = None) -> Callable:
    """
    A `callback_on_step_end` that shows the images below the cell of a notebook while they are decoded.

    Args:
        every (`int`): steps from one preview to the next, at least 1; the last of the planned steps is shown, too.
        height, width (`int`, *optional*): pixels of the images, where they are not of the trained size.

    Returns:
        `Callable`: the callback; it changes nothing of the images.

    Raises:
        ValueError: for `every` below 1.
        ModuleNotFoundError: without IPython, which every notebook has.
    """
    every = check_int("every", every, 1)
    from IPython.display import display

    shown: dict[str, Any] = {}

    def show(pipe: Any, step: int, timestep: int, inputs: dict) -> dict:
        if step % every and step + 1 < pipe.num_timesteps:
            return inputs
        factor, (rows, columns) = pipe.image_processor.config.vae_scale_factor, pipe.transformer.config.grid
        grid = (height // factor if height else rows, width // factor if width else columns)
        images = pipe.image_processor.postprocess(pipe.decode_latents(inputs["latents"], *grid))
        sheet = make_image_grid(images, rows=1, cols=len(images))
        if "handle" in shown:
            shown["handle"].update(sheet)
        else:
            shown["handle"] = display(sheet, display_id=True)
        return inputs

    return show
