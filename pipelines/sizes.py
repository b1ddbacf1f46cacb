"""Sizes in pixels, and the grids of tokens that they give."""

from randar_hf.checks import is_int


def check_size(name: str, pixels: int, multiple: int) -> int:
    """
    Tokens along a side of an image.

    Args:
        name (`str`): the argument that gives it, for the message.
        pixels (`int`): the side in pixels.
        multiple (`int`): pixels of a token.

    Raises:
        ValueError: if the side is no positive multiple, with the nearest ones.
    """
    if not is_int(pixels) or pixels < 1:
        raise ValueError(f"`{name}` must be a positive number of pixels, got {pixels!r}.")
    if pixels % multiple:
        below = pixels // multiple * multiple
        near = f"{below} or {below + multiple}" if below else f"{multiple}"
        raise ValueError(
            f"`{name}` must be a multiple of the {multiple} pixels of a token, got {pixels}: take {near}."
        )
    return pixels // multiple
