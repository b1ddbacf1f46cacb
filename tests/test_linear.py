"""Linear layers that take the fast way on a CPU, plain and packed."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers import CompileConfig

from randar_hf.linear import Linear, PackedLinear


BFLOAT16_IS_PACKED = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # with AVX-512 or AMX


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_fast_linear_is_a_linear(rows, bias):
    torch.manual_seed(0)
    layer, states = Linear(48, 40, bias=bias), torch.randn(rows, 1, 48)
    exact = torch.nn.functional.linear(states.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with torch.no_grad():
        torch.testing.assert_close(layer(states).double(), exact, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer(states.transpose(0, 1)).double(), exact.transpose(0, 1), atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(states).dtype == torch.bfloat16
    assert layer(states).requires_grad  # training goes the ordinary way


@pytest.fixture(params=["make_model", "make_rar"])
def packable(request):
    return request.getfixturevalue(request.param)(num_hidden_layers=1).eval()


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_linear_is_a_linear(rows, bias):
    torch.manual_seed(0)
    layer, states = Linear(45, 37, bias=bias).requires_grad_(False), torch.randn(rows, 2, 45)
    packed, expected = PackedLinear(layer), layer(states)
    with torch.no_grad():
        torch.testing.assert_close(packed(states), expected, atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(packed(states), layer(states))
    states.requires_grad_()
    (gradient,) = torch.autograd.grad(packed(states).sum(), states)
    torch.testing.assert_close(gradient, layer.weight.sum(dim=0).expand_as(states))
    assert torch.equal(packed.unpack().weight, layer.weight) and not packed.unpack().weight.requires_grad


def test_packed_weights_give_the_same_tokens_under_the_same_names(packable, generators, tmp_path):
    tensors = {name: tensor.clone() for name, tensor in packable.state_dict().items()}
    names = [name for name, _ in packable.named_parameters()]
    linear = {name: type(part) for name, part in packable.named_modules() if isinstance(part, Linear)}
    expected = packable.generate([0, 1, 2], generator=generators(3))
    assert packable.pack_weights() is packable is packable.pack_weights()
    assert not any(isinstance(part, torch.nn.Linear) for part in packable.modules())
    assert [name for name, _ in packable.named_parameters()] == names

    packable.save_pretrained(tmp_path)
    packed_copy, loaded = copy.deepcopy(packable), type(packable).from_pretrained(tmp_path)
    packed_copy.load_state_dict(tensors)
    for model in (packable, packed_copy, loaded):
        assert torch.equal(model.generate([0, 1, 2], generator=generators(3)), expected)
        torch.testing.assert_close(dict(model.state_dict()), tensors, rtol=0, atol=0)
    assert packed_copy.lm_head.weight.is_mkldnn and not packable.unpack_weights().lm_head.weight.is_mkldnn
    assert {name: type(part) for name, part in packable.named_modules() if isinstance(part, Linear)} == linear
    assert torch.equal(packable.generate([0, 1, 2], generator=generators(3)), expected)


def test_moving_and_converting_unpacks(packable):
    expected = {name: tensor.bfloat16() for name, tensor in packable.state_dict().items()}
    moved = torch.nn.Sequential(packable.pack_weights()).to(torch.bfloat16)[0]
    torch.testing.assert_close(dict(moved.state_dict()), expected, rtol=0, atol=0)
    assert moved.train().lm_head.weight.requires_grad
    assert packable.eval().float().pack_weights().to("meta").device.type == "meta"


def test_packed_weights_are_not_trained(packable):
    labels = torch.zeros(1, 16, dtype=torch.long)
    packable.pack_weights()
    with pytest.raises(ValueError, match=r"`unpack_weights\(\)` before `train\(\)`"):
        packable.train()
    with pytest.raises(ValueError, match="PackedLinear.* is not supported"):
        get_peft_model(packable, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"`compile_config` must have another backend .*got 'inductor'"):
        packable.generate(0, compile_config=CompileConfig())
    packable(labels, labels=labels).loss.backward()
    assert packable.lm_head.weight.grad is None and packable.model.embed_tokens.weight.grad is not None


def test_packing_names_what_it_cannot_pack(make_model):
    model = make_model(num_hidden_layers=1)
    states = {
        "evaluation mode": copy.deepcopy(model).train(),
        "have no adapter": get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=["q_proj"])).model.eval(),
        "compute on the CPU .*got one on meta": copy.deepcopy(model).to("meta"),
        "be of torch.float32.*got torch.float16": copy.deepcopy(model).to(torch.float16),
        "quantised": copy.deepcopy(model),
    }
    quantize_(states["quantised"], Int8WeightOnlyConfig())
    for message, refused in states.items():
        kinds = [type(part) for part in refused.modules()]
        with pytest.raises(ValueError, match=f"`pack_weights` must.*{message}"):
            refused.pack_weights()
        assert [type(part) for part in refused.modules()] == kinds


def test_bfloat16_is_packed_where_the_processor_multiplies_it(model):
    half = model.to(torch.bfloat16)
    expected = half.generate([0, 1], num_inference_steps=2, do_sample=False)
    if BFLOAT16_IS_PACKED:
        found = half.pack_weights().generate([0, 1], num_inference_steps=2, do_sample=False)
        assert half.lm_head.weight.is_mkldnn and (found == expected).float().mean() > 0.5
    else:
        with pytest.raises(ValueError, match="must be of torch.float32 on this CPU, got torch.bfloat16"):
            half.pack_weights()
