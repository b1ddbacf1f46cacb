"""Weight-only int8 of torchao."""

import copy

import pytest
import torch
from diffusers import PipelineQuantizationConfig
from peft import LoraConfig, get_peft_model
from torchao.quantization import Int8Tensor, Int8WeightOnlyConfig, quantize_
from transformers import TorchAoConfig

from randar_hf import RandARForCausalLM, demo_checkpoint
from randar_hf.pipelines import RandARPipeline


GREEDY = {"order": "raster", "do_sample": False}
LABELS = torch.arange(10)


def load_shipped(**settings):
    return RandARForCausalLM.from_pretrained(demo_checkpoint(), subfolder="transformer", **settings)


def load_quantized():
    return load_shipped(quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))


def names_of_int8_weights(model):
    return {name for name, weight in model.named_parameters() if isinstance(weight, Int8Tensor)}


def test_quantize_keeps_most_greedy_tokens(record_property):
    model = load_shipped()
    quantized = copy.deepcopy(model)
    quantize_(quantized, Int8WeightOnlyConfig())
    linear = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert names_of_int8_weights(quantized) == linear

    expected, tokens = (m.generate(LABELS, **GREEDY) for m in (model, quantized))
    assert tokens.min() >= 0 and tokens.max() < model.config.vocab_size
    equal = (tokens == expected).float().mean().item()
    record_property("equal_greedy_tokens", equal)
    assert equal > 0.8
    with torch.no_grad():
        exact, rounded = (m(expected, LABELS).logits for m in (model, quantized))
    assert 0 < (rounded - exact).square().mean().sqrt() / exact.std() < 0.015
    assert (rounded.argmax(-1) == exact.argmax(-1)).float().mean() > 0.95


def test_quantized_weights_are_saved_and_loaded(tmp_path):
    model, quantized = load_shipped(), load_quantized()
    linear = {f"{name}.weight" for name, part in model.model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert names_of_int8_weights(quantized) == {f"model.{name}" for name in linear}  # the head stays as it is
    model.save_pretrained(tmp_path / "float32")
    quantized.save_pretrained(tmp_path / "int8")
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("float32", "int8")]
    assert sizes[0] - sizes[1] > 2.8 * sum(model.get_parameter(f"model.{name}").numel() for name in linear)  # of 3
    loaded = RandARForCausalLM.from_pretrained(tmp_path / "int8")
    assert names_of_int8_weights(loaded) == names_of_int8_weights(quantized)
    assert torch.equal(loaded.generate(LABELS, **GREEDY), quantized.generate(LABELS, **GREEDY))


def test_a_pipeline_holds_an_int8_model(vqvae, tmp_path):
    pipe = RandARPipeline.from_pretrained(demo_checkpoint(), transformer=load_quantized())
    pipe.save_pretrained(tmp_path)
    loaded = RandARPipeline.from_pretrained(tmp_path)
    images = []
    for candidate in (pipe, loaded):
        candidate.set_progress_bar_config(disable=True)
        images.append(candidate(4, generator=torch.Generator().manual_seed(0), output_type="pt").images)
    assert names_of_int8_weights(loaded.transformer) and torch.equal(*images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_learns_on_an_int8_model(dtype):
    model = load_shipped(dtype=dtype, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    tokens = torch.randint(model.config.vocab_size, (4, 64), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = model(input_ids=tokens, class_labels=LABELS[:4], labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model.eval().generate([0], num_inference_steps=6).shape == (1, 64)


def test_a_pipeline_takes_a_configuration_for_its_transformer():
    mapping = {"transformer": TorchAoConfig(Int8WeightOnlyConfig())}
    pipe = RandARPipeline.from_pretrained(
        demo_checkpoint(), quantization_config=PipelineQuantizationConfig(quant_mapping=mapping)
    )
    pipe.set_progress_bar_config(disable=True)
    assert names_of_int8_weights(pipe.transformer) == names_of_int8_weights(load_quantized()) != set()
    settings = {"num_inference_steps": 8, "order": "raster", "output_type": "latent"}
    images = [each([3], generator=torch.Generator().manual_seed(0), **settings).images for each in (pipe, pipe)]
    assert torch.equal(*images)
