"""The cross-entropy of a head in blocks of rows: the same number and gradients, without all logits at once."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from randar_hf import RandARConfig, RandARForCausalLM, RARConfig, RARForCausalLM, loss
from randar_hf.loss import head_cross_entropy


SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MODELS = {"randar": (RandARForCausalLM, RandARConfig), "rar": (RARForCausalLM, RARConfig)}


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation gives."""

    largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        result = function(*arguments, **(settings or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.fixture(params=["randar", "rar"])
def model(request):
    model_class, config_class = MODELS[request.param]
    torch.manual_seed(0)
    model = model_class(config_class(**SIZES, intermediate_size=32, grid_size=4, num_classes=3)).train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(64, (5, 16), generator=generator)
    order = torch.rand(5, 16, generator=generator).argsort(1)
    return {"input_ids": tokens, "class_labels": torch.tensor([0, 1, 2, 0, 1]), "order": order, "labels": tokens}


def loss_and_gradients(model, batch, **settings):
    model.zero_grad()
    torch.manual_seed(0)  # of dropout
    output = model(**batch, **settings)
    output.loss.backward()
    return output, [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("block", [64, 7 * 64, 80 * 64])  # a row, seven rows, all 80
@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_change_neither_loss_nor_gradients(model, batch, monkeypatch, block, checkpointing):
    monkeypatch.setattr(loss, "BLOCK_LOGITS", block)
    if checkpointing:
        model.gradient_checkpointing_enable()
    whole, expected = loss_and_gradients(model, batch)
    output, gradients = loss_and_gradients(model, batch, return_logits=False)
    assert whole.logits.shape == (5, 16, 64) and output.logits is None
    assert output.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_mixed_precision_keeps_the_sums_in_full(model, batch, monkeypatch):
    monkeypatch.setattr(loss, "BLOCK_LOGITS", 7 * 64)
    with torch.autocast("cpu", torch.bfloat16):
        whole, expected = loss_and_gradients(model, batch)
        output, gradients = loss_and_gradients(model, batch, return_logits=False)
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=0.1, atol=0.01 * theirs.abs().max().item() + 1e-6)


def test_no_tensor_holds_more_than_a_block_of_logits(monkeypatch):
    monkeypatch.setattr(loss, "BLOCK_LOGITS", 10 * 512)
    head = nn.Linear(4, 512)
    states, codes = torch.randn(200, 4, requires_grad=True), torch.randint(512, (200,))
    with LargestTensor() as seen:
        head_cross_entropy(head, states, codes, 512).backward()
    assert seen.largest == 10 * 512
    with LargestTensor() as seen:
        nn.functional.cross_entropy(head(states), codes).backward()
    assert seen.largest == 200 * 512


@pytest.mark.parametrize(("block", "calls"), [(80 * 64, [80]), (80 * 64 - 1, [79, 1, 1, 79]), (64, [1] * 160)])
def test_rows_that_fill_a_block_are_computed_once_and_one_more_row_makes_two_blocks(monkeypatch, block, calls):
    monkeypatch.setattr(loss, "BLOCK_LOGITS", block)
    head, sizes = nn.Linear(4, 64), []
    head.register_forward_hook(lambda module, inputs, logits: sizes.append(len(logits)))
    states = torch.randn(80, 4, requires_grad=True)
    head_cross_entropy(head, states, torch.randint(64, (80,)), 64).backward()
    assert sorted(sizes) == sorted(calls)  # forward, and again in the backward pass of each of several blocks


def test_the_published_codebook_goes_in_blocks_of_512_rows():
    sizes = []

    def head(states):
        sizes.append(len(states))
        return states.expand(-1, 16384)

    head_cross_entropy(head, torch.zeros(1030, 1), torch.zeros(1030, dtype=torch.long), 16384)
    assert sizes == [512, 512, 6]


def test_a_codebook_larger_than_a_block_goes_row_by_row(monkeypatch):
    monkeypatch.setattr(loss, "BLOCK_LOGITS", 100)
    head, states, codes = nn.Linear(4, 512), torch.randn(3, 4), torch.tensor([0, 511, 7])
    expected = nn.functional.cross_entropy(head(states), codes)
    assert head_cross_entropy(head, states, codes, 512).item() == pytest.approx(expected.item(), rel=1e-6)


def test_blocks_compile_without_a_graph_break(model, batch, monkeypatch):
    monkeypatch.setattr(loss, "BLOCK_LOGITS", 30 * 64)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.config.token_dropout = model.config.class_dropout = 0.0
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    try:
        output, gradients = loss_and_gradients(compiled, batch, return_logits=False)
    finally:
        torch._dynamo.reset()
    whole, expected = loss_and_gradients(model, batch)
    assert output.logits is None and output.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_head_may_have_an_adapter_with_dropout(monkeypatch):
    monkeypatch.setattr(loss, "BLOCK_LOGITS", 7 * 64)
    torch.manual_seed(0)
    settings = {"target_modules": ["0"], "lora_dropout": 0.5, "init_lora_weights": False}
    head = get_peft_model(nn.Sequential(nn.Linear(16, 64)), LoraConfig(r=4, **settings)).train()
    states, codes = torch.randn(21, 16), torch.randint(64, (21,))
    weight = next(parameter for parameter in head.parameters() if parameter.requires_grad)
    direction = torch.randn(weight.shape)

    def loss_at(step):
        torch.manual_seed(0)  # of dropout, whose masks a backward pass must draw again
        with torch.no_grad():
            weight.add_(step * direction)
        value = head_cross_entropy(head, states, codes, 64)
        with torch.no_grad():
            weight.sub_(step * direction)
        return value

    loss_at(0.0).backward()
    difference = (loss_at(1e-2) - loss_at(-1e-2)).item() / 2e-2
    assert (weight.grad * direction).sum().item() == pytest.approx(difference, rel=1e-2)


@pytest.mark.parametrize("block", [2**20, 3 * 128])
def test_ignored_targets_count_neither_in_the_sum_nor_in_the_mean(monkeypatch, block):
    monkeypatch.setattr(loss, "BLOCK_LOGITS", block)
    head, states, codes = nn.Linear(4, 128), torch.randn(5, 4), torch.tensor([100, -100, 7, -100, 3])
    expected = nn.functional.cross_entropy(head(states), codes)
    assert head_cross_entropy(head, states, codes, 128).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(4,), (5, 1), ()])
def test_targets_that_do_not_fit_are_named(shape):
    with pytest.raises(ValueError, match="`targets` must be one code for each of the states"):
        head_cross_entropy(nn.Linear(4, 8), torch.randn(5, 4), torch.zeros(shape, dtype=torch.long), 8)


def test_without_labels_the_logits_are_all_there_is(model, batch):
    del batch["labels"]
    with pytest.raises(ValueError, match="`return_logits` must be True without `labels`, got False"):
        model(**batch, return_logits=False)
