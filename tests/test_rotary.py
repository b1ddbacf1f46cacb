import torch

from randar_hf.rotary import rotary_table, rotate


def test_rows_turn_the_first_half_and_columns_the_second():
    table = rotary_table(3, 5, head_dim=8)
    assert table.shape == (16, 4, 2)
    row, column = 2, 4
    angles = torch.tensor([row * 1.0, row * 0.01, column * 1.0, column * 0.01])
    expected = torch.stack([angles.cos(), angles.sin()], dim=-1)
    torch.testing.assert_close(table[row * 5 + column], expected)


def test_no_place_vanishes():
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
