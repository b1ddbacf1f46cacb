"""Files that visitors fetch."""

import io
import os
import tempfile
from pathlib import Path

from gradio.processing_utils import hash_bytes
from gradio.utils import get_upload_folder
from PIL import Image


def keep_file(content: Image.Image | bytes, name: str = "image.png") -> str:
    """
    Path of a file in gradio's cache, from where it is served and removed when it is old.

    A file of the same content is there once. It is written aside and renamed: gradio's own way writes over what
    another visitor may be fetching at that moment.

    Args:
        content (`PIL.Image.Image` or `bytes`): an image, for a PNG, or what the file holds.
        name (`str`): of the file, as it is downloaded.
    """
    if isinstance(content, Image.Image):
        png = io.BytesIO()
        content.save(png, "PNG")
        content = png.getvalue()
    path = Path(get_upload_folder(), hash_bytes(content), name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as aside:
            aside.write(content)
        os.replace(aside.name, path)
    return str(path)
