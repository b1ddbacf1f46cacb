"""Decoding through torch.compile and torch.export."""

import io

import pytest
import torch
from torch import nn
from torch.export import Dim
from transformers import DynamicCache

from randar_hf.cache import preallocated_cache
from randar_hf.layout import Layout, SequenceForm, decoding_steps, longest_sequence
from randar_hf.orders import make_order


GREEDY = {"order": "raster", "do_sample": False}


class StepWithTensors(nn.Module):
    """One decoding step whose cache comes in and goes out as pairs of tensors, one pair a layer."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, class_labels, order, layout, rotary, attention_mask, cached):
        outputs = self.model(
            input_ids,
            class_labels,
            order,
            layout=Layout(*layout),
            rotary=rotary,
            attention_mask=attention_mask,
            past_key_values=DynamicCache(cached),
        )
        return outputs.logits, [(layer.keys, layer.values) for layer in outputs.past_key_values.layers]


@pytest.fixture(autouse=True)
def forget_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def draw_batch(batch_size):
    generator = torch.Generator().manual_seed(batch_size)
    tokens = torch.randint(32, (batch_size, 16), generator=generator)
    labels = torch.randint(6, (batch_size,), generator=generator)
    return tokens, labels, make_order("random", 4, 4, batch_size, generator)


def decode(model, steps, batch):
    """Logits of each step, as `generate` computes them."""
    cache = preallocated_cache(model.config.num_hidden_layers, longest_sequence(steps))
    rotary, logits = model.model.rotary_table(4, 4, "cpu"), []
    for layout, attention_mask, _, num_rewound in steps:
        outputs = model(
            *batch, layout=layout, rotary=rotary, attention_mask=attention_mask, past_key_values=cache
        )  # fmt: skip
        cache.crop(-num_rewound)
        logits.append(outputs.logits)
    return logits


def decode_with_tensors(first, others, steps, batch, rotary):
    """Arguments and logits of each step, the first taken by one module and the others by another."""
    taken, cached = [], []
    for index, (layout, attention_mask, _, num_rewound) in enumerate(steps):
        arguments = (*batch, tuple(layout), rotary, attention_mask, cached)
        logits, cached = (others if index else first)(*arguments)
        length = cached[0][0].shape[2] - num_rewound
        cached = [tuple(part[:, :, :length].contiguous() for part in pair) for pair in cached]
        taken.append((arguments, logits))
    return taken


def test_two_graphs_without_a_break_decode_a_ragged_batch(make_model):
    model = make_model(num_hidden_layers=1)
    known_mask = torch.zeros(3, 16, dtype=torch.bool)
    known_mask[1, :5] = known_mask[2, 2:13] = True
    settings = {**GREEDY, "num_inference_steps": 5, "known_tokens": draw_batch(3)[0], "known_mask": known_mask}
    expected = model.generate([0, 1, 2], **settings)

    graphs = []
    model.compile(fullgraph=True, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    assert torch.equal(model.generate([0, 1, 2], **settings), expected)
    assert 1 <= len(graphs) <= 2  # the first step's, and one more that leaves the lengths open


@torch.no_grad()
def test_one_exported_step_decodes_every_batch(make_model):
    model = make_model(num_hidden_layers=1)
    rotary, step = model.model.rotary_table(4, 4, "cpu"), StepWithTensors(model)
    steps = decoding_steps([0, 5, 11], [[4, 4, 4, 4], [5, 3, 2, 1], [1, 2, 2]], 16, SequenceForm(), "cpu")
    (_, (arguments, _), *_) = decode_with_tensors(step, step, steps, draw_batch(3), rotary)

    per_image, per_slot, per_cached = {0: Dim.AUTO}, {0: Dim.AUTO, 1: Dim.AUTO}, {0: Dim.AUTO, 2: Dim.AUTO}
    layout = (per_slot, per_slot, {0: Dim.AUTO})
    shapes = (per_image, per_image, per_image, layout, None, per_slot, [(per_cached, per_cached)])
    stored = io.BytesIO()
    torch.export.save(torch.export.export(step, arguments, dynamic_shapes=shapes, strict=True), stored)
    exported = torch.export.load(stored).module()

    other_steps = decoding_steps([0, 2, 2, 10], [[5, 5, 6], [7, 7], [7, 7], [3, 3]], 16, SequenceForm(), "cpu")
    for batch_size, plan in ((3, steps), (4, other_steps)):
        batch = draw_batch(batch_size)
        taken = decode_with_tensors(step, exported, plan, batch, rotary)
        for (_, logits), expected in zip(taken, decode(model, plan, batch), strict=True):
            torch.testing.assert_close(logits, expected)
