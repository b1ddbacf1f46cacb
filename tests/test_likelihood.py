"""Likelihood: the chain rule in any order, given tokens, several classes, and how each token fits the others."""

import itertools

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from randar_hf.orders import make_order


VARIANTS = ["rope", "dense", "merge", "none"]
HEIGHT, WIDTH, N = 4, 4, 16


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def sample_images(count=3, num_tokens=N, vocab_size=32, seed=0):
    generator = seeded(seed)
    tokens = torch.randint(vocab_size, (count, num_tokens), generator=generator)
    return tokens, torch.randint(5, (count,), generator=generator)


def sample_order(kind, count=3, seed=7):
    return torch.arange(N).expand(count, -1) if kind == "none" else make_order("random", 4, 4, count, seeded(seed))


def pick(logits, tokens):
    """Log-probabilities (B, G) of tokens (B, G) under logits (B, G, V)."""
    return logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


@torch.no_grad()
def teacher_forced(model, tokens, labels, order, **positions):
    """Nats per token (B, N) in the order of the sequence."""
    return pick(model(tokens, labels, order=order, **positions).logits, tokens.gather(1, order))


def assert_close(first, second):
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", VARIANTS)
def test_log_likelihood_is_the_sum_of_the_predictions(make_model, kind):
    model = make_model(position_instruction=kind)
    tokens, labels = sample_images()
    order = sample_order(kind)
    found = model.log_likelihood(tokens, labels, order)
    assert found.shape == (3,) and not found.requires_grad
    assert_close(found, teacher_forced(model, tokens, labels, order).sum(dim=1))
    losses = torch.stack([model(tokens[i][None], labels[i : i + 1], order[i], tokens[i][None]).loss for i in range(3)])
    assert_close(found, -N * losses)


def test_orders_may_be_shared_and_change_the_likelihood(model):
    tokens, labels = sample_images()
    order = sample_order("rope")
    shared = model.log_likelihood(tokens, labels, order[0])
    assert_close(shared, model.log_likelihood(tokens, labels, order[:1].expand(3, -1)))
    assert ((shared - model.log_likelihood(tokens, labels, order))[1:].abs() > 1e-2).all()


@pytest.mark.parametrize("name", ["random", "hierarchical", "raster", "spiral_in"])
def test_a_named_order_is_averaged_over_its_samples(model, name):
    tokens, labels = sample_images()
    generator = seeded(3)
    orders = [make_order(name, 4, 4, 3, generator) for _ in range(3)]
    expected = torch.stack([model.log_likelihood(tokens, labels, order) for order in orders])
    assert_close(model.log_likelihood(tokens, labels, name, 3, generator=seeded(3)), expected.mean(dim=0))
    assert (expected[0] != expected[1]).any() == (name in ("random", "hierarchical"))


def test_tokens_sum_to_the_image_and_lie_in_raster_order(model):
    tokens, labels = sample_images()
    order = sample_order("rope")
    nats = model.log_likelihood(tokens, labels, order, per_token=True)
    in_sequence = teacher_forced(model, tokens, labels, order)
    for image, position in itertools.product(range(3), range(N)):
        assert_close(nats[image, order[image, position]], in_sequence[image, position])
    assert_close(nats.sum(dim=1), model.log_likelihood(tokens, labels, order))
    several = model.log_likelihood(tokens, labels, num_orders=2, generator=seeded(0), per_token=True)
    assert_close(several.sum(dim=1), model.log_likelihood(tokens, labels, num_orders=2, generator=seeded(0)))


@pytest.mark.parametrize("kind", VARIANTS)
def test_probabilities_of_all_images_sum_to_one(make_model, kind):
    model = make_model(position_instruction=kind, vocab_size=2, grid_size=2)
    images = torch.tensor(list(itertools.product((0, 1), repeat=4)))  # (16, 4)
    for order in [(0, 1, 2, 3)] if kind == "none" else itertools.permutations(range(4)):
        for label in (0, 5):
            found = model.log_likelihood(images, [label] * 16, torch.tensor(order))
            assert_close(found.exp().sum(), torch.tensor(1.0))
            assert found.std() > 0.05  # though the images differ


