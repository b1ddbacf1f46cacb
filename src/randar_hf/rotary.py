"""Two-dimensional rotary positions. N positions of an h x w grid, d head width."""

import torch


def rotary_table(
    height: int, width: int, head_dim: int, theta: float = 10000.0, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """
    The [`rotary_table_at`] the positions of a grid, in raster order, one cell being one unit.

    Args:
        height, width (`int`): rows and columns of the grid, at least 1.
        head_dim (`int`): width of one attention head, a multiple of 4.
        theta (`float`): base of the frequencies, `theta ** (-4j / head_dim)`.
        device (`torch.device` or `str`): where the table lies.

    Returns:
        `torch.Tensor` of shape (height * width + 1, head_dim / 2, 2), float32.
    """
    return rotary_table_at(grid_positions(height, width, device), head_dim, theta)


def grid_positions(height: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Row and column of every position of a grid in raster order, (height * width, 2), float32."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return torch.cartesian_prod(rows, columns).view(-1, 2).float()


def rotary_table_at(
    positions: torch.Tensor, head_dim: int, theta: float = 10000.0, factor: float = 1.0, num_extrapolated: int = 0
) -> torch.Tensor:
    """
    Cosines and sines of positions; the first half of a head turns with the row, the second with the column.

    Args:
        positions (`torch.Tensor` of shape (N, 2)): row and column of each position, float32; they need not be whole.
        head_dim (`int`): width of one attention head, a multiple of 4.
        theta (`float`): base of the frequencies, `theta ** (-4j / head_dim)`.
        factor (`float`): positions are divided by it, so that a finer grid spans the trained one (interpolation).
        num_extrapolated (`int`): so many of the highest frequencies turn with positions as they are (Sec. 3.4.3).

    Returns:
        `torch.Tensor` of shape (N + 1, head_dim / 2, 2), float32: a (cos, sin) pair for each pair of channels. Row
        N stands for "no position" and is zero, so that queries and keys of the class slot vanish.
    """
    axis_dim = head_dim // 2
    steps = torch.arange(0, axis_dim, 2, device=positions.device)  # (d/4,)
    frequencies = 1.0 / theta ** (steps.float() / axis_dim)
    factors = torch.ones_like(frequencies)
    factors[num_extrapolated:] = factor
    angles = (positions[..., None] / factors * frequencies).flatten(1)  # (N, d/2): rows, then columns
    table = torch.stack([angles.cos(), angles.sin()], dim=-1)  # (N, d/2, 2)
    return torch.cat([table, torch.zeros_like(table[:1])])


def rotate(states: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """
    Turn interleaved channel pairs, (a, b) -> (a cos - b sin, b cos + a sin), in float32.

    Args:
        states (`torch.Tensor` of shape (..., head_dim)): queries, keys or the position instruction embedding.
        table (`torch.Tensor` of shape (..., head_dim / 2, 2)): rows of [`rotary_table`], broadcast against `states`.

    Returns:
        `torch.Tensor`: the turned states in the type of `states`.
    """
    if states.device.type == "cpu" and not torch.compiler.is_compiling():
        # As a product of complex numbers it takes one pass over memory; torch.compile makes one of what is below.
        pairs = torch.view_as_complex(states.float().unflatten(-1, (-1, 2)).contiguous())  # (..., d/2)
        turned = torch.view_as_real(pairs * torch.view_as_complex(table.float().contiguous()))  # (..., d/2, 2)
        return turned.flatten(-2).to(states.dtype)
    first, second = states.float().unflatten(-1, (-1, 2)).unbind(-1)  # (..., d/2) each
    cos, sin = table.unbind(-1)
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.flatten(-2).to(states.dtype)
