"""Guidance by class and by space: the equations, the sequence that drops tokens, and what decoding makes of them."""

import pytest
import torch
from transformers import LogitsProcessor

from randar_hf.guidance import Guidance, check_scale
from randar_hf.layout import Layout, list_slots
from randar_hf.orders import make_order
from randar_hf.schedules import group_sizes


N = 16
NULL = 5


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Listen(LogitsProcessor):
    """Keep the guided logits of every step."""

    def __init__(self):
        self.logits = []

    def __call__(self, input_ids, scores):
        self.logits.append(scores)
        return scores


@pytest.fixture
def calls(model, monkeypatch):
    """`input_ids` of every forward pass of the model: (B * sequences, N), -1 where unknown or dropped."""
    seen, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **given: seen.append(given["input_ids"]) or forward(**given))
    return seen


def sample_logits():
    """Three predictions (2, 3, 8) for two images and three tokens."""
    return torch.randn(3, 2, 3, 8, generator=seeded(0)).unbind()


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_guidance_by_class(schedule):
    c, u, _ = sample_logits()
    done = torch.tensor([[0.25], [0.5]])
    found = Guidance(3.0, schedule).combine(torch.cat([c, u]), 3.0, done)
    for image, fraction in enumerate(done[:, 0].tolist()):
        weight = 1 + (3.0 - 1) * fraction if schedule == "linear" else 3.0
        torch.testing.assert_close(found[image], u[image] + weight * (c[image] - u[image]))


def test_equation_a():
    c, d, _ = sample_logits()
    found = Guidance(1.0, "linear", 2.5).combine(torch.cat([c, d]), 1.0, torch.tensor([[0.5]]))
    torch.testing.assert_close(found, d + 2.5 * (c - d))


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_equation_b(schedule):
    c, u, d = sample_logits()
    weight = 1 + (4.0 - 1) * 0.75 if schedule == "linear" else 4.0
    found = Guidance(4.0, schedule, 2.5).combine(torch.cat([c, u, d]), 4.0, torch.tensor([[0.75]]))
    torch.testing.assert_close(found, d + 2.5 * (u - d) + weight * (c - u))


def test_without_guidance_the_prediction_stays_as_it_is():
    c, _, _ = sample_logits()
    assert torch.equal(Guidance(1.0, "linear").combine(c, 1.0, torch.tensor([[0.5]])), c)


def test_the_scale_of_a_step_is_the_one_given_with_it():
    c, u, d = sample_logits()
    guidance, done = Guidance(4.0, "constant", 2.5), torch.tensor([[0.5]])
    torch.testing.assert_close(guidance.combine(torch.cat([c, u, d]), 1.0, done), d + 2.5 * (u - d) + c - u)


def test_guidance_by_class_cannot_begin_in_the_middle():
    check_scale(Guidance(2.0, "linear"), 3.0)
    check_scale(Guidance(1.0, "linear", 2.0), 1)
    with pytest.raises(ValueError, match="`guidance_scale` must stay 1 where generation started without .* got 2.0"):
        check_scale(Guidance(1.0, "linear"), 2.0)


@pytest.mark.parametrize(
    ("guidance", "labels"),
    [
        (Guidance(1.0, "linear"), [0, 1]),
        (Guidance(2.0, "linear"), [0, 1, NULL, NULL]),
        (Guidance(1.0, "linear", 2.0), [0, 1, 0, 1]),
        (Guidance(2.0, "linear", 2.0), [0, 1, NULL, NULL, NULL, NULL]),
    ],
)
def test_sequences_of_every_kind_of_guidance(guidance, labels):
    dropped = torch.rand(2, N, generator=seeded(0)) < 0.5
    assert guidance.null_labels(torch.tensor([0, 1]), NULL).tolist() == labels
    assert guidance.branches == len(labels) // 2
    if guidance.uses_spatial_guidance:
        others, last = guidance.dropped_tokens(dropped).split([len(labels) - 2, 2])
        assert torch.equal(last, dropped) and not others.any()


def test_a_dropped_token_is_all_zeros(model):
    # The slot keeps its place; only what it carries is gone, as by dropout in training (Sec. F).
    tokens, order = torch.arange(N)[None], torch.arange(N)[None]
    layout = Layout(torch.tensor([[3, 4]]), torch.full((1, 2), N), torch.tensor([1]))
    embeddings, positions = model.model.embed_slots(
        tokens.masked_fill(tokens == 3, -1), torch.tensor([0]), order, layout, model.model.rotary_table(4, 4, "cpu")
    )
    assert (embeddings[0, 0] == 0).all() and torch.equal(embeddings[0, 1], model.model.embed_tokens.weight[4])
    assert positions.tolist() == [[3, 4]]


