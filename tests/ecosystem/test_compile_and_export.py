"""Decoding through torch.compile and torch.export."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.export import Dim
from transformers import CompileConfig

from randar_hf.cache import IndexedCache
from randar_hf.frontier import PaperSchedule
from randar_hf.layout import Layout, SequenceForm, sequence_length
from randar_hf.orders import make_order


GREEDY = {"order": "raster", "do_sample": False}


class StepWithTensors(nn.Module):
    """One pass of decoding whose cache comes in and goes out as pairs of tensors, one pair a layer."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, class_labels, order, layout, rotary, cached):
        cache = IndexedCache(len(cached), cached[0][0].shape[2] - 1)
        for layer, (keys, values) in zip(cache.layers, cached, strict=True):
            layer.keys, layer.values, layer.is_initialized = keys.clone(), values.clone(), True
        cache.read_up_to(cached[0][0].shape[2])
        outputs = self.model(
            input_ids, class_labels, order, layout=Layout(*layout), rotary=rotary, past_key_values=cache
        )  # fmt: skip
        return outputs.logits, [(layer.keys, layer.values) for layer in cache.layers]


@pytest.fixture(autouse=True)
def forget_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def sample_batch(batch_size):
    generator = torch.Generator().manual_seed(batch_size)
    tokens = torch.randint(32, (batch_size, 16), generator=generator)
    labels = torch.randint(6, (batch_size,), generator=generator)
    return tokens, labels, make_order("random", 4, 4, batch_size, generator)


def decode(model, passes, batch):
    """Logits of each pass, as `generate` computes them."""
    cache = IndexedCache(model.config.num_hidden_layers, sequence_length(16, model.model.form))
    rotary, logits = model.model.rotary_table(4, 4, "cpu"), []
    for step in passes:
        cache.read_up_to(step.length)
        outputs = model(*batch, layout=step.layout, rotary=rotary, past_key_values=cache)
        logits.append(outputs.logits)
    return logits


def decode_with_tensors(module, passes, batch, rotary, cached):
    """Arguments and logits of each pass."""
    taken = []
    for step in passes:
        arguments = (*batch, tuple(step.layout), rotary, cached)
        logits, cached = module(*arguments)
        taken.append((arguments, logits))
    return taken


