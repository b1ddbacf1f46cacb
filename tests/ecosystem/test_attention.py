"""Attention backends: the same tokens from each of them, whatever the images know."""

import pytest
import torch

from randar_hf import RandARForCausalLM


BACKENDS = ["eager", "sdpa", "flex_attention"]
GREEDY = {"order": "raster", "do_sample": False}
LABELS = torch.tensor([0, 1, 2])


def sample_knowledge():
    """Tokens of three images, of which 0, 5 and 11 are known."""
    known_mask = torch.zeros(3, 16, dtype=torch.bool)
    known_mask[1, :5] = known_mask[2, 2:13] = True
    return torch.randint(32, (3, 16), generator=torch.Generator().manual_seed(0)), known_mask


def generate_one_by_one(model, known_tokens, known_mask, **settings):
    images = zip(LABELS.split(1), known_tokens.split(1), known_mask.split(1), strict=True)
    return torch.cat(
        [
            model.generate(label, known_tokens=tokens, known_mask=mask, **settings, **GREEDY)
            for label, tokens, mask in images
        ]
    )


def generate_together(model, known_tokens, known_mask, **settings):
    return model.generate(LABELS, known_tokens=known_tokens, known_mask=known_mask, **settings, **GREEDY)


@pytest.fixture
def load(model, tmp_path):
    model.save_pretrained(tmp_path)
    return lambda backend: RandARForCausalLM.from_pretrained(tmp_path, attn_implementation=backend)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_ragged_batch_equals_its_images_alone(load, backend, guidance_scale):
    settings = {"num_inference_steps": 5, "guidance_scale": guidance_scale}
    model, knowledge = load(backend), sample_knowledge()
    assert model.config._attn_implementation == backend
    expected = generate_one_by_one(load("eager"), *knowledge, **settings)
    with torch.compiler.set_stance("force_eager"):  # spares flex_attention its minute of compiling
        tokens = generate_together(model, *knowledge, **settings)
    assert torch.equal(tokens, expected)


@pytest.mark.gpu  # on a CPU torch 2.13 writes kernels for it that do not compile, or end the process
def test_compiled_flex_attention_decodes_a_ragged_batch(load):
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0}
    knowledge = sample_knowledge()
    expected = generate_one_by_one(load("eager").to("cuda"), *knowledge, **settings)
    torch._dynamo.reset()
    assert torch.equal(generate_together(load("flex_attention").to("cuda"), *knowledge, **settings), expected)


@pytest.mark.parametrize("build", ["make_model", "make_rar"])
def test_a_mask_of_padding(build, request):
    model, (tokens, _) = request.getfixturevalue(build)().model, sample_knowledge()
    states = model(tokens).last_hidden_state  # (3, S, D)
    mask = torch.ones(states.shape[:2], dtype=torch.bool)
    mask[1, 5] = False
    masked = model(tokens, attention_mask=mask).last_hidden_state
    same = torch.isclose(masked, states, atol=1e-5).all(dim=-1)
    assert same[[0, 2]].all() and same[1, :5].all() and not same[1, 5:].any()
    with pytest.raises(
        ValueError, match=r"`attention_mask` must have the shape \(3, \d+\) of the slots, got \(3, \d+\)"
    ):
        model(tokens, attention_mask=mask[:, 1:])