@torch.no_grad()
def generate_without_cache(model, labels, order, groups, scale, spatial_scale, dropped, known=None, tokens=None):
    """Both equations written from scratch: every step runs three whole sequences, one image at a time."""
    images, form = [], model.model.form
    for i, positions in enumerate(order):
        image, mask = torch.full((1, N), -1), dropped[i : i + 1]
        done = 0
        if known is not None:
            positions = torch.cat([positions[known[i, positions]], positions[~known[i, positions]]])
            image[0, known[i]] = tokens[i, known[i]]
            done = int(known[i].sum())
        for size in groups[i]:
            slots = torch.tensor(list_slots(done, done + size, N, form))[None]
            layout = Layout(slots[..., 0], slots[..., 1], torch.arange(slots.shape[1] - size, slots.shape[1]))

            def predict(ids, label, layout=layout, positions=positions):
                return model(ids, torch.tensor([label]), order=positions[None], layout=layout).logits

            partial = image.masked_fill(mask, -1)
            if scale == 1:
                all_of_it, part = predict(image, labels[i]), predict(partial, labels[i])
                logits = part + spatial_scale * (all_of_it - part)  # (A)
            else:
                c, u, d = predict(image, labels[i]), predict(image, NULL), predict(partial, NULL)
                weight = 1 + (scale - 1) * done / N
                logits = d + spatial_scale * (u - d) + weight * (c - u)  # (B)
            image[0, positions[done : done + size]] = logits.argmax(-1)[0]
            done += size
        images.append(image)
    return torch.cat(images)


@pytest.mark.parametrize("kind", ["rope", "dense", "merge"])
@pytest.mark.parametrize("steps", [3, 16])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_cache_equals_recomputation(make_model, kind, steps, scale):
    model = make_model(position_instruction=kind)
    order = make_order("random", 4, 4, 2, seeded(0))
    dropped = torch.rand(2, N, generator=seeded(1)) < 0.4
    groups = [group_sizes(N, steps)] * 2
    expected = generate_without_cache(model, [1, 4], order, groups, scale, 2.5, dropped)
    settings = {"order": order, "num_inference_steps": steps, "guidance_scale": scale, "do_sample": False}
    sampled = model.generate([1, 4], spatial_guidance_scale=2.5, spatial_dropout=dropped, **settings)
    assert torch.equal(sampled, expected)
    assert not torch.equal(sampled, model.generate([1, 4], **settings))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_images_that_know_unequally_much_and_known_tokens_dropped(model, scale):
    order = make_order("random", 4, 4, 3, seeded(0))
    tokens = torch.randint(32, (3, N), generator=seeded(2))
    known = torch.rand(3, N, generator=seeded(3)).argsort(dim=1) < torch.tensor([[0], [6], [12]])
    dropped = torch.rand(3, N, generator=seeded(1)) < 0.4
    assert (known & dropped).any()
    groups = [group_sizes(count, min(5, count)) for count in (~known).sum(dim=1).tolist()]
    settings = {"num_inference_steps": 5, "guidance_scale": scale, "do_sample": False}
    settings |= {"known_tokens": tokens, "known_mask": known, "spatial_guidance_scale": 2.5}
    sampled = model.generate([0, 1, 4], order, spatial_dropout=dropped, **settings)
    reference = [model, [0, 1, 4], order, groups, scale, 2.5]
    assert torch.equal(sampled, generate_without_cache(*reference, dropped, known, tokens))
    assert torch.equal(sampled[known], tokens[known])
    # The known tokens that are dropped matter.
    assert not torch.equal(sampled, generate_without_cache(*reference, dropped & ~known, known, tokens))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_weight_of_one_is_plain_guidance_to_the_last_bit(model, calls, scale):
    runs, rows = [], []
    for settings in ({}, {"spatial_guidance_scale": 1.0}, {"spatial_guidance_scale": 1, "spatial_dropout": 0.9}):
        listener = Listen()
        tokens = model.generate(
            [1, 4], num_inference_steps=5, guidance_scale=scale, generator=seeded(0), logits_processor=[listener],
            **settings,
        )  # fmt: skip
        runs.append([tokens, *listener.logits])
        rows.append([len(ids) for ids in calls])
        calls.clear()
    for run in runs[1:]:
        assert all(torch.equal(first, second) for first, second in zip(runs[0], run, strict=True))
    assert rows == [[2 if scale == 1 else 4] * 5] * 3  # and no sequence more is run


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_where_nothing_is_dropped_guidance_is_plain(model, scale):
    settings = {"order": "raster", "num_inference_steps": 5, "guidance_scale": scale, "do_sample": False}
    plain = model.generate([1, 4], **settings)
    settings["spatial_guidance_scale"] = 2.5
    nothing = torch.zeros(2, N, dtype=torch.bool)
    assert torch.equal(model.generate([1, 4], spatial_dropout=0.0, **settings), plain)
    assert torch.equal(model.generate([1, 4], spatial_dropout=nothing, **settings), plain)


