"""
Components that check what a visitor hands in.

gradio writes a stub (`components.pyi`) beside every module that derives a component, hence a module for them alone.
"""

import base64
from pathlib import Path

import gradio as gr
from PIL import Image, ImageFilter

from randar_hf.images import open_image, read_header


MAX_BYTES = 8 * 1024**2
MAX_PIXELS = 4096 * 4096 // 4
SPECK_PIXELS = 3  # what is painted less wide was left by an eraser at the rim of a stroke


def read_upload(source: str | bytes, mask: bool = False) -> Image.Image:
    """
    The image of a file, as [`~randar_hf.images.open_image`] reads it.

    Raises a `gr.Error` for a file that is no image that can be read, or too large a one, before it is decoded.
    """
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if size > MAX_BYTES:
        raise gr.Error(f"This file is too large: {size / 2**20:.1f} MiB, at most {MAX_BYTES / 2**20:.0f} are taken.")
    try:
        _, (width, height) = read_header(source)
        if width * height <= MAX_PIXELS:
            return open_image(source, mask)
    except ValueError as error:
        raise gr.Error("This file is no image that can be read: give a PNG, JPEG or WebP.") from error
    raise gr.Error(
        f"This image is too large: {width} x {height} pixels, at most {MAX_PIXELS / 2**20:.0f} million in all are "
        "taken. Make it smaller first."
    )


class ImageInput(gr.Image):
    """An image of a visitor's, read as all images are."""

    is_template = True  # shown by the parent's code in the browser

    def preprocess(self, payload):
        """The image, or the mask for one of the mode L."""
        if payload is None:
            return None
        is_data = bool(payload.url) and payload.url.startswith("data:")
        source = base64.b64decode(payload.url.partition(",")[2]) if is_data else payload.path
        return read_upload(source, mask=self.image_mode == "L")


class MaskEditor(gr.ImageEditor):
    """An editor whose strokes are a mask."""

    is_template = True

    def preprocess(self, payload):
        """The mask, white where strokes of any strength lie, but no specks, of the editor's size; `None` if empty."""
        value = super().preprocess(payload)
        if not value or value["background"] is None:
            return None
        mask = Image.new("L", value["background"].size)
        for layer in value["layers"] or []:
            mask.paste(
                255, mask=layer.convert("RGBA").getchannel("A").resize(mask.size).point(lambda a: 255 * (a > 0))
            )
        return mask.filter(ImageFilter.MinFilter(SPECK_PIXELS)).filter(ImageFilter.MaxFilter(SPECK_PIXELS))
