"""Parallel decoding: correctness of every step, sampling, orders, known tokens, settings, bad input."""

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.generation.streamers import BaseStreamer

from randar_hf import RandARForCausalLM, RandARGenerationConfig
from randar_hf.layout import Layout, list_slots
from randar_hf.orders import ORDER_NAMES, make_order
from randar_hf.schedules import group_sizes


def generate_without_cache(model, labels, order, groups, scale=1.0):
    """The same parallel decoding written from scratch: every step runs the whole sequence, one image at a time."""
    num_tokens, images = order.shape[1], []
    for label, positions in zip(labels, order, strict=True):
        tokens, done = torch.zeros(1, num_tokens, dtype=torch.long), 0
        for size in groups:
            slots = torch.tensor(list_slots(done, done + size, num_tokens, model.model.form))[None]
            layout = Layout(slots[..., 0], slots[..., 1], torch.arange(slots.shape[1] - size, slots.shape[1]))
            logits = model(tokens, torch.tensor([label]), order=positions[None], layout=layout).logits
            if scale != 1:
                null = model(tokens, None, order=positions[None], layout=layout).logits
                logits = null + (1 + (scale - 1) * done / num_tokens) * (logits - null)
            tokens[0, positions[done : done + size]] = logits.argmax(-1)[0]
            done += size
        images.append(tokens)
    return torch.cat(images)


@pytest.mark.parametrize("kind", ["rope", "dense", "merge"])
@pytest.mark.parametrize("steps", [1, 3, 7, 16])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@torch.no_grad()
def test_cache_equals_recomputation(make_model, kind, steps, scale):
    model = make_model(position_instruction=kind, num_key_value_heads=2)
    order = make_order("random", 4, 4, 2, torch.Generator().manual_seed(0))
    expected = generate_without_cache(model, [1, 4], order, group_sizes(16, steps), scale)
    sampled = model.generate([1, 4], order=order, num_inference_steps=steps, guidance_scale=scale, do_sample=False)
    assert torch.equal(sampled, expected)


@pytest.mark.parametrize("steps", [3, 16])
def test_eager_attention_decodes_the_same(model, steps):
    tokens = torch.randint(32, (2, 16), generator=torch.Generator().manual_seed(0))
    known = torch.zeros(2, 16, dtype=torch.bool)
    known[0, :9] = True  # the images differ in length, so that there is padding
    settings = {"known_tokens": tokens, "known_mask": known, "num_inference_steps": steps, "do_sample": False}
    with_sdpa = model.generate([0, 1], order="raster", **settings)
    model.set_attn_implementation("eager")
    assert torch.equal(model.generate([0, 1], order="raster", **settings), with_sdpa)


@torch.no_grad()
def test_plain_raster_model(make_model):
    model = make_model(position_instruction="none")
    expected = generate_without_cache(model, [1, 4], torch.arange(16).expand(2, -1), [1] * 16)
    assert torch.equal(model.generate([1, 4], guidance_scale=1.0, do_sample=False), expected)
    with pytest.raises(ValueError, match="order"):
        model.generate([1], order="random")
    with pytest.raises(ValueError, match="num_inference_steps"):
        model.generate([1], num_inference_steps=4)
    # It goes on with the next position, so it can complete a beginning and nothing else.
    beginning = torch.arange(16).expand(2, -1) < torch.tensor([[3], [9]])
    sampled = model.generate([1, 4], guidance_scale=1.0, do_sample=False, known_tokens=expected, known_mask=beginning)
    assert torch.equal(sampled, expected)
    with pytest.raises(ValueError, match="`known_mask`"):
        model.generate([1, 4], known_tokens=expected, known_mask=~beginning)