def test_the_fraction_given_of_new_tokens_is_dropped(model, calls):
    count = 200
    tokens = torch.randint(32, (count, N), generator=seeded(1))
    known = (torch.arange(N) < 6).expand(count, -1)
    settings = {"known_tokens": tokens, "known_mask": known, "spatial_guidance_scale": 2.5, "num_inference_steps": 5}
    for dropout in (0.25, 0.6):
        calls.clear()
        model.generate([0] * count, generator=seeded(0), spatial_dropout=dropout, **settings)
        everything, null, partial = calls[-1].chunk(3)
        assert torch.equal(everything, null)
        dropped = (partial == -1) & (everything != -1)
        assert not dropped[:, :6].any()  # what was known stays
        assert torch.equal(partial[~dropped], everything[~dropped])
        new = everything[:, 6:] != -1
        fraction = dropped[:, 6:][new].float().mean().item()
        assert abs(fraction - dropout) < 4 * (dropout * (1 - dropout) / new.sum().item()) ** 0.5
        # A token is dropped for good, so that the cache stays what a recomputation gives.
        for earlier in calls[:-1]:
            full, _, part = earlier.chunk(3)
            assert torch.equal(part == -1, (full == -1) | dropped | ((everything == -1) & (part == -1)))
        assert dropped.sum(dim=1).unique().numel() > 3  # each image has its own


def test_a_quarter_is_dropped_by_default(model, calls):
    partial = []
    for given in ({}, {"spatial_dropout": 0.25}, {"spatial_dropout": 0.5}):
        model.generate([0] * 100, num_inference_steps=2, spatial_guidance_scale=2.5, generator=seeded(0), **given)
        partial.append(calls[-1].chunk(3)[2] == -1)
    assert torch.equal(partial[0], partial[1]) and not torch.equal(partial[1], partial[2])


def test_a_mask_says_what_is_dropped(model, calls):
    tokens = torch.randint(32, (2, N), generator=seeded(1))
    known = (torch.arange(N) < 6).expand(2, -1)
    dropped = torch.rand(2, N, generator=seeded(2)) < 0.5
    settings = {"known_tokens": tokens, "known_mask": known, "spatial_guidance_scale": 2.5, "guidance_scale": 1.0}
    model.generate([0, 1], spatial_dropout=dropped, generator=seeded(0), **settings)
    for ids in calls:
        everything, partial = ids.chunk(2)
        assert torch.equal(partial, everything.masked_fill(dropped, -1))


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("do_sample", [True, False])
def test_an_image_does_not_depend_on_its_batch(model, generators, scale, do_sample):
    tokens = torch.randint(32, (4, N), generator=seeded(0))
    known = torch.rand(4, N, generator=seeded(3)) < torch.tensor([0.0, 0.3, 0.8, 1.0])[:, None]
    settings = {"num_inference_steps": 5, "guidance_scale": scale, "spatial_guidance_scale": 2.5}
    settings["do_sample"] = do_sample

    def generate(first, last):
        return model.generate(
            list(range(first, last)), known_tokens=tokens[first:last], known_mask=known[first:last],
            generator=generators(last - first, first=first), **settings,
        )  # fmt: skip

    together = generate(0, 4)
    assert torch.equal(together, generate(0, 4)) and torch.equal(together[known], tokens[known])
    for i in range(4):
        assert torch.equal(generate(i, i + 1)[0], together[i])


def test_one_generator_serves_a_batch_and_the_global_one_is_left_alone(model):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = (model.generate([0, 0], spatial_guidance_scale=2.5, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_spatial_guidance_at_another_grid(model):
    tokens = model.generate([0, 1], grid_size=(3, 6), spatial_guidance_scale=1.5, generator=seeded(0))
    assert tokens.shape == (2, 18) and tokens.min() >= 0


def test_a_plain_raster_model_can_be_guided_by_space(make_model):
    model = make_model(position_instruction="none")
    dropped = torch.rand(2, N, generator=seeded(1)) < 0.4
    order = torch.arange(N).expand(2, -1)
    expected = generate_without_cache(model, [1, 4], order, [[1] * N] * 2, 3.0, 2.5, dropped)
    settings = {"guidance_scale": 3.0, "do_sample": False, "spatial_guidance_scale": 2.5}
    assert torch.equal(model.generate([1, 4], spatial_dropout=dropped, **settings), expected)


def test_the_scale_by_class_may_change_between_steps_beside_spatial_guidance(model):
    settings = {"order": "raster", "num_inference_steps": 4, "do_sample": False, "guidance_schedule": "constant"}
    settings |= {"spatial_guidance_scale": 2.5, "spatial_dropout": torch.rand(1, N, generator=seeded(1)) < 0.4}
    states = model.generation_steps([0], guidance_scale=3.0, **settings)
    for state in states:
        state.guidance_scale = 6.0
    assert torch.equal(state.tokens, model.generate([0], guidance_scale=6.0, **settings))
