"""Features: what a position slot sees after the sequence was read once or several times."""

import pytest
import torch

from randar_hf.layout import Layout, SequenceForm, repeated_layout
from randar_hf.orders import make_order


VARIANTS = ["rope", "dense", "merge", "none"]
N = 16


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def sample_images(count=3, num_tokens=N):
    generator = seeded(0)
    tokens = torch.randint(32, (count, num_tokens), generator=generator)
    return tokens, torch.randint(5, (count,), generator=generator)


def sample_order(kind, count=3):
    return torch.arange(N).expand(count, -1) if kind == "none" else make_order("random", 4, 4, count, seeded(7))


def to_raster(states, order):
    """States (B, N, D) in the sequence's order, laid out in raster order."""
    raster = torch.full_like(states, torch.nan)
    for image, positions in enumerate(order):
        for index, position in enumerate(positions):
            raster[image, position] = states[image, index]
    return raster


@torch.no_grad()
def hidden_states(model, tokens, labels, order, layout=None):
    """The layers' outputs (B, S, D), from the embeddings to the normalised ones."""
    return model.model(tokens, labels, order, layout, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2, -3])
def test_one_round_gives_the_hidden_states_of_the_forward_pass(make_model, kind, layer):
    model = make_model(position_instruction=kind)
    tokens, labels = sample_images()
    order = sample_order(kind)
    found = model.extract_features(tokens, labels, layer, 1, order=order)
    asked = slice(None) if kind in ("merge", "none") else slice(1, None, 2)
    expected = to_raster(hidden_states(model, tokens, labels, order)[layer][:, asked], order)
    assert found.shape == (3, N, 32) and not found.requires_grad
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rounds", [2, 3])
@pytest.mark.parametrize("layer", [1, -1])
def test_the_sequence_of_equation_8(model, rounds, layer):
    # [class], then P_0, x_0, ..., P_15, x_15 over and over; the last x_15 is read by nothing.
    tokens, labels = sample_images()
    order = sample_order("rope")
    one_round = [(N + 1, i) if is_query else (i, N) for i in range(N) for is_query in (True, False)]
    slots = torch.tensor([(N, N), *one_round * rounds])
    layout = Layout(slots[None, :, 0], slots[None, :, 1], torch.arange(len(slots) - 2 * N, len(slots), 2))
    states = hidden_states(model, tokens, labels, order, layout)[layer][:, layout.queries]
    found = model.extract_features(tokens, labels, layer, rounds, order=order)
    torch.testing.assert_close(found, to_raster(states, order), atol=1e-5, rtol=1e-5)
    assert len(repeated_layout(N, rounds, SequenceForm()).carried[0]) == 2 * N * rounds


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_token_reaches_every_feature_of_the_second_round_only(make_model, kind):
    model = make_model(position_instruction=kind)
    tokens, labels = sample_images(1)
    order = sample_order(kind, 1)
    rank = order[0].argsort()
    once, twice = (model.extract_features(tokens, labels, rounds=rounds, order=order) for rounds in (1, 2))
    for position in range(N):
        changed = tokens.clone()
        changed[0, position] = (tokens[0, position] + 1) % 32
        moved = model.extract_features(changed, labels, rounds=2, order=order) != twice
        assert moved.any(dim=-1).all()
        moved = model.extract_features(changed, labels, rounds=1, order=order) != once
        assert torch.equal(moved.any(dim=-1)[0], rank > rank[position])  # attention is causal: those after it


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_class_reaches_every_feature(make_model, kind):
    model = make_model(position_instruction=kind)
    tokens, _ = sample_images(1)
    order = sample_order(kind, 1)
    for rounds in (1, 2):
        null, other = (model.extract_features(tokens, [c], rounds=rounds, order=order) for c in (5, 2))
        assert (null != other).any(dim=-1).all()
        assert torch.equal(model.extract_features(tokens, rounds=rounds, order=order), null)


def test_embeddings_lie_in_raster_order_whatever_the_order(model):
    # Position slots of layer 0 hold the position instructions and nothing else.
    tokens, _ = sample_images()
    table = model.model.rotary_table(4, 4, "cpu")
    with torch.no_grad():
        expected = model.model.embed_instructions(torch.arange(N)[None], table)
    for order in ("random", "raster", "spiral_in", sample_order("rope")):
        for rounds in (1, 2):
            found = model.extract_features(tokens, layer=0, rounds=rounds, order=order)
            assert torch.equal(found, expected.expand(3, -1, -1))


