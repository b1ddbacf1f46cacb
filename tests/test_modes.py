"""Inference in the midst of training: as in evaluation mode, and the mode of every module comes back."""

import pytest
import torch

from randar_hf.modes import evaluation_mode


DROPOUTS = {"class_dropout": 0.5, "residual_dropout": 0.5, "mlp_dropout": 0.5, "attention_dropout": 0.5}
TOKENS = torch.randint(32, (2, 16), generator=torch.Generator().manual_seed(0))
KNOWN = torch.arange(16).expand(2, -1) < 6
CALLS = {
    "generate": lambda model, order: model.generate([0, 1], order=order, do_sample=False),
    "complete": lambda model, order: model.generate(
        [0, 1], order=order, known_tokens=TOKENS, known_mask=KNOWN, generator=torch.Generator().manual_seed(0)
    ),
    "likelihood": lambda model, order: model.log_likelihood(TOKENS, [0, 1], order=order, per_token=True),
    "classes": lambda model, order: model.class_log_likelihoods(TOKENS, generator=torch.Generator().manual_seed(0)),
    "features": lambda model, order: model.extract_features(TOKENS, [0, 1], order=order),
    "refine": lambda model, order: model.refine(
        TOKENS, [0, 1], num_inference_steps=2, generator=torch.Generator().manual_seed(0)
    ),
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("kind", "call"), [(k, c) for k in ("randar", "rar") for c in CALLS if (k, c) != ("rar", "refine")]
)
def test_in_training_as_in_evaluation(make_model, make_rar, kind, call, checkpointing):
    model = (make_model if kind == "randar" else make_rar)(**DROPOUTS)
    expected = CALLS[call](model, "raster")
    model.train()
    frozen = model.model.layers[0]
    frozen.eval()
    if checkpointing:
        model.gradient_checkpointing_enable()
    modes = {name: module.training for name, module in model.named_modules()}
    assert torch.equal(CALLS[call](model, "raster"), expected)
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_the_mode_comes_back_between_steps_and_after_an_error(model):
    model.train()
    for _ in model.generation_steps([0], num_inference_steps=4):
        assert all(module.training for module in model.modules())
    with pytest.raises(RuntimeError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("size", [{"new_num_tokens": 40}, {"new_num_tokens": 8}, {"pad_to_multiple_of": 64}])
def test_another_number_of_tokens(make_model, make_rar, size):
    rar = make_rar()
    before = rar.generate([0], do_sample=False)
    with pytest.raises(ValueError, match="`resize_token_embeddings` must not be called on a RAR"):
        rar.resize_token_embeddings(**size)
    with pytest.raises(ValueError, match="`resize_token_embeddings` must not be called on a RAR"):
        rar.model.resize_token_embeddings(**size)
    assert rar.resize_token_embeddings() is rar.model.embed_tokens
    assert torch.equal(rar.generate([0], do_sample=False), before)
    model = make_model()
    model.resize_token_embeddings(**size)
    entries = model.config.vocab_size
    assert model.lm_head.out_features == model.model.embed_tokens.num_embeddings == entries == max(size.values())
    tokens = torch.full((1, 16), entries - 1)
    assert model.generate([0]).max() < entries and model.log_likelihood(tokens, [0]).isfinite().all()
