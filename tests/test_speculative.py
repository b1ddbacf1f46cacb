"""Lossless decoding: the tokens of one step a token, whatever the settings, in fewer passes."""

import pytest
import torch
from transformers import LogitsProcessor

from randar_hf import RandARForCausalLM, RARForCausalLM, demo_checkpoint
from randar_hf.orders import make_order


N = 16


@pytest.fixture(scope="module")
def shipped():
    return RandARForCausalLM.from_pretrained(demo_checkpoint(), subfolder="transformer")


@pytest.fixture(scope="module")
def shipped_rar():
    return RARForCausalLM.from_pretrained(demo_checkpoint("rar"), subfolder="transformer")


def seeded(count, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def check(model, labels, windows=(1, 3, 8, 16), **settings):
    """Compare every window with one token a step; returns the passes that each takes."""
    num_tokens = settings.pop("num_tokens", model.config.num_tokens)
    expected = model.generate(labels, num_inference_steps=num_tokens, generator=seeded(len(labels)), **settings)
    counts = []
    for window in windows:
        states = model.generation_steps(labels, speculative_window=window, generator=seeded(len(labels)), **settings)
        *states, last = states
        assert torch.equal(last.tokens, expected), f"window {window}"
        counts.append(last.step + 1)
    assert all(count <= num_tokens for count in counts)
    return counts


@pytest.mark.parametrize(
    ("order", "guidance"),
    [
        ("raster", {"guidance_scale": 1.0}),
        ("random", {"guidance_scale": 4.0, "guidance_schedule": "linear"}),
        ("hierarchical", {"guidance_scale": 3.0, "guidance_schedule": "constant"}),
        ("sampled", {"guidance_scale": 4.0, "guidance_schedule": "power_cosine", "guidance_power": 1.5}),
    ],
)
def test_the_shipped_model_gives_the_same_tokens_in_fewer_passes(shipped, order, guidance):
    if order == "sampled":
        order = make_order("random", 8, 8, 4, torch.Generator().manual_seed(9))
    small, large = check(shipped, [0, 3, 5, 9], windows=(4, 32), order=order, **guidance)
    assert small < 50 and large < small and large < 36


@pytest.mark.parametrize("settings", [{"top_k": 5}, {"top_p": 0.8}, {"temperature": 1.3, "top_k": 20, "top_p": 0.95}])
def test_with_settings_of_sampling(shipped, settings):
    check(shipped, [1, 7], windows=(6, 16), **settings)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_tokens_in_fewer_passes():
    check(
        RandARForCausalLM.from_pretrained(demo_checkpoint(), subfolder="transformer").to("cuda"), [0, 3, 5, 9], (4, 16)
    )


def test_without_sampling(shipped):
    check(shipped, [2, 4], windows=(8,), do_sample=False, order="hierarchical")


@pytest.mark.parametrize("kind", ["rope", "dense", "merge", "none"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_every_kind_of_position_instruction(make_model, kind, scale):
    model = make_model(position_instruction=kind)
    check(model, [0, 1, 4], guidance_scale=scale)


@pytest.mark.parametrize("scan_order", ["raster", "spiral_out", "random"])
def test_rar(make_rar, scan_order):
    check(make_rar(scan_order=scan_order), [0, 1, 4], guidance_scale=3.0)


def test_the_shipped_rar(shipped_rar):
    assert check(shipped_rar, [0, 3, 5], windows=(8,))[0] < 60


@pytest.mark.parametrize("spatial", [{}, {"spatial_guidance_scale": 2.0}])
def test_known_tokens_and_ragged_batches(model, spatial):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(32, (4, N), generator=generator)
    known = torch.rand(4, N, generator=generator) < torch.tensor([0.0, 0.3, 0.8, 1.0])[:, None]
    settings = {"known_tokens": tokens, "known_mask": known, **spatial}
    check(model, [0, 1, 2, 3], **settings)
    together = model.generate([0, 1, 2, 3], speculative_window=5, generator=seeded(4), **settings)
    for i in range(4):  # each image at its own frontier
        own = {"known_tokens": tokens[i : i + 1], "known_mask": known[i : i + 1], **spatial}
        alone = model.generate([i], speculative_window=5, generator=seeded(1, first=i), **own)
        assert torch.equal(alone[0], together[i])
    nothing_left = torch.ones(1, N, dtype=torch.bool)
    states = model.generation_steps([0], speculative_window=5, known_tokens=tokens[:1], known_mask=nothing_left)
    assert [state.step for state in states] == [-1]


@pytest.mark.parametrize("grid_size", [(2, 7), (6, 6), (1, 1)])
def test_other_grids(model, grid_size):
    count = grid_size[0] * grid_size[1]
    check(model, [0, 1], windows=(1, min(4, count), count), grid_size=grid_size, num_tokens=count)


def test_a_batch_is_its_images_alone(shipped):
    together = shipped.generate([3, 3, 8], speculative_window=8, generator=seeded(3))
    for i, label in enumerate([3, 3, 8]):
        alone = shipped.generate([label], speculative_window=8, generator=seeded(1, first=i))
        assert torch.equal(alone[0], together[i])


def test_states_show_final_tokens_alone(shipped):
    states = list(shipped.generation_steps([3, 4], speculative_window=8, generator=seeded(2)))
    counts = torch.stack([(state.tokens >= 0).sum(dim=1) for state in states])  # (passes + 1, B)
    gained = counts.diff(dim=0)
    assert counts[0].eq(0).all() and counts[-1].eq(64).all() and gained.max() <= 8
    assert (gained[counts[:-1] < 64] >= 1).all()
    for before, after in zip(states, states[1:]):
        assert torch.equal(after.tokens[before.tokens >= 0], before.tokens[before.tokens >= 0])
    assert states[0].num_steps == 64 and states[-1].step < 40


def test_the_newest_token_may_be_changed_and_becomes_context(model):
    settings = {"order": "raster", "do_sample": False, "guidance_scale": 1.0}
    states = model.generation_steps([0], speculative_window=1, **settings)
    for state in states:
        if state.step == 0:
            state.tokens = state.tokens.masked_fill(state.tokens >= 0, 7)
    known = (torch.arange(N) < 1)[None]
    expected = model.generate([0], known_tokens=torch.full((1, N), 7), known_mask=known, **settings)
    assert torch.equal(state.tokens, expected)


@pytest.mark.parametrize("window", [None, 4])
def test_tokens_that_are_not_decoded_cannot_be_set(model, window):
    states = model.generation_steps([0], order="raster", speculative_window=window)
    next(states)
    next(states).tokens = torch.zeros(1, N, dtype=torch.long)
    with pytest.raises(ValueError, match="`tokens` of a state may be replaced where they are decoded"):
        list(states)


class Listener(LogitsProcessor):
    def __init__(self):
        self.known = []

    def __call__(self, input_ids, scores):
        self.known.append((input_ids >= 0).sum().item() // len(input_ids))
        return scores


def test_a_logits_processor_sees_guesses(shipped):
    listener, shown = Listener(), []
    for state in shipped.generation_steps([3], speculative_window=8, logits_processor=[listener]):
        shown.append((state.tokens >= 0).sum().item())
    assert all(seen >= final for seen, final in zip(listener.known, shown)) and sum(listener.known) > sum(shown[:-1])


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("`speculative_window` must be an int of at least 1, got 0", {"speculative_window": 0}),
        ("`speculative_window` must be an int of at least 1, got 2.5", {"speculative_window": 2.5}),
        ("`speculative_window` must lie between 1 and 16 tokens, got 17", {"speculative_window": 17}),
        ("`speculative_window` must come without", {"speculative_window": 4, "num_inference_steps": 8}),
    ],
)  # fmt: skip
def test_a_window_out_of_range_is_named(model, message, settings):
    with pytest.raises(ValueError, match=message):
        model.plan_generation([0], **settings)


def test_a_stored_window_is_cut_and_gives_way_to_steps(model, tmp_path):
    model.generation_config.speculative_window = 12
    model.save_pretrained(tmp_path)
    loaded = RandARForCausalLM.from_pretrained(tmp_path)
    assert loaded.plan_generation([0]).settings.speculative_window == 12
    assert loaded.plan_generation([0], grid_size=(2, 3)).settings.speculative_window == 6
    asked = loaded.plan_generation([0], num_inference_steps=5)
    assert asked.settings.speculative_window is None and asked.num_steps == 5
    assert torch.equal(
        loaded.generate([0], generator=seeded(1)), model.generate([0], num_inference_steps=16, generator=seeded(1))
    )


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize(
    ("cause", "change"),
    [
        ("weights hold such numbers", "weights"),
        ("`temperature`", {"temperature": 1e-45}),
        ("`guidance_scale`", {"guidance_scale": 1e38, "guidance_schedule": "constant"}),
        ("a logits processor leaves no token", {"logits_processor": [lambda ids, scores: scores - torch.inf]}),
    ],
)
def test_logits_that_are_not_finite_are_an_error(model, window, cause, change):
    if change == "weights":
        model.model.norm.weight.data[3], change = torch.nan, {}
    with pytest.raises(ValueError, match=f"`logits` must be finite.*{cause}"):
        model.generate([0, 1], speculative_window=window, **change)
