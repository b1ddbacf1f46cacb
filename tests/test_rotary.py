"""Rotary positions: the table, positions between cells, and generation at positions of one's own."""

import pytest
import torch

from randar_hf.orders import make_order
from randar_hf.rotary import grid_positions, rotary_table, rotary_table_at, rotate


def test_rows_turn_the_first_half_and_columns_the_second():
    table = rotary_table(3, 5, head_dim=8)
    assert table.shape == (16, 4, 2)
    row, column = 2, 4
    angles = torch.tensor([row * 1.0, row * 0.01, column * 1.0, column * 0.01])
    expected = torch.stack([angles.cos(), angles.sin()], dim=-1)
    torch.testing.assert_close(table[row * 5 + column], expected)


def test_no_position_vanishes():
    table = rotary_table(2, 2, head_dim=8)
    assert rotate(torch.ones(8), table[-1]).abs().max() == 0


def test_products_depend_on_offsets_only():
    table = rotary_table(6, 6, head_dim=8).double()
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    near = rotate(query, table[0 * 6 + 1]) @ rotate(key, table[2 * 6 + 4])
    far = rotate(query, table[3 * 6 + 2]) @ rotate(key, table[5 * 6 + 5])
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-5)


def test_pairs_are_interleaved():
    table = torch.tensor([[0.0, 1.0]])  # a quarter turn
    assert rotate(torch.tensor([3.0, 4.0]), table).tolist() == [-4.0, 3.0]


def test_turning_that_is_compiled_or_on_another_device_is_the_same(monkeypatch):
    table = rotary_table(3, 3, head_dim=8)
    states = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    as_complex_numbers = rotate(states, table)
    monkeypatch.setattr(torch, "view_as_complex", lambda pairs: pytest.fail("complex numbers do not compile"))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(states, table), as_complex_numbers)


