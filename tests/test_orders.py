import numpy as np
import pytest
import torch

from randar_hf.orders import ORDER_NAMES, check_fixed_order, check_order, known_first, make_order
from randar_hf.randomness import check_generators, uniform


GRIDS = [(1, 1), (1, 7), (7, 1), (5, 3), (4, 4), (8, 16), (16, 16)]
DRAWN = ("random", "hierarchical", "center_first", "border_first")
FIXED_4X4 = {
    "raster": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    "spiral_in": [15, 11, 7, 3, 2, 1, 0, 4, 8, 12, 13, 14, 10, 6, 5, 9],
    "spiral_out": [9, 5, 6, 10, 14, 13, 12, 8, 4, 0, 1, 2, 3, 7, 11, 15],
    "z_curve": [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15],
    "subsample": [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15],
    "alternate": [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11, 15, 14, 13, 12],
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def steps_on_grid(name, height, width):
    """The step of every position, as rows of the grid."""
    return make_order(name, height, width)[0].argsort().view(height, width).tolist()


def test_names_are_those_of_the_paper():
    assert set(ORDER_NAMES) == {*DRAWN, *FIXED_4X4}


@pytest.mark.parametrize("height, width", GRIDS)
@pytest.mark.parametrize("name", ORDER_NAMES)
def test_every_row_is_a_permutation(name, height, width):
    order = make_order(name, height, width, batch_size=3, generator=seeded(0))
    assert order.dtype == torch.long
    assert torch.equal(order.sort(dim=1).values, torch.arange(height * width).expand(3, -1))


@pytest.mark.parametrize("name", FIXED_4X4)
def test_fixed_orders_on_4x4(name):
    assert make_order(name, 4, 4, batch_size=2).tolist() == [FIXED_4X4[name]] * 2


def test_fixed_orders_on_grids_that_are_not_square():
    assert steps_on_grid("alternate", 2, 3) == [[0, 1, 2], [5, 4, 3]]
    assert steps_on_grid("spiral_in", 3, 5) == [[6, 5, 4, 3, 2], [7, 14, 13, 12, 1], [8, 9, 10, 11, 0]]
    assert steps_on_grid("spiral_out", 4, 3) == [[6, 7, 8], [5, 0, 9], [4, 1, 10], [3, 2, 11]]
    assert steps_on_grid("z_curve", 3, 5) == [[0, 1, 4, 5, 12], [2, 3, 6, 7, 13], [8, 9, 10, 11, 14]]
    assert steps_on_grid("subsample", 1, 7) == [[0, 4, 2, 6, 1, 5, 3]]


@pytest.mark.parametrize("height, width", GRIDS)
def test_spirals_step_to_neighbours_only(height, width):
    order = make_order("spiral_in", height, width)[0]
    rows, columns = order // width, order % width
    assert (rows.diff().abs() + columns.diff().abs() == 1).all()
    assert torch.equal(order.flip(0), make_order("spiral_out", height, width)[0])


@pytest.mark.parametrize("height, width", [(1, 7), (5, 3), (8, 16)])
def test_hierarchical_starts_with_even_rows_and_columns(height, width):
    order = make_order("hierarchical", height, width, batch_size=4, generator=seeded(0))
    even = (order // width % 2 == 0) & (order % width % 2 == 0)
    first = ((height + 1) // 2) * ((width + 1) // 2)
    assert even[:, :first].all()
    assert not even[:, first:].any()


@pytest.mark.parametrize("height, width, middle", [(8, 16, (2, 6, 4, 12)), (5, 3, (1, 4, 0, 2)), (1, 1, (0, 1, 0, 1))])
def test_center_and_border_first(height, width, middle):
    top, bottom, left, right = middle
    size = (bottom - top) * (right - left)

    def in_middle(name):
        order = make_order(name, height, width, batch_size=4, generator=seeded(0))
        rows, columns = order // width, order % width
        return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)

    center_first, border_first = in_middle("center_first"), in_middle("border_first")
    assert center_first[:, :size].all() and not center_first[:, size:].any()
    assert border_first[:, -size:].all() and not border_first[:, :-size].any()


@pytest.mark.parametrize("name", DRAWN)
def test_sampled_orders_follow_their_generators(name):
    shared = make_order(name, 4, 4, batch_size=3, generator=seeded(5))
    assert torch.equal(shared, make_order(name, 4, 4, batch_size=3, generator=seeded(5)))
    assert len(shared.unique(dim=0)) == 3
    one_by_one = seeded(5)
    assert torch.equal(shared, torch.cat([make_order(name, 4, 4, generator=one_by_one) for _ in range(3)]))
    rows = make_order(name, 4, 4, batch_size=3, generator=[seeded(seed) for seed in range(3)])
    for seed in range(3):
        assert torch.equal(rows[seed : seed + 1], make_order(name, 4, 4, generator=seeded(seed)))


def test_a_random_order_ranks_uniform_numbers_and_the_default_generator_is_that_of_torch():
    torch.manual_seed(7)
    first = make_order("random", 4, 4)
    torch.manual_seed(7)
    assert torch.equal(first, torch.rand(1, 16).argsort())


def test_known_positions_come_first_and_keep_their_order():
    order = torch.tensor([[4, 2, 0, 3, 1], [0, 1, 2, 3, 4]])
    known = torch.tensor([[True, False, False, True, False], [False, False, True, False, True]])
    assert known_first(order, known).tolist() == [[0, 3, 4, 2, 1], [2, 4, 0, 1, 3]]


def test_a_model_of_one_order_takes_it_by_name_and_by_positions_alone():
    for order in ("raster", make_order("raster", 3, 4, 2), make_order("alternate", 1, 12)):
        check_fixed_order(order, "raster", 3, 4)
    for order in ("random", "alternate", make_order("alternate", 3, 4)):
        check_fixed_order(order, None, 3, 4)
        with pytest.raises(ValueError, match="`order` must be 'raster' for this model"):
            check_fixed_order(order, "raster", 3, 4)


def test_every_position_comes_first_equally_often():
    first = make_order("random", 2, 4, batch_size=4000, generator=seeded(0))[:, 0]
    assert (first.bincount(minlength=8) - 500).abs().max() < 100


@pytest.mark.parametrize("name", FIXED_4X4)
def test_fixed_orders_leave_the_generator_alone(name):
    generator = seeded(0)
    make_order(name, 4, 4, generator=generator)
    assert torch.equal(generator.get_state(), seeded(0).get_state())


def test_unknown_name_lists_all_names_and_the_nearest():
    with pytest.raises(ValueError, match="`order` must be one of random, .*, got 'spiral-in'.*mean 'spiral_in'"):
        make_order("spiral-in", 4, 4)
    with pytest.raises(ValueError, match="got 'qqq'.$"):
        make_order("qqq", 4, 4)


@pytest.mark.parametrize("value", [0, -1, 2.0, "4", True, None])
@pytest.mark.parametrize("argument", ["height", "width", "batch_size"])
def test_sizes_must_be_positive_integers(argument, value):
    sizes = {"height": 4, "width": 4, "batch_size": 1, argument: value}
    with pytest.raises(ValueError, match=f"`{argument}` must be an int of at least 1"):
        make_order("raster", **sizes)


def test_generators_are_checked():
    with pytest.raises(ValueError, match="`generator` holds 2 generators for a batch of 3"):
        make_order("random", 4, 4, batch_size=3, generator=[seeded(0), seeded(1)])
    for wrong in (3, [3], [None], "cpu"):
        with pytest.raises(TypeError, match="`generator` must be"):
            check_generators(wrong, 1)
    one = seeded(0)
    assert check_generators(one, 2) == [one, one]
    assert check_generators((one,), 1) == [one]
    assert check_generators(None, 2) == [None, None]


def test_uniform_samples_row_after_row():
    numbers = uniform((2, 3), 4, [seeded(seed) for seed in range(4)], dtype=torch.float64)
    assert numbers.shape == (4, 2, 3)
    assert torch.equal(numbers[2], torch.rand(2, 3, generator=seeded(2), dtype=torch.float64))


@pytest.mark.gpu
def test_uniform_samples_on_the_device_of_the_generator():
    numbers = uniform((5,), 1, torch.Generator("cuda").manual_seed(0))
    expected = torch.rand(5, generator=torch.Generator("cuda").manual_seed(0), device="cuda")
    assert torch.equal(numbers[0], expected.cpu())


@pytest.mark.parametrize(
    "order",
    [
        [2, 0, 1],
        [[2, 0, 1], [2, 0, 1]],
        np.array([2, 0, 1], dtype=np.int32),
        torch.tensor([2, 0, 1], dtype=torch.uint8),
    ],
)
def test_check_order_gives_every_image_its_row(order):
    checked = check_order(order, num_tokens=3, batch_size=2)
    assert checked.dtype == torch.long
    assert checked.tolist() == [[2, 0, 1], [2, 0, 1]]


@pytest.mark.parametrize(
    "order, message",
    [
        ([0, 1], r"shape \(3,\).* or \(2, 3\).*got \(2,\)"),
        ([[0, 1, 2]] * 3, r"got \(3, 3\)"),
        ([], r"got \(0,\)"),
        ([[0, 1, 2], [0, 1]], "rows of the same length"),
        ([0, 1, 1], "row 0 lacks 1 of them, the first being 2"),
        ([[0, 1, 2], [1, 2, 3]], "row 1 lacks 1 of them, the first being 0"),
        ([-1, 0, 1], "row 0 lacks 1 of them, the first being 2"),
    ],
)
def test_check_order_refuses_what_is_no_permutation(order, message):
    with pytest.raises(ValueError, match=f"`order` must .*{message}"):
        check_order(order, num_tokens=3, batch_size=2)


@pytest.mark.parametrize("order", [[0.0, 1.0, 2.0], [True, False, True], None, "random", [None, 1, 2], object()])
def test_check_order_refuses_other_types(order):
    with pytest.raises(TypeError, match="`order` must"):
        check_order(order, num_tokens=3, batch_size=2)