@torch.no_grad()
def test_sampling_follows_the_model_exactly(make_model):
    # One unknown token: its law is the softmax of one prediction.
    model = make_model(vocab_size=4, grid_size=2)
    count = 20_000
    tokens = torch.randint(4, (1, 4), generator=torch.Generator().manual_seed(0)).expand(count, -1)
    known = torch.ones(count, 4, dtype=torch.bool)
    known[:, 1] = False
    sampled = model.generate(
        [2] * count, known_tokens=tokens, known_mask=known, order="raster", guidance_scale=1.0,
        temperature=0.7, generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    order = torch.tensor([0, 2, 3, 1])
    law = (model(tokens[:1], torch.tensor([2]), order=order).logits[0, -1] / 0.7).softmax(-1)
    frequencies = torch.bincount(sampled[:, 1], minlength=4) / count
    assert ((frequencies - law).abs() < 4 * (law * (1 - law) / count).sqrt() + 1e-4).all()


@pytest.mark.parametrize(("order", "steps"), [*((name, 5) for name in ORDER_NAMES), ("random", 1), ("random", 16)])
def test_an_image_does_not_depend_on_its_batch(model, generators, order, steps):
    together = model.generate([0, 1, 2, 3], order=order, num_inference_steps=steps, generator=generators(4))
    assert together.min() >= 0
    for i in range(4):
        alone = model.generate([i], order=order, num_inference_steps=steps, generator=generators(1, first=i))
        assert torch.equal(together[i], alone[0])


def test_one_generator_serves_a_batch(model):
    first, second = (model.generate([0, 0], generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first[0], first[1])


def test_the_global_generator_is_left_alone(model, generators):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    model.generate([0, 1], generator=generators(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_orders_per_image_and_shared(model, generators):
    order = make_order("random", 4, 4, 2, torch.Generator().manual_seed(0))
    both = model.generate([0, 1], order=order, generator=generators(2), num_inference_steps=4)
    alone = model.generate([1], order=order[1], generator=generators(1, first=1), num_inference_steps=4)
    assert torch.equal(both[1], alone[0])


@pytest.mark.parametrize("grid_size", [(2, 7), (6, 6), (1, 1), 3])
def test_any_grid(model, generators, grid_size):
    height, width = grid_size if isinstance(grid_size, tuple) else (grid_size, grid_size)
    table, settings = model.model.rotary_table(height, width, "cpu"), {"guidance_scale": 1.0, "do_sample": False}
    for name in ("random", "hierarchical", "spiral_in"):
        order = make_order(name, height, width, 2, generators(2))
        steps = {"order": order, "grid_size": grid_size, "num_inference_steps": height * width}
        tokens = model.generate([0, 1], **steps, **settings)
        with torch.no_grad():
            expected = model(tokens, torch.tensor([0, 1]), order=order, rotary=table).logits.argmax(-1)
        assert torch.equal(tokens.gather(1, order), expected)


def test_known_tokens_come_back_and_images_may_differ_in_how_many(model, generators):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(32, (4, 16), generator=generator)
    known = torch.rand(4, 16, generator=generator) < torch.tensor([0.0, 0.3, 0.8, 1.0])[:, None]
    sampled = model.generate([0, 1, 2, 3], known_tokens=tokens, known_mask=known, generator=generators(4))
    assert torch.equal(sampled[known], tokens[known]) and sampled.min() >= 0 and torch.equal(sampled[3], tokens[3])
    for i in range(4):
        alone = model.generate(
            [i], known_tokens=tokens[i : i + 1], known_mask=known[i : i + 1], generator=generators(1, first=i)
        )
        assert torch.equal(alone[0], sampled[i])


def test_known_tokens_are_context(model):
    # All but one position known: the prediction is that of teacher forcing with this position last.
    tokens = torch.randint(32, (1, 16), generator=torch.Generator().manual_seed(0))
    known = torch.ones(1, 16, dtype=torch.bool)
    known[0, 9] = False
    order = torch.tensor([*range(9), *range(10, 16), 9])
    with torch.no_grad():
        expected = model(tokens, torch.tensor([1]), order=order).logits[0, -1].argmax()
    settings = {"order": "raster", "guidance_scale": 1.0, "do_sample": False}
    assert model.generate([1], known_tokens=tokens, known_mask=known, **settings)[0, 9] == expected


def test_guidance(model, generators):
    def generate(**settings):
        return model.generate([0, 1], generator=generators(2), **settings)

    # A scale of one is no guidance, and both schedules agree on it.
    plain = generate(guidance_scale=1.0)
    assert torch.equal(plain, generate(guidance_scale=1.0, guidance_schedule="constant"))
    # No weight on the class: what the null class gives.
    null = model.generate([5, 5], generator=generators(2), guidance_scale=1.0)
    assert torch.equal(generate(guidance_scale=0.0, guidance_schedule="constant"), null)
    assert not torch.equal(plain, null)


def test_top_k_and_top_p(model, generators):
    greedy = model.generate([0, 1], do_sample=False, order="raster")
    assert torch.equal(model.generate([0, 1], top_k=1, order="raster", generator=generators(2)), greedy)
    assert torch.equal(model.generate([0, 1], top_p=1e-6, order="raster", generator=generators(2)), greedy)
    assert not torch.equal(model.generate([0, 1], order="raster", generator=generators(2)), greedy)


class OnlyEvenTokens(LogitsProcessor):
    def __call__(self, input_ids, scores):
        assert input_ids.shape[1] == 16 and len(input_ids) == len(scores)
        return scores.masked_fill(torch.arange(scores.shape[1]) % 2 == 1, -torch.inf)


def test_logits_processors(model, generators):
    processors = LogitsProcessorList([OnlyEvenTokens(), SuppressTokensLogitsProcessor([0, 2])])
    for do_sample in (True, False):
        tokens = model.generate([0, 1], logits_processor=processors, generator=generators(2), do_sample=do_sample)
        assert (tokens % 2 == 0).all() and tokens.min() >= 4


def test_nothing_stays_on_the_model(model, generators):
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = model.generate([0, 1], generator=generators(2))
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(first, model.generate([0, 1], generator=generators(2)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_seldom_changes_a_token(make_model, generators, dtype):
    """The noise is that of single precision; a changed token changes what follows, so one step is closer than many."""
    exact, half = make_model(), make_model().to(dtype)
    for num_steps, same in ((1, 0.97), (16, 0.8)):
        settings = {"class_labels": [0, 1, 2, 3] * 4, "num_inference_steps": num_steps}
        expected, tokens = (model.generate(**settings, generator=generators(16)) for model in (exact, half))
        assert (tokens == expected).float().mean() >= same


def test_steps_show_what_is_known(model):
    states = list(model.generation_steps([0, 1], num_inference_steps=5))
    assert [state.step for state in states] == [-1, 0, 1, 2, 3, 4]
    counts = [(state.tokens >= 0).sum(dim=1).tolist() for state in states]
    assert [pair[0] for pair in counts] == [0, *torch.tensor(group_sizes(16, 5)).cumsum(0).tolist()]
    assert all(pair[0] == pair[1] for pair in counts)


def test_changed_tokens_are_context(model):
    settings = {"order": "raster", "num_inference_steps": 16, "guidance_scale": 1.0, "do_sample": False}
    states = model.generation_steps([0], **settings)
    for state in states:
        if state.step == 0:
            state.tokens = state.tokens.masked_fill(state.tokens >= 0, 7)
    known = torch.zeros(1, 16, dtype=torch.bool)
    known[0, 0] = True
    expected = model.generate([0], known_tokens=torch.full((1, 16), 7), known_mask=known, **settings)
    assert torch.equal(state.tokens, expected)


class Recorder(BaseStreamer):
    """Keep what a streamer gets."""

    def __init__(self):
        self.seen, self.ended = [], 0

    def put(self, value):
        assert not self.ended
        self.seen.append(value.clone())

    def end(self):
        self.ended += 1


def test_a_streamer_sees_the_image_appear(model, generators):
    tokens = torch.randint(32, (2, 16), generator=torch.Generator().manual_seed(0))
    known = torch.arange(16)[None] < torch.tensor([[0], [10]])
    streamer = Recorder()
    settings = {"known_tokens": tokens, "known_mask": known, "num_inference_steps": 5}
    sampled = model.generate([0, 1], streamer=streamer, generator=generators(2), **settings)
    assert streamer.ended == 1 and len(streamer.seen) == 6
    assert torch.equal(sampled, model.generate([0, 1], generator=generators(2), **settings))
    for before, after in zip(streamer.seen, streamer.seen[1:]):
        assert before.shape == (2, 16) and (after >= 0).sum() > (before >= 0).sum()
        assert torch.equal(after[before >= 0], before[before >= 0])
    assert torch.equal(streamer.seen[0], tokens.masked_fill(~known, -1)) and torch.equal(streamer.seen[-1], sampled)
    states = model.generation_steps([0, 1], generator=generators(2), **settings)
    assert all(torch.equal(state.tokens, seen) for state, seen in zip(states, streamer.seen, strict=True))


def test_a_streamer_of_an_image_that_is_known_sees_it_once(model):
    tokens, streamer = torch.arange(16)[None], Recorder()
    known = torch.ones(1, 16, dtype=torch.bool)
    assert torch.equal(model.generate([0], known_tokens=tokens, known_mask=known, streamer=streamer), tokens)
    assert streamer.ended == 1 and len(streamer.seen) == 1 and torch.equal(streamer.seen[0], tokens)


def test_guidance_cannot_start_on_the_way(model):
    states = model.generation_steps([0], guidance_scale=1.0)
    next(states).guidance_scale = 2.0
    with pytest.raises(ValueError, match="`guidance_scale`"):
        next(states)


def test_generation_config_is_saved_and_loaded(model, tmp_path):
    model.generation_config = RandARGenerationConfig(
        order="hierarchical", num_inference_steps=6, guidance_scale=2.5, temperature=0.9, top_k=7, top_p=0.8
    )
    model.save_pretrained(tmp_path)
    loaded = RandARForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded.generation_config, RandARGenerationConfig)
    assert loaded.generation_config == model.generation_config
    same = [m.generate([1], generator=torch.Generator().manual_seed(0)) for m in (model, loaded)]
    assert torch.equal(*same)
    assert (loaded.generation_config.top_k, loaded.generation_config.order) == (7, "hierarchical")


def test_loading_may_override_settings_of_the_model(model, tmp_path):
    model.generation_config.guidance_scale = 1.5
    model.save_pretrained(tmp_path)
    loaded = RandARForCausalLM.from_pretrained(tmp_path, attention_dropout=0.2)
    assert (loaded.config.attention_dropout, loaded.generation_config.guidance_scale) == (0.2, 1.5)


def test_call_settings_do_not_change_the_stored_ones(model):
    before = model.generation_config.to_dict()
    model.generate([0], num_inference_steps=3, top_k=2, order="raster")
    assert model.generation_config.to_dict() == before


def test_stored_steps_are_cut_to_small_grids(make_model):
    model = make_model()
    assert model.generation_config.num_inference_steps == 16
    assert model.generate([0], grid_size=(1, 3)).shape == (1, 3)


def test_what_is_no_streamer(model):
    model.forward = None  # nothing runs
    with pytest.raises(TypeError, match="`streamer` must be a BaseStreamer"):
        model.generate([0], streamer=print)
