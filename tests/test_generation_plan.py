"""The plan of a call: defaults filled in, every argument checked, nothing sampled and nothing run."""

import pytest
import torch

from randar_hf import RandARGenerationConfig
from randar_hf.schedules import group_sizes


N = 16
TOKENS, MASK = torch.zeros(1, N, dtype=torch.long), torch.ones(1, N, dtype=torch.bool)


def test_a_plan_fills_in_defaults_and_says_what_it_needs(model):
    plan = model.plan_generation([3, 1], top_k=5, num_inference_steps=6, spatial_guidance_scale=2.0)
    assert plan.class_labels.tolist() == [3, 1] and plan.shape == (2, N) and plan.grid == (4, 4)
    assert (plan.num_steps, plan.branches) == (6, 3) and plan.group_sizes == [group_sizes(N, 6)] * 2
    stored = model.generation_config.to_dict()
    assert plan.settings.to_dict() == {**stored, "top_k": 5, "num_inference_steps": 6}
    assert model.generation_config.to_dict() == stored
    plain = model.plan_generation(0, guidance_scale=1.0, generation_config=RandARGenerationConfig(temperature=0.5))
    assert plain.branches == 1 and plain.settings.temperature == 0.5 and len(plain.processors) == 1
    assert len(model.plan_generation(0, temperature=1.0, top_k=0, top_p=1.0).processors) == 0
    assert model.plan_generation(0, num_inference_steps=N).num_steps == N


def test_steps_are_those_of_the_image_that_knows_least(model):
    known = torch.arange(N)[None] < torch.tensor([[0], [10], [16]])
    plan = model.plan_generation([0, 1, 2], known, num_inference_steps=7)
    assert plan.group_sizes == [group_sizes(16, 7), group_sizes(6, 6), []] and plan.num_steps == 7
    assert model.plan_generation([0], known[2:]).num_steps == 0
    assert model.plan_generation([0, 1], known[1:], speculative_window=4).num_steps == 6
    assert model.plan_generation([0], grid_size=(1, 3)).settings.num_inference_steps == 3  # a stored default is cut


def test_a_plan_is_what_generate_does(model, generators):
    known = torch.arange(N)[None] < torch.tensor([[3], [9]])
    tokens = torch.randint(32, (2, N), generator=torch.Generator().manual_seed(0))
    settings = {"order": "spiral_in", "num_inference_steps": 4, "spatial_guidance_scale": 1.5}
    plan = model.plan_generation([0, 1], known, **settings)
    expected = model.generate([0, 1], known_tokens=tokens, known_mask=known, generator=generators(2), **settings)
    for _ in range(2):  # a plan is not used up
        *_, last = model.decode(plan, tokens, generators(2))
        assert torch.equal(last.tokens, expected)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    *_, last = model.decode(plan, tokens, generators(2), order)
    settings["order"] = order
    again = model.generate([0, 1], known_tokens=tokens, known_mask=known, generator=generators(2), **settings)
    assert torch.equal(last.tokens, again)


