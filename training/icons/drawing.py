"""Icons as images: drawn from SVG, cut to their ink, told apart by style, laid out as a contact sheet."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


DRAWN_SIZE = 128  # pixels of the longer side before an icon is made small
STYLE_SIZE, STROKE, SOLID_FRACTION = 64, 9, 0.08
LONGEST = 30  # pixels of 32 that an icon of scale 1 takes
UNSUITABLE = ("<animate", "<image", "<text", "opacity")  # they move, need a font, or have a second tone


def draw(icon: dict) -> Image.Image | None:
    """Draw an icon of a set, light on dark, cut to its ink.

    Args:
        icon: with `body`, SVG, and `left`, `top`, `width` and `height` of what is seen of it.

    Returns:
        A grey image whose longer side was at most `DRAWN_SIZE` before it was cut; `None` if the icon moves, is not of
        one tone, or is empty.
    """
    import resvg_py

    if any(word in icon["body"] for word in UNSUITABLE):
        return None
    left, top, width, height = (icon[name] for name in ("left", "top", "width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="white" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )
    zoom = DRAWN_SIZE / max(width, height)
    size = {"width": max(1, round(width * zoom)), "height": max(1, round(height * zoom))}
    try:
        content = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True, **size)
    except ValueError:  # a body that is no SVG
        return None
    ink = Image.open(BytesIO(bytes(content))).getchannel("A")
    box = ink.point(lambda value: 255 * (value > 127)).getbbox()
    return ink.crop(box) if box else None


def style_of(ink: Image.Image) -> str:
    """`"solid"` if enough of the ink is left when a stroke is taken off around it, or else `"outline"`.

    On the icons of OBJECTS whose names tell the style it agrees with 95% of them.
    """
    zoom = STYLE_SIZE / max(ink.size)
    small = ink.resize([max(1, round(side * zoom)) for side in ink.size])
    framed = Image.new("L", (small.width + 2, small.height + 2))
    framed.paste(small.point(lambda value: 255 * (value > 127)), (1, 1))
    core = framed.filter(ImageFilter.MinFilter(STROKE))
    fraction = np.count_nonzero(np.asarray(core)) / max(1, np.count_nonzero(np.asarray(framed)))
    return "solid" if fraction >= SOLID_FRACTION else "outline"


def place(ink: Image.Image, size: int, scale: float = 1.0, shift: tuple[int, int] = (0, 0)) -> Image.Image:
    """An RGB image of `size` pixels a side with the icon in its middle.

    Args:
        ink: grey, cut to the ink.
        size: pixels a side, a multiple of 32 for whole shifts.
        scale: of the icon, 1 for all but a margin.
        shift: pixels of 32 to the right and down.
    """
    zoom = LONGEST / 32 * size * scale / max(ink.size)
    small = ink.resize([max(1, round(side * zoom)) for side in ink.size], Image.Resampling.BICUBIC)
    image = Image.new("L", (size, size))
    corner = [(size - side) // 2 + move * size // 32 for side, move in zip(small.size, shift, strict=True)]
    image.paste(small, corner)
    return image.convert("RGB")


def contact_sheet(rows: dict[str, list[Image.Image]], columns: int, size: int = 32) -> Image.Image:
    """A sheet with a line for each name, the name at its left and at most `columns` images of `size` pixels."""
    left = 120
    sheet = Image.new("RGB", (left + columns * (size + 4), len(rows) * (size + 4)), "#303030")
    pen = ImageDraw.Draw(sheet)
    for line, (name, images) in enumerate(rows.items()):
        top = line * (size + 4) + 2
        pen.text((4, top + size // 2 - 6), name, fill="white")
        for column, image in enumerate(images[:columns]):
            sheet.paste(image.resize((size, size), Image.Resampling.BICUBIC), (left + column * (size + 4), top))
    return sheet
