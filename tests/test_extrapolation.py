import pytest
import torch

from randar_hf.extrapolation import finer_grid, num_fitting_frequencies
from randar_hf.rotary import grid_positions, rotary_table, rotary_table_at


@pytest.mark.parametrize(
    ("size", "factor", "coarse", "between"),
    [
        ((32, 32), 2, (16, 16), 0),
        ((48, 48), 3, (16, 16), 0),
        ((24, 24), 1.5, (16, 16), 256 - 64),
        ((20, 20), 1.25, (16, 16), 256 - 16),
        ((32, 48), 2, (16, 24), 0),
        ((40, 48), 2.5, (16, 19), 16 * 19 - 8 * 10),
        ((16, 16), 1, (16, 16), 0),
        ((16, 24), 1, (16, 24), 0),
    ],
)
def test_any_rational_factor_and_rectangle(size, factor, coarse, between):
    finer = finer_grid((16, 16), *size)
    assert (finer.factor, finer.coarse) == (factor, coarse)
    assert len(finer.positions) == size[0] * size[1] + between
    torch.testing.assert_close(finer.positions[finer.coarse_positions] / factor, grid_positions(*coarse))
    assert len(finer.coarse_positions.unique()) == coarse[0] * coarse[1]
    assert finer.positions[:, 0].max() <= size[0] - 1 and finer.positions[:, 1].max() <= size[1] - 1


def test_coarse_tokens_of_twice_the_size_lie_at_even_coordinates():
    finer = finer_grid((4, 4), 8, 8)
    even = torch.arange(64).view(8, 8)[::2, ::2].flatten()
    assert torch.equal(finer.coarse_positions, even)
    table = rotary_table_at(finer.positions, 16, factor=finer.factor)
    assert torch.equal(table[even], rotary_table(4, 4, 16)[:-1])


def test_smaller_grids_are_refused():
    with pytest.raises(ValueError, match="`height` and `width` must give at least.*16 x 16 tokens, got 12 x 32"):
        finer_grid((16, 16), 12, 32)


def test_frequencies_that_fit_the_published_and_the_shipped_models():
    assert num_fitting_frequencies(16, 64, 10000) == 2
    assert num_fitting_frequencies(8, 32, 10000) == 0


@pytest.mark.parametrize(
    ("side", "count"), [(4, 0), (9, 0), (10, 1), (27, 1), (28, 2), (84, 2), (85, 3), (265, 3), (266, 4), (10**6, 4)]
)
def test_frequencies_fit_from_one_and_a_third_turns_on(side, count):
    # 16 channels a head are four frequencies an axis; with the base 100 their waves are 2 pi 100 ** (j / 4) cells
    # long: 6.28, 19.87, 62.83 and 198.7.
    assert num_fitting_frequencies(side, 16, 100.0) == count