BAD = [
    ("class_labels", {"class_labels": [6]}),
    ("class_labels", {"class_labels": [-1]}),
    ("class_labels", {"class_labels": [0.5]}),
    ("class_labels", {"class_labels": ["tench"]}),
    ("class_labels", {"class_labels": []}),
    ("order", {"order": "zigzag"}),
    ("order", {"order": torch.zeros(N, dtype=torch.long)}),
    ("order", {"order": torch.arange(15)}),
    ("order", {"order": torch.arange(N).repeat(2, 1)}),
    ("num_inference_steps", {"num_inference_steps": 0}),
    ("num_inference_steps", {"num_inference_steps": 17}),
    ("num_inference_steps", {"num_inference_steps": 2.5}),
    ("temperature", {"temperature": 0.0}),
    ("top_k", {"top_k": -1}),
    ("top_p", {"top_p": 0.0}),
    ("top_p", {"top_p": 1.5}),
    ("guidance_scale", {"guidance_scale": -0.5}),
    ("guidance_scale", {"guidance_scale": float("nan")}),
    ("guidance_scale", {"guidance_scale": float("inf")}),
    ("guidance_schedule", {"guidance_schedule": "square"}),
    ("guidance_power", {"guidance_power": -1.0}),
    ("grid_size", {"grid_size": 0}),
    ("grid_size", {"grid_size": (4, 4, 4)}),
    ("known_mask", {"known_mask": torch.ones(1, 9, dtype=torch.bool)}),
    ("known_mask", {"known_mask": torch.ones(1, N)}),
    ("known_mask", {"known_mask": "all"}),
    ("spatial_guidance_scale", {"spatial_guidance_scale": -0.1}),
    ("spatial_guidance_scale", {"spatial_guidance_scale": float("nan")}),
    ("spatial_guidance_scale", {"spatial_guidance_scale": True}),
    ("spatial_guidance_scale", {"spatial_guidance_scale": None}),
    ("spatial_dropout", {"spatial_dropout": 1.0}),
    ("spatial_dropout", {"spatial_dropout": -0.01}),
    ("spatial_dropout", {"spatial_dropout": True}),
    ("spatial_dropout", {"spatial_dropout": [0.25]}),
    ("spatial_dropout", {"spatial_dropout": torch.tensor(1.25)}),
    ("spatial_dropout", {"spatial_dropout": torch.ones(1, N)}),
    ("spatial_dropout", {"spatial_dropout": torch.ones(2, N, dtype=torch.bool)}),
    ("rotary", {"rotary": "table"}),
    ("rotary", {"rotary": torch.ones(1, 4, 2)}),
    ("rotary", {"rotary": torch.ones(17, 4)}),
    ("rotary", {"rotary": torch.ones(17, 4, 2, dtype=torch.long)}),
    ("grid_size", {"rotary": torch.ones(17, 4, 2), "grid_size": 4}),
    ("order", {"rotary": torch.ones(17, 4, 2), "order": "hierarchical"}),
    ("order", {"rotary": torch.ones(17, 4, 2), "generation_config": RandARGenerationConfig(order="hierarchical")}),
]


@pytest.mark.parametrize(("named", "arguments"), BAD)
def test_an_argument_out_of_range_is_named(model, monkeypatch, named, arguments):
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: pytest.fail("the model ran"))
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    given = {"class_labels": [0], **arguments}
    with pytest.raises(ValueError, match=f"`{named}`"):
        model.plan_generation(**given)
    with pytest.raises(ValueError, match=f"`{named}`"):  # and the call samples nothing before it says so
        model.generation_steps(**given, generator=generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("known_tokens", {"known_tokens": TOKENS.float()}),
        ("known_tokens", {"known_tokens": "all"}),
        ("known_tokens", {"known_tokens": TOKENS[:, :9]}),
        ("known_tokens", {"known_tokens": TOKENS + 32}),
        ("known_mask", {}),
        ("order", {"known_tokens": TOKENS, "order": torch.arange(15)}),
        ("generator", {"known_tokens": TOKENS, "generator": [torch.Generator()] * 2}),
    ],
)
def test_what_comes_when_a_plan_is_carried_out_is_checked_too(model, named, arguments):
    plan = model.plan_generation([0], MASK)
    with pytest.raises(ValueError, match=f"`{named}`"):
        model.decode(plan, **arguments)
    with pytest.raises(ValueError, match="`known_mask`"):
        model.decode(model.plan_generation([0]), TOKENS)


@pytest.mark.parametrize("named", ["generation_config", "logits_processor", "compile_config"])
def test_wrong_types_are_named(model, named):
    with pytest.raises(TypeError, match=f"`{named}`"):
        model.plan_generation([0], **{named: 3})
    with pytest.raises(TypeError, match="num_beams"):
        model.plan_generation([0], num_beams=4)


@pytest.mark.parametrize("order", ["random", "hierarchical", "spiral_in", torch.arange(N).roll(1)])
def test_a_model_of_one_order_takes_no_other(make_model, order):
    model, generator = make_model(position_instruction="none"), torch.Generator()
    with pytest.raises(ValueError, match="`order` must be 'raster'"):
        model.generation_steps([0], order=order, generator=generator)
    assert torch.equal(generator.get_state(), torch.Generator().get_state())
    with pytest.raises(ValueError, match="`known_mask` must be true for the first tokens"):
        model.plan_generation([0], MASK.roll(1) & (torch.arange(N) > 3))
    assert model.plan_generation([0], torch.arange(N)[None] < 4, order="raster").num_steps == 12
