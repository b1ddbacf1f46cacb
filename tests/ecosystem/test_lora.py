"""LoRA adapters of peft."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from randar_hf import RandARForCausalLM
from randar_hf.pipelines import RandARPipeline, save_with_code


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
GREEDY = {"order": "raster", "do_sample": False, "num_inference_steps": 6}
LABELS = torch.arange(4)


def add_adapter(model, **settings):
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(**{"r": 4, "target_modules": ATTENTION, **settings}))


def sample_tokens():
    return torch.randint(32, (4, 16), generator=torch.Generator().manual_seed(0))


def train(model, steps=10):
    """The losses of some steps on one batch."""
    tokens, losses = sample_tokens(), []
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=1e-2, weight_decay=0.0
    )
    for _ in range(steps):
        loss = model(input_ids=tokens, class_labels=LABELS, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


@torch.no_grad()
def logits(model):
    return model(sample_tokens(), LABELS).logits


@pytest.fixture
def tuned(make_model):
    model = add_adapter(make_model())
    train(model)
    return model


@pytest.fixture
def adapter(tuned, tmp_path):
    tuned.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ATTENTION, "all-linear"])
def test_training_lowers_the_loss_and_changes_the_adapter_only(make_model, targets):
    model = add_adapter(make_model(), target_modules=targets)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    losses = train(model)
    assert losses[-1] < 0.75 * losses[0]
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if "lora_" in name}


def test_new_classes_are_learned_beside_the_adapter(make_model):
    model = add_adapter(make_model(), modules_to_save=["embed_classes"])
    classes = model.get_base_model().model.embed_classes
    train(model)
    assert not torch.equal(classes.modules_to_save["default"].weight[:4], classes.original_module.weight[:4])
    assert torch.equal(classes.modules_to_save["default"].weight[4:], classes.original_module.weight[4:])


def test_a_saved_adapter_fits_a_fresh_model(make_model, tuned, adapter):
    assert (adapter / "adapter_model.safetensors").stat().st_size < 20_000
    loaded = PeftModel.from_pretrained(make_model(), adapter)
    assert torch.equal(logits(loaded), logits(tuned))
    assert torch.equal(loaded.generate(LABELS, **GREEDY), tuned.generate(LABELS, **GREEDY))
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned), logits(make_model()))


def test_a_merged_adapter_generates_the_same(make_model, tuned):
    adapted, expected = logits(tuned), tuned.generate(LABELS, **GREEDY)
    assert not torch.equal(expected, make_model().generate(LABELS, **GREEDY))
    merged = tuned.merge_and_unload()
    assert type(merged) is RandARForCausalLM and not any("lora" in name for name in merged.state_dict())
    torch.testing.assert_close(logits(merged), adapted, atol=1e-4, rtol=1e-4)
    assert torch.equal(merged.generate(LABELS, **GREEDY), expected)


def test_transformers_loads_the_adapter_by_itself(make_model, tuned, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    model = add_adapter(RandARForCausalLM.from_pretrained(tmp_path / "model"))
    train(model)
    model.save_pretrained(tmp_path / "adapter")
    loaded = RandARForCausalLM.from_pretrained(tmp_path / "adapter")  # finds its model by the noted folder
    assert torch.equal(loaded.generate(LABELS, **GREEDY), tuned.generate(LABELS, **GREEDY))


def test_the_pipeline_samples_with_an_adapter(make_model, vqvae, tuned, adapter):
    pipe = RandARPipeline(transformer=make_model(), vqvae=vqvae)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.load_adapter(adapter)
    pipe.transformer.generation_config.do_sample = False
    tokens = pipe(LABELS, order="raster", num_inference_steps=6, output_type="latent").images
    assert torch.equal(tokens, tuned.generate(LABELS, **GREEDY))
    pipe.transformer.disable_adapters()
    assert torch.equal(logits(pipe.transformer), logits(make_model()))


@pytest.mark.parametrize("way", ["wrapped", "injected", "unwrapped"])
def test_a_pipeline_with_an_adapter_is_not_saved(tuned, adapter, model, vqvae, tmp_path, way):
    if way == "injected":
        model.load_adapter(str(adapter))
    transformer = {"wrapped": tuned, "injected": model, "unwrapped": tuned.get_base_model()}[way]
    pipe = RandARPipeline(transformer=transformer, vqvae=vqvae)
    for save in (pipe.save_pretrained, pipe.push_to_hub, lambda folder: save_with_code(pipe, folder)):
        with pytest.raises(ValueError, match="(?s)`transformer` must carry no adapter .*merge_and_unload"):
            save(str(tmp_path / "pipe"))
    assert not (tmp_path / "pipe").exists()
    pipe = RandARPipeline(transformer=tuned.merge_and_unload(), vqvae=vqvae)
    pipe.save_pretrained(tmp_path / "pipe")
    again = RandARPipeline.from_pretrained(tmp_path / "pipe")
    assert torch.equal(*(p.transformer.generate(LABELS, **GREEDY) for p in (pipe, again)))
