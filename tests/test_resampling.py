"""Sampling tokens of a finished image again: which ones, how many, how often, and that it helps."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from randar_hf import RandARForCausalLM, demo_checkpoint
from randar_hf.orders import make_order


N = 16


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def sample_images(count=3, num_tokens=N):
    generator = seeded(0)
    tokens = torch.randint(32, (count, num_tokens), generator=generator)
    return tokens, torch.randint(5, (count,), generator=generator)


@pytest.fixture
def resampled(model, monkeypatch):
    """Which tokens each round samples again, (B, N)."""
    masks, decode = [], model.decode
    monkeypatch.setattr(model, "decode", lambda plan, *args: masks.append(~plan.known_mask) or decode(plan, *args))
    return masks


@pytest.fixture
def opinionated(model):
    """A model that wants token 7 everywhere, and token 9 a little."""
    bias = torch.zeros(32)
    bias[7], bias[9] = 50.0, 25.0
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + bias)
    return model


def test_tokens_of_a_mask_are_sampled_again_given_the_rest(model):
    tokens, labels = sample_images()
    mask = torch.rand(3, N, generator=seeded(1)) < torch.tensor([[0.3], [0.6], [0.0]])
    found = model.refine(tokens, labels, mask, generator=seeded(2), num_inference_steps=4)
    expected = model.generate(
        labels, known_tokens=tokens, known_mask=~mask, generator=seeded(2), num_inference_steps=4
    )
    assert torch.equal(found, expected)
    assert torch.equal(found[~mask], tokens[~mask]) and (found[mask] != tokens[mask]).any()


def test_rounds_follow_each_other(model):
    tokens, labels = sample_images()
    mask = torch.rand(3, N, generator=seeded(1)) < 0.4
    one_by_one, generator = tokens, seeded(2)
    for _ in range(3):
        one_by_one = model.refine(one_by_one, labels, mask, generator=generator)
    assert torch.equal(model.refine(tokens, labels, mask, num_rounds=3, generator=seeded(2)), one_by_one)
    one_by_one, generator = tokens, seeded(2)
    for _ in range(3):
        one_by_one = model.refine(one_by_one, labels, share=0.3, generator=generator)
    assert torch.equal(model.refine(tokens, labels, share=0.3, num_rounds=3, generator=seeded(2)), one_by_one)


@pytest.mark.parametrize("share", [0.01, 1 / 16, 0.1, 0.25, 0.3, 0.5, 0.99, 1, 1.0])
def test_a_fraction_of_the_tokens_is_sampled_again(model, resampled, share):
    tokens, labels = sample_images()
    found = model.refine(tokens, labels, share=share, num_rounds=2, generator=seeded(0))
    count = next(count for count in range(N + 1) if count >= share * N)
    assert [mask.sum(dim=1).tolist() for mask in resampled] == [[count] * 3] * 2
    changed_once = model.refine(tokens, labels, share=share, generator=seeded(0)) != tokens
    assert (changed_once.sum(dim=1) <= count).all() and (found != tokens).any()


def test_fractions_that_are_no_binary_fractions_are_not_rounded_up(make_model, monkeypatch):
    # 0.07 * 100 is 7.000000000000001 in binary, and many fractions go wrong in single precision.
    model = make_model(grid_size=10)
    counts = []

    def keep(plan, known_tokens, generator):
        counts.append((~plan.known_mask).sum().item())
        return [SimpleNamespace(tokens=known_tokens)]

    monkeypatch.setattr(model, "decode", keep)
    for percent in range(1, 101):
        model.refine(torch.zeros(1, 100, dtype=torch.long), [0], share=percent / 100, num_parts=2)
    assert counts == list(range(1, 101))


def test_the_least_likely_tokens_are_sampled_again(model, resampled):
    tokens, labels = sample_images()
    scores = model.token_log_likelihoods(tokens, labels, num_parts=4, generator=seeded(0))
    model.refine(tokens, labels, share=0.3, num_parts=4, generator=seeded(0))
    (mask,) = resampled
    assert mask.sum(dim=1).tolist() == [5] * 3
    for image in range(3):
        assert scores[image][mask[image]].max() <= scores[image][~mask[image]].min()


def test_they_are_found_anew_in_each_round(opinionated, resampled):
    tokens = torch.full((1, N), 7)
    tokens[0, [1, 4, 9, 14]] = torch.tensor([9, 3, 9, 3])
    found = opinionated.refine(tokens, [0], share=2 / N, num_rounds=2, do_sample=False, generator=seeded(0))
    assert [mask[0].nonzero().flatten().tolist() for mask in resampled] == [[4, 14], [1, 9]]
    assert (found == 7).all()


def test_known_tokens_are_never_sampled_again(model, resampled):
    tokens, labels = sample_images(4)
    known = torch.arange(N)[None] < torch.tensor([[0], [6], [14], [16]])
    found = model.refine(tokens, labels, share=0.5, num_rounds=3, known_mask=known, generator=seeded(0))
    assert torch.equal(found[known], tokens[known])
    assert [mask.sum(dim=1).tolist() for mask in resampled] == [[8, 5, 1, 0]] * 3  # a fraction of those not known
    every = torch.ones(4, N, dtype=torch.bool)
    found = model.refine(tokens, labels, every, known_mask=known, generator=seeded(0))
    assert torch.equal(found[known], tokens[known]) and torch.equal(resampled[-1], ~known)


def test_no_rounds_and_empty_masks_change_nothing(model, monkeypatch):
    tokens, labels = sample_images()
    assert torch.equal(model.refine(tokens, labels, mask=torch.zeros(3, N, dtype=torch.bool)), tokens)
    assert torch.equal(model.refine(tokens, labels, known_mask=torch.ones(3, N, dtype=torch.bool)), tokens)
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    assert torch.equal(model.refine(tokens, labels, num_rounds=0), tokens)


def test_the_input_stays_as_it_was(model):
    tokens, labels = sample_images()
    before = tokens.clone()
    assert not torch.equal(model.refine(tokens, labels, share=0.5, generator=seeded(0)), before)
    assert torch.equal(tokens, before)


def test_generators_decide_everything(model):
    tokens, labels = sample_images()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second, other = (model.refine(tokens, labels, share=0.5, generator=seeded(s)) for s in (3, 3, 4))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("masked", [False, True])
def test_an_image_does_not_depend_on_its_batch(model, generators, masked):
    tokens, labels = sample_images(4)
    mask = torch.rand(4, N, generator=seeded(1)) < torch.tensor([[0.0], [0.3], [0.6], [1.0]]) if masked else None
    settings = {"share": 0.4, "num_rounds": 2, "num_inference_steps": 4}
    together = model.refine(tokens, labels, mask, generator=generators(4), **settings)
    for i in range(4):
        own = None if mask is None else mask[i : i + 1]
        alone = model.refine(tokens[i : i + 1], labels[i : i + 1], own, generator=generators(1, first=i), **settings)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("kind", ["rope", "dense", "merge"])
def test_an_image_that_the_model_wants_is_mended(make_model, kind):
    model = make_model(position_instruction=kind)
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + 50.0 * (torch.arange(32) == 7))
    whole = torch.full((2, N), 7)
    damaged = whole.clone()
    damaged[0, [2, 3, 11]] = torch.tensor([1, 2, 30])
    damaged[1, [0, 8, 15]] = torch.tensor([6, 6, 8])
    mended = model.refine(damaged, [0, 1], share=3 / N, generator=seeded(0))
    assert torch.equal(mended, whole)


def test_refining_raises_the_likelihood_of_a_damaged_image():
    model = RandARForCausalLM.from_pretrained(demo_checkpoint(), subfolder="transformer")
    labels = torch.arange(8)
    order = make_order("random", 8, 8, 8, seeded(9))
    images = model.generate(labels, generator=seeded(0))
    damage = torch.rand(8, 64, generator=seeded(1)).argsort(dim=1) < 6
    damaged = torch.where(damage, torch.randint(model.config.vocab_size, (8, 64), generator=seeded(2)), images)
    settings = {"share": 0.15, "num_rounds": 2, "do_sample": False, "guidance_scale": 1.0, "generator": seeded(3)}
    refined = model.refine(damaged, labels, **settings)
    before, after = (model.log_likelihood(tokens, labels, order) for tokens in (damaged, refined))
    assert (after > before + 5).all()


@pytest.mark.parametrize("grid_size", [(3, 5), 6])
def test_any_grid(model, grid_size):
    height, width = grid_size if isinstance(grid_size, tuple) else (grid_size, grid_size)
    tokens, labels = sample_images(2, height * width)
    table = model.model.rotary_table(height, width, "cpu")
    settings = {"share": 0.2, "num_inference_steps": 2, "order": "raster"}
    expected = model.refine(tokens, labels, **settings, rotary=table, generator=seeded(0))
    found = model.refine(tokens, labels, **settings, grid_size=grid_size, generator=seeded(0))
    assert torch.equal(found, expected)
    assert ((found != tokens).sum(dim=1) <= -(-height * width // 5)).all() and (found != tokens).any()


def test_positions_of_ones_own(model):
    tokens, labels = sample_images()
    table = model.model.rotary_table(4, 4, "cpu")
    native = model.refine(tokens, labels, share=0.4, num_rounds=2, generator=seeded(0))
    assert torch.equal(
        model.refine(tokens, labels, share=0.4, num_rounds=2, rotary=table, generator=seeded(0)), native
    )


def test_settings_of_generate_count(model):
    tokens, labels = sample_images()
    mask = torch.rand(3, N, generator=seeded(1)) < 0.5
    greedy, guided, spatial = (
        model.refine(tokens, labels, mask, do_sample=False, order="raster", **settings)
        for settings in ({"guidance_scale": 1.0}, {"guidance_scale": 6.0}, {"spatial_guidance_scale": 4.0})
    )
    for first, second in itertools.combinations((greedy, guided, spatial), 2):
        assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("input_ids", {"input_ids": torch.zeros(1, 15, dtype=torch.long)}),
        ("input_ids", {"input_ids": torch.full((1, 16), -1)}),
        ("class_labels", {"class_labels": [6]}),
        ("class_labels", {"class_labels": [0, 1]}),
        ("mask", {"mask": torch.ones(1, 16)}),
        ("mask", {"mask": torch.ones(1, 15, dtype=torch.bool)}),
        ("mask", {"mask": "worst"}),
        ("known_mask", {"known_mask": torch.ones(2, 16, dtype=torch.bool)}),
        ("share", {"share": 0}),
        ("share", {"share": 1.01}),
        ("share", {"share": float("nan")}),
        ("share", {"share": None}),
        ("num_rounds", {"num_rounds": -1}),
        ("num_rounds", {"num_rounds": 1.0}),
        ("grid_size", {"grid_size": 0}),
        ("rotary", {"rotary": torch.zeros(17, 3, 2)}),
        ("generator", {"generator": [torch.Generator()] * 2}),
        ("num_inference_steps", {"num_inference_steps": 17}),  # a setting of generation arrives at its plan
        ("share", {"mask": torch.ones(1, 16, dtype=torch.bool), "share": 0}),
        ("input_ids", {"mask": torch.ones(1, 16, dtype=torch.bool), "input_ids": torch.full((1, 16), 32)}),
    ],
)
def test_bad_input_is_named_before_the_model_runs(model, monkeypatch, named, arguments):
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    defaults = {"input_ids": torch.zeros(1, 16, dtype=torch.long), "class_labels": [0]}
    with pytest.raises(ValueError, match=f"`{named}`"):
        model.refine(**{**defaults, **arguments})


@pytest.mark.parametrize("mask", [None, torch.ones(3, 16, dtype=torch.bool)])
@pytest.mark.parametrize("num_parts", [1, 17, 4.0])
def test_wrong_parts_are_named(model, num_parts, mask):
    with pytest.raises(ValueError, match="`num_parts`"):
        model.refine(*sample_images(), mask, num_parts=num_parts)


@pytest.mark.parametrize("grid_size", [(1, 1), (1, 5), (2, 4)])
def test_grids_of_few_tokens_are_judged_in_as_many_parts(model, grid_size):
    tokens = torch.zeros(2, grid_size[0] * grid_size[1], dtype=torch.long)
    scores = model.token_log_likelihoods(tokens, [0, 1], grid_size=grid_size, generator=seeded(0))
    assert scores.shape == tokens.shape and (scores < 0).all()
    refined = model.refine(tokens, [0, 1], share=1.0, grid_size=grid_size, generator=seeded(0))
    assert refined.shape == tokens.shape and (refined != 0).any()


def test_unknown_settings_are_refused(model):
    with pytest.raises(TypeError, match="num_beams"):
        model.refine(*sample_images(), num_beams=4)


def test_a_plain_raster_model_cannot_judge_tokens_given_all_others(make_model):
    with pytest.raises(ValueError, match="a model of any order"):
        make_model(position_instruction="none").refine(*sample_images())