def test_two_graphs_without_a_break_decode_a_ragged_batch(make_model):
    model = make_model(num_hidden_layers=1)
    known_mask = torch.zeros(3, 16, dtype=torch.bool)
    known_mask[1, :5] = known_mask[2, 2:13] = True
    settings = {**GREEDY, "num_inference_steps": 5, "known_tokens": sample_batch(3)[0], "known_mask": known_mask}
    expected = model.generate([0, 1, 2], **settings)

    graphs = []
    model.compile(fullgraph=True, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    assert torch.equal(model.generate([0, 1, 2], **settings), expected)
    assert 1 <= len(graphs) <= 2  # the first step's, and one more that leaves the lengths open


@pytest.mark.parametrize(
    ("build", "pace"),
    [
        ("make_model", {"num_inference_steps": 22}),  # of ten sizes
        ("make_rar", {"speculative_window": 5}),
        pytest.param("make_model", {"speculative_window": 5}, marks=pytest.mark.slow),
        pytest.param("make_rar", {}, marks=pytest.mark.slow),
    ],
)
def test_a_compiled_run_takes_three_shapes_whatever_the_batch(build, pace, request, generators):
    """Every graph is for one shape, as a captured one is; the second run of a batch size adds none."""
    model = request.getfixturevalue(build)(num_hidden_layers=1, grid_size=8)
    known = {"known_tokens": torch.zeros(3, 64, dtype=torch.long), "known_mask": torch.arange(64)[None] < 9}
    known["known_mask"] = known["known_mask"] & torch.tensor([True, True, False])[:, None]
    graphs = []
    config = CompileConfig(
        fullgraph=True, dynamic=False, backend=lambda graph, inputs: graphs.append(graph) or graph.forward, mode=None
    )
    for batch_size, settings in ((1, {}), (3, known)):
        expected = model.generate([0] * batch_size, generator=generators(batch_size), **pace, **settings)
        torch._dynamo.reset()
        graphs.clear()
        for _ in range(2):
            found = model.generate(
                [0] * batch_size, generator=generators(batch_size), compile_config=config, **pace, **settings
            )
            assert torch.equal(found, expected) and 1 <= len(graphs) <= 3


def test_every_batch_size_shares_four_graphs(make_model):
    """torch keeps eight graphs of a function; by default lengths and batch sizes are left open."""
    model, graphs = make_model(num_hidden_layers=1), []
    config = CompileConfig(fullgraph=True, mode=None, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    for batch_size in (1, 2, 3, 5, 4, 1):
        settings = {**GREEDY, "num_inference_steps": 5}
        expected = model.generate([0] * batch_size, **settings)
        assert torch.equal(model.generate([0] * batch_size, **settings, compile_config=config), expected)
    assert len(graphs) <= 4


@torch.no_grad()
def test_one_exported_step_decodes_every_batch(make_model):
    model = make_model(num_hidden_layers=1)
    rotary, step = model.model.rotary_table(4, 4, "cpu"), StepWithTensors(model)
    passes = PaperSchedule([0, 5, 11], [[4, 4, 4, 4], [5, 3, 2, 1], [1, 2, 2]], 16, SequenceForm(), "cpu").passes
    empty = [(torch.zeros(3, 4, 33, 8), torch.zeros(3, 4, 33, 8))]
    (_, (arguments, _), *_) = decode_with_tensors(step, passes, sample_batch(3), rotary, empty)

    per_image, per_slot = {0: Dim.AUTO}, {0: Dim.AUTO, 1: Dim.AUTO}
    shapes = (
        per_image,
        per_image,
        per_image,
        (per_slot, per_slot, per_slot, per_image),
        None,
        [(per_image, per_image)],
    )
    stored = io.BytesIO()
    torch.export.save(torch.export.export(step, arguments, dynamic_shapes=shapes, strict=True), stored)
    exported = torch.export.load(stored).module()

    other = PaperSchedule([0, 2, 2, 10], [[5, 5, 6], [7, 7], [7, 7], [3, 3]], 16, SequenceForm(), "cpu").passes
    for batch_size, plan in ((3, passes), (4, other)):
        batch, empty = sample_batch(batch_size), [(torch.zeros(batch_size, 4, 33, 8),) * 2]
        taken = decode_with_tensors(exported, plan, batch, rotary, empty)
        for (_, logits), expected in zip(taken, decode(model, plan, batch), strict=True):
            torch.testing.assert_close(logits, expected)


@pytest.fixture(params=["randar", "rar", "merged"])
def any_model(request, make_model, make_rar):
    if request.param == "randar":
        return make_model(num_hidden_layers=1).eval()
    model = make_rar(num_hidden_layers=1, random_ratio=0.0).eval()
    return model.merge_positions() if request.param == "merged" else model


def sample_readable(model, batch_size):
    """A batch whose order every model can read."""
    tokens, labels, _ = sample_batch(batch_size)
    return tokens, labels, torch.arange(16).expand(batch_size, -1).clone()


@torch.no_grad()
def test_a_pass_is_exported_with_a_free_batch_size(any_model):
    per_image = {0: Dim.AUTO}
    exported = torch.export.export(any_model, sample_readable(any_model, 3), dynamic_shapes=(per_image,) * 3).module()
    for batch_size in (2, 5):
        batch = sample_readable(any_model, batch_size)
        torch.testing.assert_close(exported(*batch).logits, any_model(*batch).logits)


@torch.no_grad()
def test_a_pass_with_an_order_is_compiled_without_a_break(any_model):
    batch = sample_readable(any_model, 3)
    expected = any_model(*batch).logits
    for model in (any_model, copy.deepcopy(any_model).pack_weights()):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*batch).logits, expected)