def test_probabilities_given_known_tokens_sum_to_one(make_model):
    model = make_model(vocab_size=2, grid_size=2)
    images = torch.tensor(list(itertools.product((0, 1), repeat=4)))
    known = torch.tensor([False, True, False, True]).expand(16, -1)
    found = model.log_likelihood(images, [1] * 16, torch.tensor([1, 2, 3, 0]), known_mask=known)
    for given in itertools.product((0, 1), repeat=2):
        alike = (images[:, [1, 3]] == torch.tensor(given)).all(dim=1)
        assert_close(found[alike].exp().sum(), torch.tensor(1.0))


def test_known_tokens_come_first_and_count_nothing(model):
    tokens, labels = sample_images(4)
    order = sample_order("rope", 4)
    known = torch.rand(4, N, generator=seeded(1)) < torch.tensor([0.0, 0.3, 0.8, 1.0])[:, None]
    nats = model.log_likelihood(tokens, labels, order, known_mask=known, per_token=True)
    assert nats.shape == (4, N) and (nats[known] == 0).all() and (nats[~known] < 0).all()
    for i in range(4):
        positions = [p for p in order[i].tolist() if known[i, p]] + [p for p in order[i].tolist() if not known[i, p]]
        expected = teacher_forced(model, tokens[i : i + 1], labels[i : i + 1], torch.tensor([positions]))[0]
        count = known[i].sum()
        assert_close(nats[i, positions[count:]], expected[count:])
    assert_close(model.log_likelihood(tokens, labels, order, known_mask=known), nats.sum(dim=1))
    assert torch.equal(nats[0], model.log_likelihood(tokens, labels, order, per_token=True)[0])


def test_known_tokens_of_a_plain_raster_model_are_its_first(make_model):
    model = make_model(position_instruction="none")
    tokens, labels = sample_images()
    known = torch.arange(N).expand(3, -1) < torch.tensor([0, 5, 16])[:, None]
    nats = model.log_likelihood(tokens, labels, known_mask=known, per_token=True)
    expected = teacher_forced(model, tokens, labels, sample_order("none")).masked_fill(known, 0)
    assert_close(nats, expected)
    with pytest.raises(ValueError, match="`known_mask`"):
        model.log_likelihood(tokens, labels, known_mask=~known)


class Listen(LogitsProcessor):
    """Keep the logits of every step."""

    def __init__(self):
        self.logits = []

    def __call__(self, input_ids, scores):
        self.logits.append(scores)
        return scores


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("num_known", [0, 6])
def test_generated_images_are_as_likely_as_their_samples_were(make_model, kind, num_known):
    model = make_model(position_instruction=kind)
    labels, order, listener = torch.tensor([0, 3, 5]), sample_order(kind), Listen()
    known = torch.zeros(3, N, dtype=torch.bool)
    known[:, :num_known] = True
    sampled = model.generate(
        labels, order, N, 1.0, generator=seeded(2), known_tokens=sample_images()[0], known_mask=known,
        logits_processor=LogitsProcessorList([listener]),
    )  # fmt: skip
    sequence = torch.tensor([[p for p in row if p >= num_known] for row in order.tolist()])  # (B, N - known)
    expected = pick(torch.stack(listener.logits, dim=1), sampled.gather(1, sequence))
    found = model.log_likelihood(sampled, labels, order, known_mask=known, per_token=True).gather(1, sequence)
    assert_close(found, expected)


def test_greedy_tokens_are_the_likeliest_at_every_step(model):
    order = sample_order("rope", 1)
    sampled = model.generate([2], order, N, 1.0, do_sample=False)
    nats = model.log_likelihood(sampled, [2], order, per_token=True)
    for position in order[0, [0, 7, 15]]:
        others = sampled.repeat(32, 1)
        others[:, position] = torch.arange(32)
        found = model.log_likelihood(others, [2] * 32, order[0], per_token=True)[:, position]
        assert found.argmax() == sampled[0, position]
        assert_close(found.max(), nats[0, position])