def test_features_follow_the_order_given(model):
    tokens, labels = sample_images()
    order = sample_order("rope")
    found = model.extract_features(tokens, labels, order=order)
    sampled = model.extract_features(tokens, labels, generator=seeded(7))
    assert torch.equal(found, sampled)  # the default is a random order
    assert torch.equal(found, model.extract_features(tokens, labels, order="random", generator=seeded(7)))
    shared = model.extract_features(tokens, labels, order=order[0])
    torch.testing.assert_close(shared[0], found[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(shared[1], found[1], atol=1e-3)


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("rounds", [1, 2])
def test_an_image_does_not_depend_on_its_batch(make_model, generators, kind, rounds):
    model = make_model(position_instruction=kind)
    tokens, labels = sample_images(4)
    together = model.extract_features(tokens, labels, rounds=rounds, generator=generators(4))
    for i in range(4):
        alone = model.extract_features(
            tokens[i : i + 1], labels[i : i + 1], rounds=rounds, generator=generators(1, first=i)
        )
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)


def test_pooled_features_are_the_mean_over_the_positions(model):
    tokens, labels = sample_images()
    positions = model.extract_features(tokens, labels, generator=seeded(0))
    pooled = model.extract_features(tokens, labels, generator=seeded(0), pooled=True)
    assert pooled.shape == (3, 32)
    torch.testing.assert_close(pooled, sum(positions[:, position] for position in range(N)) / N)


@pytest.mark.parametrize("kind", ["rope", "none"])
@pytest.mark.parametrize("grid_size", [(3, 5), (2, 8), 6, (1, 1)])
def test_any_grid(make_model, kind, grid_size):
    model = make_model(position_instruction=kind)
    height, width = grid_size if isinstance(grid_size, tuple) else (grid_size, grid_size)
    tokens, labels = sample_images(2, height * width)
    found = model.extract_features(tokens, labels, grid_size=grid_size)
    assert found.shape == (2, height * width, 32) and found.isfinite().all()
    order, table = torch.arange(height * width), model.model.rotary_table(height, width, "cpu")
    asked = slice(None) if kind == "none" else slice(1, None, 2)
    with torch.no_grad():
        expected = model.model(tokens, labels, order, rotary=table).last_hidden_state[:, asked]
    found = model.extract_features(tokens, labels, rounds=1, order=order, grid_size=grid_size)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "merge"])
def test_an_embedding_for_each_position_knows_its_grid_only(make_model, kind):
    with pytest.raises(ValueError, match="`grid_size`"):
        make_model(position_instruction=kind).extract_features(sample_images()[0], grid_size=(2, 8))


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_decoder_without_a_head_has_features_too(make_model, kind):
    model = make_model(position_instruction=kind)
    tokens, labels = sample_images()
    order = sample_order(kind)
    with_head, without = (part.extract_features(tokens, labels, order=order) for part in (model, model.model))
    assert torch.equal(with_head, without)


def test_no_more_layers_run_than_asked_for(model, monkeypatch):
    monkeypatch.setattr(model.model.layers[1], "forward", lambda *args, **kwargs: pytest.fail("the layer ran"))
    assert model.extract_features(sample_images()[0], layer=1).isfinite().all()


def test_features_have_the_type_of_the_weights(make_model):
    model = make_model().to(torch.bfloat16)
    exact = make_model().extract_features(sample_images()[0], order="raster")
    found = model.extract_features(sample_images()[0], order="raster")
    assert found.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(found.float(), exact, dim=-1).min() > 0.99


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("input_ids", {"input_ids": torch.zeros(1, 15, dtype=torch.long)}),
        ("input_ids", {"input_ids": torch.full((1, 16), -1)}),
        ("class_labels", {"class_labels": [6]}),
        ("class_labels", {"class_labels": [0, 1]}),
        ("layer", {"layer": 3}),
        ("layer", {"layer": -4}),
        ("rounds", {"rounds": 0}),
        ("order", {"order": "zigzag"}),
        ("grid_size", {"grid_size": 0}),
        ("generator", {"generator": [torch.Generator()] * 2}),
        ("generator", {"generator": [torch.Generator()] * 2, "order": "raster"}),
        ("generator", {"generator": [torch.Generator()] * 2, "order": torch.arange(16)}),
    ],
)
def test_bad_input_is_named(model, monkeypatch, named, arguments):
    monkeypatch.setattr(model.model, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    with pytest.raises(ValueError, match=f"`{named}`"):
        model.extract_features(**{"input_ids": torch.zeros(1, 16, dtype=torch.long), **arguments})


def test_a_plain_raster_model_has_one_order(make_model):
    model = make_model(position_instruction="none")
    tokens, labels = sample_images()
    assert torch.equal(
        model.extract_features(tokens, labels), model.extract_features(tokens, labels, order=torch.arange(N))
    )
    with pytest.raises(ValueError, match="`order`"):
        model.extract_features(tokens, labels, order="random")


def test_rounds_that_do_not_fit_are_refused_before_a_list_is_made(model):
    with pytest.raises(ValueError, match="`rounds` gives 16000000000000 tokens .* GiB are free"):
        model.extract_features(torch.zeros(1, 16, dtype=torch.long), rounds=10**12)
