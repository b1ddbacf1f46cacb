"""Grids finer than the trained one (Sec. 3.4.3). (h, w) is the coarse grid, (H, W) the finer one."""

import math
from fractions import Fraction
from typing import NamedTuple

import torch

from .rotary import grid_positions


class FinerGrid(NamedTuple):
    """
    A grid that spans the trained one, and the coarse tokens that establish its layout.

    Attributes:
        factor (`float`): cells for each cell of the trained grid, per side.
        coarse (`(int, int)`): rows and columns of the coarse grid; wider than the trained one if the finer grid is.
        positions (`torch.Tensor` of shape (M, 2)): rows and columns, in cells of the finer grid, of its H * W cells in
            raster order, and then of the coarse tokens that lie between cells, if the factor is not whole.
        coarse_positions (`torch.LongTensor` of shape (h * w,)): where among `positions` each coarse token lies.
    """

    factor: float
    coarse: tuple[int, int]
    positions: torch.Tensor
    coarse_positions: torch.Tensor


def finer_grid(trained: tuple[int, int], height: int, width: int) -> FinerGrid:
    """
    Lay a finer grid over the trained one, which keeps its position in the corner at the top left.

    Args:
        trained (`(int, int)`): rows and columns of the trained grid.
        height, width (`int`): rows and columns of the finer grid, at least those of the trained one. The side that is
            finer by less sets the factor; along the other one the coarse grid goes on beyond the trained one.

    Returns:
        [`FinerGrid`]: its positions. With a factor of 2 the coarse tokens lie at the even coordinates, as in the
        paper.

    Raises:
        ValueError: if a side is shorter than the trained one.
    """
    factor = min(Fraction(height, trained[0]), Fraction(width, trained[1]))
    if factor < 1:
        raise ValueError(
            f"`height` and `width` must give at least the trained grid of {trained[0]} x {trained[1]} tokens, got "
            f"{height} x {width}."
        )
    coarse = ((height - 1) // factor + 1, (width - 1) // factor + 1)
    off_grid: list[tuple[float, float]] = []
    coarse_positions = []
    for row in range(coarse[0]):
        for column in range(coarse[1]):
            y, x = row * factor, column * factor
            if y.denominator == x.denominator == 1:
                coarse_positions.append(int(y) * width + int(x))
            else:
                coarse_positions.append(height * width + len(off_grid))
                off_grid.append((float(y), float(x)))
    between = torch.tensor(off_grid, device="cpu").view(-1, 2)
    return FinerGrid(
        float(factor),
        coarse,
        torch.cat([grid_positions(height, width), between]),
        torch.tensor(coarse_positions, device="cpu"),
    )


def num_fitting_frequencies(side: int, head_dim: int, theta: float) -> int:
    """
    How many of the highest rotary frequencies a grid teaches at every angle, so that they may be extrapolated.

    These turn at least one and a third times between the first cell of a side and the last. That gives the published
    2 for 16 cells and heads 64 wide, and 0 for 8 cells, where 1 was measured to spoil images.

    Args:
        side (`int`): cells along the shorter side of the trained grid.
        head_dim (`int`): width of one attention head.
        theta (`float`): base of the frequencies.
    """
    wavelengths = [2 * math.pi * theta ** (4 * j / head_dim) for j in range(head_dim // 4)]
    return sum(3 * (side - 1) >= 4 * wavelength for wavelength in wavelengths)
