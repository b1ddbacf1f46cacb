"""Weights in another type, spread by a device map, and cut into several files."""

import logging

import pytest
import torch
import transformers

from randar_hf import RandARForCausalLM, RARForCausalLM
from randar_hf.pipelines import RandARInpaintPipeline, RandARPipeline


GREEDY = {"order": "raster", "do_sample": False, "num_inference_steps": 6}


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def pipe(model, vqvae):
    pipe = RandARPipeline(transformer=model, vqvae=vqvae)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample_tokens(batch_size=3):
    return torch.randint(32, (batch_size, 16), generator=torch.Generator().manual_seed(0))


def relative_error(rounded, exact):
    return ((rounded.float() - exact).square().mean().sqrt() / exact.std()).item()


def test_bfloat16_stays_close_to_float32(model, folder):
    half = RandARForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        rounded, exact = (m(sample_tokens(), torch.tensor([0, 1, 5])).logits for m in (half, model))
    assert rounded.dtype == torch.bfloat16
    assert 0 < relative_error(rounded, exact) < 0.03
    tokens = half.generate([0, 1], **GREEDY)
    assert tokens.dtype == torch.int64 and tokens.min() >= 0 and tokens.max() < 32


def test_positions_stay_float32_in_a_bfloat16_model(model, folder):
    half = RandARForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    seen = []
    for candidate in (model, half):
        candidate.model.layers[-1].register_forward_pre_hook(lambda module, args: seen.append(args))
        candidate.generate([0], num_inference_steps=1, order="raster", do_sample=False, guidance_scale=1.0)
    (exact_states, exact_rotary), (states, rotary) = seen
    assert (exact_states.dtype, states.dtype) == (torch.float32, torch.bfloat16)
    assert rotary.dtype == torch.float32 and torch.equal(rotary, exact_rotary)


def test_pipeline_in_bfloat16(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    half = RandARPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert {weight.dtype for part in (half.transformer, half.vqvae) for weight in part.parameters()} == {
        torch.bfloat16
    }
    tokens = half([0, 1], num_inference_steps=6, output_type="latent").images
    assert tokens.shape == (2, 16) and tokens.min() >= 0 and tokens.max() < 32
    assert relative_error(half.decode_latents(tokens, 4, 4), pipe.decode_latents(tokens, 4, 4)) < 0.03
    assert half([0, 1], num_inference_steps=6).images[1].size == (16, 16)


@pytest.mark.parametrize("fraction", [None, 0.02, 0.3, 0.7])
@pytest.mark.parametrize("build", ["make_model", "make_rar"])
def test_device_map_auto(build, fraction, request, tmp_path, generators):
    """Whatever part of the model does not fit: an RAR's tables are half of this one, and lie in no layer."""
    model = request.getfixturevalue(build)()
    model.save_pretrained(tmp_path)
    memory = fraction and {"cpu": int(fraction * sum(weight.nbytes for weight in model.parameters()))}
    loaded, info = type(model).from_pretrained(
        tmp_path,
        device_map="auto",
        max_memory=memory,
        offload_folder=tmp_path / "offload",
        output_loading_info=True,
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys"))
    assert any(weight.is_meta for weight in loaded.parameters()) == (fraction is not None)  # the rest is on disk
    for batch_size in (1, 9):  # an RAR makes the modulations of few images ahead
        arguments = {"class_labels": [1] * batch_size, "order": "raster", "do_sample": False}
        assert torch.equal(loaded.generate(**arguments), model.generate(**arguments))
    loaded.save_pretrained(tmp_path / "again")
    again = type(model).from_pretrained(tmp_path / "again").state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())


def test_a_device_map_of_tables_alone(make_rar, tmp_path):
    make_rar().save_pretrained(tmp_path)
    places = {name: "cpu" for name, _ in RARForCausalLM(make_rar().config).named_parameters()}
    places["model.step_embeddings"] = "disk"
    with pytest.raises(ValueError, match="`device_map` must put layers on the disk if 'model.step_embeddings'"):
        RARForCausalLM.from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "offload")


def test_shards_hold_the_same_model(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3 and not (tmp_path / "model.safetensors").exists()
    loaded = RandARForCausalLM.from_pretrained(tmp_path)
    assert model.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    assert torch.equal(loaded.generate([0, 1], **GREEDY), model.generate([0, 1], **GREEDY))


def test_shards_of_a_pipeline(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, max_shard_size="20KB")
    assert all(len(list((tmp_path / part).glob("*-of-*.safetensors"))) > 3 for part in ("transformer", "vqvae"))
    loaded = RandARPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    images = [
        p([0, 1], num_inference_steps=6, generator=torch.Generator().manual_seed(0), output_type="pt").images
        for p in (pipe, loaded)
    ]
    assert torch.equal(*images)


def test_libraries_find_nothing_to_warn_of(pipe, make_rar, caplog, monkeypatch):
    """Also with the other end of the range of transformers in setup.py, whose newest renames `past_key_values`."""
    for library in ("transformers", "diffusers"):
        monkeypatch.setattr(logging.getLogger(library), "propagate", True)
    transformers.utils.logging.warning_once.cache_clear()
    for model in (pipe.transformer, make_rar()):
        model(sample_tokens(), torch.tensor([0, 1, 2]), labels=sample_tokens())
        model.generate([0], num_inference_steps=16)
    pipe.to(torch.bfloat16)
    RandARInpaintPipeline.from_pipe(pipe)
    pipe(0)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_warnings_of_diffusers_that_name_modules_stay(vqvae, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    monkeypatch.setattr(type(vqvae), "_keep_in_fp32_modules", ["quantize"])
    vqvae.to(torch.bfloat16)
    assert "should be kept in float32: ['quantize']" in caplog.text


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "model.safetensors", "model-00001.safetensors"]
)
@pytest.mark.parametrize("is_bare", [False, True])
def test_a_model_writes_through_no_link(model, make_rar, tmp_path, name, is_bare):
    (tmp_path / "victim").write_text("kept")
    for index, saved in enumerate((model, make_rar())):
        folder = tmp_path / f"out-{index}"
        (folder / "logs").mkdir(parents=True)
        (folder / name).symlink_to(tmp_path / "victim")
        with pytest.raises(ValueError, match=f"`save_directory` must hold no links, .*{name}"):
            (saved.base_model if is_bare else saved).save_pretrained(folder)
        assert (tmp_path / "victim").read_text() == "kept" and len([*folder.iterdir()]) == 2