@pytest.mark.parametrize("grid_size", [(3, 5), (5, 3), 6, (1, 1)])
def test_any_grid(model, grid_size):
    height, width = grid_size if isinstance(grid_size, tuple) else (grid_size, grid_size)
    tokens, labels = sample_images(2, height * width)
    order = make_order("random", height, width, 2, seeded(0))
    rotary = model.model.rotary_table(height, width, "cpu")
    expected = teacher_forced(model, tokens, labels, order, rotary=rotary).sum(dim=1)
    assert_close(model.log_likelihood(tokens, labels, order, grid_size=grid_size), expected)
    assert_close(model.log_likelihood(tokens, labels, grid_size=grid_size, generator=seeded(0)), expected)


@pytest.mark.parametrize("kind", VARIANTS)
def test_an_image_does_not_depend_on_its_batch(make_model, generators, kind):
    model = make_model(position_instruction=kind)
    tokens, labels = sample_images(4)
    known = torch.arange(N) < torch.tensor([[0], [2], [9], [16]])

    def judge(rows, generator):
        some = {"generator": generator}
        found = [
            model.log_likelihood(tokens[rows], labels[rows], num_orders=2, known_mask=known[rows], **some),
            model.class_log_likelihoods(tokens[rows], generator=generators(4)[rows]),
        ]
        return (
            found if kind == "none" else [*found, model.token_log_likelihoods(tokens[rows], labels[rows], 5, **some)]
        )

    together = judge(slice(4), generators(4))
    for i in range(4):
        for alone, batched in zip(judge(slice(i, i + 1), generators(1, first=i)), together, strict=True):
            assert_close(alone[0], batched[i])


def test_half_precision_is_summed_in_single(make_model):
    tokens, labels = sample_images()
    exact = make_model().log_likelihood(tokens, labels, "raster")
    found = make_model().to(torch.bfloat16).log_likelihood(tokens, labels, "raster")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=0, rtol=0.02)


@pytest.mark.parametrize("kind", VARIANTS)
def test_each_class_is_judged_in_the_same_orders(make_model, kind):
    model = make_model(position_instruction=kind)
    tokens, _ = sample_images()
    found = model.class_log_likelihoods(tokens, num_orders=2, generator=seeded(5))
    assert found.shape == (3, 5) and not found.requires_grad
    for label in range(5):
        expected = model.log_likelihood(tokens, [label] * 3, num_orders=2, generator=seeded(5))
        assert_close(found[:, label], expected)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_pairs_at_once_change_nothing(model, batch_size):
    tokens, _ = sample_images()
    settings = {"class_labels": torch.tensor([4, 5, 0]), "num_orders": 2}
    found = model.class_log_likelihoods(tokens, generator=seeded(1), batch_size=batch_size, **settings)
    assert_close(found, model.class_log_likelihoods(tokens, generator=seeded(1), **settings))
    every = model.class_log_likelihoods(tokens, list(range(6)), 2, generator=seeded(1))
    assert_close(found, every[:, [4, 5, 0]])


def test_no_more_pairs_than_asked_for_run_at_once(model, monkeypatch):
    rows, forward = [], model.model.forward
    monkeypatch.setattr(
        model.model, "forward", lambda ids, *args, **kw: rows.append(len(ids)) or forward(ids, *args, **kw)
    )
    model.class_log_likelihoods(sample_images()[0], num_orders=2, batch_size=4)
    assert rows == [4, 4, 4, 3] * 2


def test_a_model_of_classes_names_them(make_model):
    # A model whose classes prefer tokens of their own: the embedding of a class is that of its favourite token.
    model = make_model(vocab_size=6, num_hidden_layers=1)
    for module in (model.model.layers[0].self_attn.o_proj, model.model.layers[0].mlp.down_proj):
        torch.nn.init.zeros_(module.weight)
    model.model.layers[0].self_attn.forward = lambda states, rotary, **kwargs: (states[:, :1].expand_as(states), None)
    directions = torch.nn.functional.pad(torch.eye(6), (0, 26))
    with torch.no_grad():
        model.model.position_instruction.zero_()
        model.model.embed_classes.weight.copy_(directions)
        model.lm_head.weight.copy_(directions)
    tokens = torch.tensor([[3] * N, [0] * N, [4] * 9 + [1] * 7])
    assert model.class_log_likelihoods(tokens).argmax(dim=1).tolist() == [3, 0, 4]


