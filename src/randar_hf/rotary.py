"""Two-dimensional rotary positions. N places of an h x w grid, d head width."""

import torch


def rotary_table(
    height: int, width: int, head_dim: int, theta: float = 10000.0, device: torch.device | str | None = None
) -> torch.Tensor:
    """
    Cosines and sines of every place of a grid; the first half of a head turns with the row, the second the column.

    Args:
        height, width (`int`): rows and columns of the grid, at least 1.
        head_dim (`int`): width of one attention head, a multiple of 4.
        theta (`float`): base of the frequencies, `theta ** (-4j / head_dim)`.
        device (`torch.device`, *optional*): where the table lies.

    Returns:
        `torch.Tensor` of shape (N + 1, head_dim / 2, 2), float32: a (cos, sin) pair for each pair of channels. Row
        N stands for "no place" and is zero, so that queries and keys of the class slot vanish.
    """
    axis_dim = head_dim // 2
    frequencies = 1.0 / theta ** (torch.arange(0, axis_dim, 2, device=device).float() / axis_dim)  # (d/4,)
    rows = torch.outer(torch.arange(height, device=device).float(), frequencies)  # (h, d/4)
    columns = torch.outer(torch.arange(width, device=device).float(), frequencies)  # (w, d/4)
    angles = torch.cat(
        [rows[:, None].expand(height, width, -1), columns[None].expand(height, width, -1)], dim=-1
    ).flatten(0, 1)  # (N, d/2)
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
    first, second = states.float().unflatten(-1, (-1, 2)).unbind(-1)  # (..., d/2) each
    cos, sin = table.unbind(-1)
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.flatten(-2).to(states.dtype)