def test_positions_of_a_grid_are_in_raster_order():
    assert grid_positions(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert grid_positions(2, 3).dtype == torch.float32


@pytest.mark.parametrize("head_dim", [8, 64])
@pytest.mark.parametrize("factor", [2.0, 1.5, 3.0])
def test_interpolated_positions_of_the_coarse_grid_are_its_own_to_the_last_bit(head_dim, factor):
    native = rotary_table(16, 16, head_dim)
    found = rotary_table_at(factor * grid_positions(16, 16), head_dim, factor=factor)
    assert torch.equal(found, native)


def test_positions_between_cells_lie_between_them():
    found = rotary_table_at(torch.tensor([[1.0, 3.0]]), head_dim=8, factor=2.0)
    angles = torch.tensor([0.5 * 1.0, 0.5 * 0.01, 1.5 * 1.0, 1.5 * 0.01])
    torch.testing.assert_close(found[0], torch.stack([angles.cos(), angles.sin()], dim=-1))
    assert found.shape == (2, 4, 2) and found[1].abs().max() == 0


@pytest.mark.parametrize("num_extrapolated", [0, 1, 5, 16])
def test_the_highest_frequencies_of_both_axes_may_turn_as_they_are(num_extrapolated):
    positions = grid_positions(32, 24)
    as_they_are, interpolated = (rotary_table_at(positions, 64, factor=f).unflatten(1, (2, 16)) for f in (1.0, 2.0))
    found = rotary_table_at(positions, 64, factor=2.0, num_extrapolated=num_extrapolated).unflatten(1, (2, 16))
    for axis in range(2):
        first, rest = slice(0, num_extrapolated), slice(num_extrapolated, None)
        assert torch.equal(found[:, axis, first], as_they_are[:, axis, first])
        assert torch.equal(found[:, axis, rest], interpolated[:, axis, rest])
    # They are the highest: the angles of one step fall from frequency to frequency.
    step = rotary_table_at(torch.tensor([[1.0, 1.0]]), 64)[0].unflatten(0, (2, 16))
    assert (torch.atan2(step[..., 1], step[..., 0]).diff(dim=1) < 0).all()


def test_the_table_of_a_model_has_its_head_width_and_base(make_model):
    model = make_model(rope_theta=100.0).model
    positions = torch.rand(5, 2, generator=torch.Generator().manual_seed(0)) * 8
    assert torch.equal(model.rotary_table_at(positions, 2.0, 1), rotary_table_at(positions, 8, 100.0, 2.0, 1))
    assert torch.equal(model.rotary_table(3, 5, "cpu"), rotary_table(3, 5, 8, 100.0))


@pytest.mark.parametrize("kind", ["rope", "none"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_table_of_the_trained_grid_generates_what_the_grid_does(make_model, generators, kind, guidance_scale):
    model = make_model(position_instruction=kind)
    order = torch.arange(16) if kind == "none" else make_order("random", 4, 4, 2, torch.Generator().manual_seed(0))
    settings = {"order": order, "guidance_scale": guidance_scale}
    table = model.model.rotary_table(4, 4, "cpu")
    native = model.generate([0, 1], generator=generators(2), **settings)
    assert torch.equal(model.generate([0, 1], generator=generators(2), rotary=table, **settings), native)
    finer = model.model.rotary_table_at(2 * grid_positions(4, 4), factor=2.0)
    assert torch.equal(model.generate([0, 1], generator=generators(2), rotary=finer, **settings), native)


def test_a_sampled_order_of_positions_of_ones_own_is_that_of_a_grid(model, generators):
    # A random order knows no rows and columns, and raster is the order of the table.
    table = model.model.rotary_table(4, 4, "cpu")
    for order in ("random", "raster", None):
        native = model.generate([0, 1], order, generator=generators(2))
        assert torch.equal(model.generate([0, 1], order, generator=generators(2), rotary=table), native)


def test_positions_may_come_in_any_sequence(model):
    # Shuffled positions with the tokens and the order shuffled alike: the same image, shuffled.
    shuffle = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    order = make_order("random", 4, 4, 1, torch.Generator().manual_seed(1))
    settings = {"do_sample": False, "num_inference_steps": 5}
    native = model.generate([2], order, **settings)
    table = model.model.rotary_table_at(grid_positions(4, 4)[shuffle])
    found = model.generate([2], shuffle.argsort()[order], rotary=table, **settings)
    assert torch.equal(found, native[:, shuffle])


def test_any_number_of_positions_with_known_tokens(model, generators):
    positions = torch.tensor([[0.0, 0.0], [0.5, 0.5], [7.25, 3.0], [2.0, 2.0], [9.0, 11.0]])
    tokens = torch.randint(32, (2, 5), generator=torch.Generator().manual_seed(0))
    known = torch.tensor([[True, False, False, True, False], [False, False, True, False, False]])
    sampled = model.generate(
        [0, 1], rotary=model.model.rotary_table_at(positions), known_tokens=tokens, known_mask=known,
        spatial_guidance_scale=2.0, generator=generators(2),
    )  # fmt: skip
    assert sampled.shape == (2, 5) and torch.equal(sampled[known], tokens[known]) and sampled.min() >= 0


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("rotary", {"rotary": torch.zeros(17, 4)}),
        ("rotary", {"rotary": torch.zeros(17, 8, 2)}),
        ("rotary", {"rotary": torch.zeros(17, 4, 3)}),
        ("rotary", {"rotary": torch.zeros(1, 17, 4, 2)}),
        ("rotary", {"rotary": [[0.0]]}),
        ("rotary", {"rotary": torch.zeros(17, 4, 2), "grid_size": 4}),
        ("order", {"rotary": torch.zeros(17, 4, 2), "order": "hierarchical"}),
        ("order", {"rotary": torch.zeros(17, 4, 2), "order": "spiral_in"}),
        ("order", {"rotary": torch.zeros(17, 4, 2), "order": torch.arange(17)}),
        ("num_inference_steps", {"rotary": torch.zeros(6, 4, 2), "num_inference_steps": 6}),
    ],
)
def test_bad_tables_are_named_before_the_model_runs(model, monkeypatch, named, arguments):
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    with pytest.raises(ValueError, match=f"`{named}`"):
        model.generate([0], **arguments)


@pytest.mark.parametrize("kind", ["dense", "merge"])
def test_an_embedding_for_each_position_knows_no_positions_of_ones_own(make_model, kind):
    model = make_model(position_instruction=kind)
    with pytest.raises(ValueError, match="`rotary`"):
        model.generate([0], order="raster", rotary=model.model.rotary_table(4, 4, "cpu"))


def test_a_stored_order_of_a_grid_is_refused_for_positions_of_ones_own(model):
    model.generation_config.order = "center_first"
    with pytest.raises(ValueError, match="`order`"):
        model.generate([0], rotary=model.model.rotary_table(4, 4, "cpu"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tables_that_mixed_precision_has_cast_are_taken(dtype):
    table, states = rotary_table(2, 2, head_dim=8)[1].to(dtype), torch.arange(8.0)
    assert torch.equal(rotate(states, table), rotate(states, table.float()))