@pytest.mark.parametrize("kind", ["rope", "dense", "merge"])
def test_as_many_parts_as_tokens_judge_each_given_all_others(make_model, kind):
    model = make_model(position_instruction=kind)
    tokens, labels = sample_images(2)
    generator = seeded(4)
    order = make_order("random", 4, 4, 2, generator)
    found = model.token_log_likelihoods(tokens, labels, N, generator=seeded(4))
    assert found.shape == (2, N) and not found.requires_grad
    for image, position in itertools.product(range(2), range(N)):
        last = torch.tensor([[p for p in order[image].tolist() if p != position] + [position]])
        expected = teacher_forced(model, tokens[image][None], labels[image][None], last)[0, -1]
        assert_close(found[image, position], expected)


@pytest.mark.parametrize("num_parts", [2, 3, 5])
def test_a_part_is_judged_as_one_decoding_step_predicts_it(model, num_parts):
    tokens, labels = sample_images(2)
    order = make_order("random", 4, 4, 2, seeded(4))
    found = model.token_log_likelihoods(tokens, labels, num_parts, generator=seeded(4))
    for part in order.tensor_split(num_parts, dim=1):
        listener, known = Listen(), torch.ones(2, N, dtype=torch.bool).scatter(1, part, False)
        settings = {"num_inference_steps": 1, "guidance_scale": 1.0, "logits_processor": [listener]}
        model.generate(labels, order, known_tokens=tokens, known_mask=known, **settings)
        expected = pick(listener.logits[0].unflatten(0, (2, -1)), tokens.gather(1, part))
        assert_close(found.gather(1, part), expected)


def test_tokens_of_a_part_do_not_see_each_other(model):
    tokens, labels = sample_images(1)
    first, second = make_order("random", 4, 4, 1, seeded(4))[0].tensor_split(2)
    before = model.token_log_likelihoods(tokens, labels, 2, generator=seeded(4))[0]
    changed = tokens.clone()
    changed[0, first[0]] = (tokens[0, first[0]] + 1) % 32
    after = model.token_log_likelihoods(changed, labels, 2, generator=seeded(4))[0]
    assert torch.equal(before[first[1:]], after[first[1:]])
    assert (before[second] != after[second]).all()


def test_tokens_are_judged_at_positions_of_ones_own(model):
    tokens, labels = sample_images()
    native = model.token_log_likelihoods(tokens, labels, generator=seeded(0))
    table = model.model.rotary_table(4, 4, "cpu")
    assert torch.equal(model.token_log_likelihoods(tokens, labels, rotary=table, generator=seeded(0)), native)
    wide = model.token_log_likelihoods(tokens, labels, grid_size=(2, 8), generator=seeded(0))
    assert wide.shape == (3, N) and not torch.equal(wide, native)


BAD_IMAGES = [
    ("input_ids", {"input_ids": torch.zeros(1, 15, dtype=torch.long)}),
    ("input_ids", {"input_ids": torch.zeros(16, dtype=torch.long)}),
    ("input_ids", {"input_ids": torch.zeros(0, 16, dtype=torch.long)}),
    ("input_ids", {"input_ids": torch.zeros(1, 16)}),
    ("input_ids", {"input_ids": torch.zeros(1, 16, dtype=torch.bool)}),
    ("input_ids", {"input_ids": torch.full((1, 16), 32)}),
    ("input_ids", {"input_ids": torch.full((1, 16), -1)}),
    ("input_ids", {"input_ids": [[0] * 16]}),
    ("generator", {"generator": [torch.Generator()] * 2}),
]
BAD_LABELS, BAD_GRID = ("class_labels", {"class_labels": [6]}), ("grid_size", {"grid_size": 0})


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        *BAD_IMAGES,
        BAD_LABELS,
        BAD_GRID,
        ("input_ids", {"grid_size": (4, 5)}),
        ("class_labels", {"class_labels": [0, 1]}),
        ("order", {"order": "zigzag"}),
        ("order", {"order": torch.zeros(16, dtype=torch.long)}),
        ("order", {"order": torch.arange(15)}),
        ("order", {"order": torch.arange(16).repeat(2, 1)}),
        ("num_orders", {"num_orders": 0}),
        ("num_orders", {"order": torch.arange(16), "num_orders": 2}),
        ("generator", {"order": torch.arange(16), "generator": [torch.Generator()] * 2}),
        ("known_mask", {"known_mask": torch.ones(1, 16)}),
    ],
)
def test_bad_input_of_log_likelihood_is_named(model, monkeypatch, named, arguments):
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    with pytest.raises(ValueError, match=f"`{named}`"):
        model.log_likelihood(**{"input_ids": torch.zeros(1, 16, dtype=torch.long), "class_labels": [0], **arguments})


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        BAD_IMAGES[0],
        BAD_IMAGES[-1],
        BAD_LABELS,
        ("num_orders", {"num_orders": 0}),
        ("batch_size", {"batch_size": 0}),
    ],
)
def test_bad_input_of_class_log_likelihoods_is_named(model, monkeypatch, named, arguments):
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    with pytest.raises(ValueError, match=f"`{named}`"):
        model.class_log_likelihoods(**{"input_ids": torch.zeros(1, 16, dtype=torch.long), **arguments})


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        BAD_IMAGES[0],
        BAD_IMAGES[-1],
        BAD_LABELS,
        BAD_GRID,
        ("class_labels", {"class_labels": [0, 1]}),
        ("num_parts", {"num_parts": 1}),
        ("num_parts", {"num_parts": 17}),
        ("num_parts", {"num_parts": 5, "grid_size": 2, "input_ids": torch.zeros(1, 4, dtype=torch.long)}),
        ("rotary", {"rotary": torch.zeros(17, 3, 2)}),
        ("rotary", {"rotary": "native"}),
        ("rotary", {"rotary": torch.zeros(17, 4, 2), "grid_size": 4}),
        ("input_ids", {"rotary": torch.zeros(16, 4, 2)}),
    ],
)
def test_bad_input_of_token_log_likelihoods_is_named(model, monkeypatch, named, arguments):
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    with pytest.raises(ValueError, match=f"`{named}`"):
        model.token_log_likelihoods(
            **{"input_ids": torch.zeros(1, 16, dtype=torch.long), "class_labels": [0], **arguments}
        )


def test_wrong_generators_are_named(model):
    tokens, labels = sample_images(1)
    for judge in (model.log_likelihood, model.class_log_likelihoods, model.token_log_likelihoods):
        with pytest.raises(TypeError, match="`generator`"):
            judge(tokens, labels, generator=3)


@pytest.mark.parametrize("kind", ["dense", "merge"])
def test_an_embedding_for_each_position_knows_its_grid_only(make_model, kind):
    tokens, labels = sample_images(1)
    with pytest.raises(ValueError, match="`grid_size`"):
        make_model(position_instruction=kind).log_likelihood(tokens, labels, grid_size=(2, 8))


def test_a_plain_raster_model_has_one_order(make_model):
    model = make_model(position_instruction="none")
    tokens, labels = sample_images()
    raster = teacher_forced(model, tokens, labels, sample_order("none")).sum(dim=1)
    assert_close(model.log_likelihood(tokens, labels, num_orders=3), raster)
    assert_close(model.log_likelihood(tokens, labels, "raster"), raster)
    for order in ("zigzag", "spiral_in", torch.arange(15, -1, -1)):
        with pytest.raises(ValueError, match="`order`"):
            model.log_likelihood(tokens, labels, order)
    with pytest.raises(ValueError, match="a model of any order"):
        model.token_log_likelihoods(tokens, labels)


def test_orders_are_made_when_their_turn_comes(model):
    model.register_forward_pre_hook(lambda *args: pytest.fail("the model ran"))
    with pytest.raises(pytest.fail.Exception, match="the model ran"):
        model.log_likelihood(torch.zeros(1, 16, dtype=torch.long), [0], num_orders=10**12)
