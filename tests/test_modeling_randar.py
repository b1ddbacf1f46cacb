"""RandAR, and what RAR does as it does: variants, backends, saving, training behaviour."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from randar_hf import RandARForCausalLM, RandARModel
from randar_hf.orders import make_order


VARIANTS = ["rope", "dense", "merge", "none"]


def sample_batch(batch_size=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(32, (batch_size, 16), generator=generator)
    labels = torch.randint(5, (batch_size,), generator=generator)
    return tokens, labels, make_order("random", 4, 4, batch_size, generator)


def order_for(kind, order):
    return None if kind == "none" else order


@pytest.fixture(params=[*VARIANTS, "rar"])
def any_model(request, make_model, make_rar):
    if request.param == "rar":
        return make_rar()
    return make_model(position_instruction=request.param, num_key_value_heads=2)


@pytest.fixture(params=["make_model", "make_rar"])
def make_any(request):
    return request.getfixturevalue(request.param)


def test_prediction_sees_earlier_tokens_only(any_model):
    tokens, labels, order = sample_batch()
    order = None if any_model.config.only_order else order
    positions = torch.arange(16).expand(3, -1) if order is None else order
    changed = tokens.scatter(1, positions[:, 7:8], (tokens.gather(1, positions[:, 7:8]) + 1) % 32)
    with torch.no_grad():
        before = any_model(tokens, labels, order=order).logits
        after = any_model(changed, labels, order=order).logits
    assert torch.equal(before[:, :8], after[:, :8])
    assert (before[:, 8:] != after[:, 8:]).any(dim=-1).all()


def test_position_instruction_says_where(make_any):
    # Two orders that differ in the last two positions only: same context, another question, another answer.
    model = make_any()
    tokens, labels, order = sample_batch(1)
    swapped = order.clone()
    swapped[0, 14:] = order[0, 14:].flip(0)
    with torch.no_grad():
        first, second = (model(tokens, labels, order=o).logits for o in (order, swapped))
    assert torch.equal(first[:, :14], second[:, :14])
    assert not torch.allclose(first[:, 14], second[:, 14])


def test_loss_is_the_mean_cross_entropy_at_the_ordered_positions(make_any):
    model = make_any()
    tokens, labels, order = sample_batch()
    with torch.no_grad():
        outputs = model(tokens, labels, order=order, labels=tokens)
    nats = -outputs.logits.log_softmax(-1).gather(-1, tokens.gather(1, order)[..., None])
    torch.testing.assert_close(outputs.loss, nats.mean())


def test_order_may_be_shared_and_is_raster_by_default(model):
    tokens, labels, order = sample_batch()
    with torch.no_grad():
        shared = model(tokens, labels, order=order[0]).logits
        assert torch.equal(shared, model(tokens, labels, order=order[:1].expand(3, -1)).logits)
        assert torch.equal(model(tokens, labels).logits, model(tokens, labels, order=torch.arange(16)).logits)


def test_null_class_is_the_default_and_no_class(make_any):
    model = make_any()
    tokens, labels, order = sample_batch()
    with torch.no_grad():
        null = model(tokens, torch.full((3,), 5), order=order).logits
        assert torch.equal(model(tokens, order=order).logits, null)
        assert not torch.allclose(model(tokens, labels, order=order).logits, null)


def test_class_slot_is_attended_to_with_score_zero(make_model):
    model = make_model()
    tokens, labels, order = sample_batch()
    seen = {}
    attention = model.model.layers[0].self_attn
    attention.register_forward_hook(
        lambda module, args, kwargs, output: seen.update(rotary=args[1] if len(args) > 1 else kwargs["rotary"]),
        with_kwargs=True,
    )
    model(tokens, labels, order=order)
    assert seen["rotary"][:, 0].abs().max() == 0 and (seen["rotary"][:, 1:] != 0).any(-1).any(-1).all()


def test_sdpa_equals_eager(any_model):
    tokens, labels, order = sample_batch()
    results = {}
    for implementation in ("eager", "sdpa"):
        any_model.set_attn_implementation(implementation)
        with torch.no_grad():
            results[implementation] = any_model(tokens, labels, None if any_model.config.only_order else order).logits
    torch.testing.assert_close(results["eager"], results["sdpa"], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_flex_equals_eager(make_model):
    model = make_model()
    tokens, labels, order = sample_batch()
    with torch.no_grad():
        expected = model(tokens, labels, order=order).logits
        sampled = model.generate(labels, num_inference_steps=5, order=order, do_sample=False)
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(model(tokens, labels, order=order).logits, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(model.generate(labels, num_inference_steps=5, order=order, do_sample=False), sampled)


def test_grouped_heads_equal_repeated_heads(make_model):
    grouped, full = make_model(num_key_value_heads=2), make_model()
    state = grouped.state_dict()
    for name, tensor in state.items():
        if "k_proj" in name or "v_proj" in name:
            state[name] = tensor.unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(state)
    tokens, labels, order = sample_batch()
    with torch.no_grad():
        torch.testing.assert_close(
            grouped(tokens, labels, order=order).logits, full(tokens, labels, order=order).logits
        )


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load(make_model, tmp_path, kind, dtype):
    model = make_model(position_instruction=kind).to(dtype)
    model.save_pretrained(tmp_path)
    loaded, report = RandARForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert loaded.dtype == dtype and not any(report.values())
    tokens, labels, order = sample_batch()
    with torch.no_grad():
        first, second = (m(tokens, labels, order=order_for(kind, order)).logits for m in (model, loaded))
    assert torch.equal(first, second)
    loaded.save_pretrained(tmp_path / "again")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_rotary_table_stays_exact_in_bfloat16(make_model):
    # Positions are turned in float32 whatever the weights are, so no table drifts when a model is cast.
    model = make_model()
    exact = model.model.rotary_table(4, 4, "cpu")
    assert torch.equal(model.to(torch.bfloat16).model.rotary_table(4, 4, "cpu"), exact)


def test_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "randar"
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), RandARForCausalLM)
    base = AutoModel.from_pretrained(tmp_path)
    assert isinstance(base, RandARModel)
    tokens, labels, order = sample_batch()
    with torch.no_grad():
        hidden = base(tokens, labels, order=order).last_hidden_state
        torch.testing.assert_close(model.lm_head(hidden[:, 1::2]), model(tokens, labels, order=order).logits)


def test_truncated_weights_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(Exception, match="(?i)safetensors|invalid|incomplete|header"):
        RandARForCausalLM.from_pretrained(tmp_path)


def test_hidden_states_and_attentions(make_model):
    model = make_model()
    model.set_attn_implementation("eager")
    tokens, labels, order = sample_batch()
    with torch.no_grad():
        outputs = model(tokens, labels, order=order, output_hidden_states=True, output_attentions=True)
        pair = model(tokens, labels, order=order, return_dict=False)
    assert len(outputs.hidden_states) == 3 and outputs.hidden_states[0].shape == (3, 32, 32)
    assert len(outputs.attentions) == 2 and outputs.attentions[0].shape == (3, 4, 32, 32)
    assert torch.equal(pair[0], outputs.logits)


def test_activation_checkpointing_gives_the_same_gradients(make_any):
    tokens, labels, order = sample_batch()
    gradients = []
    for checkpointing in (False, True):
        model = make_any().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(tokens, labels, order=order, labels=tokens).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_parameter_learns(make_model, kind):
    model = make_model(position_instruction=kind).train()
    tokens, labels, order = sample_batch()
    model(tokens, labels, order=order_for(kind, order), labels=tokens).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    if kind != "none":
        assert (model.model.position_instruction.grad != 0).any()


def test_class_dropout_replaces_classes_in_training_only(make_model):
    model = make_model(class_dropout=0.5)
    seen = []
    model.model.embed_classes.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tokens, labels = torch.zeros(1000, 16, dtype=torch.long), torch.zeros(1000, dtype=torch.long)
    torch.manual_seed(0)
    for training in (False, True):
        with torch.no_grad():
            model.train(training)(tokens, labels)
    in_evaluation, in_training = ((ids == 5).float().mean() for ids in seen)
    assert in_evaluation == 0
    assert abs(in_training - 0.5) < 0.05


def test_given_classes_are_dropped_instead_of_sampled_ones(make_any):
    model = make_any(class_dropout=0.5)
    tokens, labels = torch.randint(32, (6, 16)), torch.arange(6) % 5
    dropped = torch.tensor([True, False, False, True, False, True])
    expected = model(tokens, labels.masked_fill(dropped, 5)).logits
    for training in (False, True):
        with torch.no_grad():
            assert model.train(training)(tokens, labels, dropped_classes=dropped).logits.equal(expected)


def test_token_dropout_changes_training_only(make_model):
    model = make_model(token_dropout=0.5)
    tokens, labels, order = sample_batch()
    with torch.no_grad():
        assert torch.equal(model(tokens, labels, order=order).logits, model(tokens, labels, order=order).logits)
        model.train()
        first, second = (model(tokens, labels, order=order).logits for _ in range(2))
    assert not torch.equal(first[:, 1:], second[:, 1:])
    torch.testing.assert_close(first[:, 0], second[:, 0])  # before any image token nothing is dropped


def test_wrong_shapes_are_named(model):
    for shape in ((1, 15), (16,)):
        with pytest.raises(ValueError, match="`input_ids`"):
            model(torch.zeros(shape, dtype=torch.long))
    with pytest.raises(ValueError, match="`order`"):
        model(torch.zeros(1, 16, dtype=torch.long), order=torch.arange(15))


@pytest.mark.parametrize("kind", ["dense", "merge"])
def test_dense_instructions_know_their_grid_only(make_model, kind):
    model = make_model(position_instruction=kind)
    for grid_size in ((4, 5), (2, 8)):
        with pytest.raises(ValueError, match="`grid_size`"):
            model.generate([0], grid_size=grid_size, num_inference_steps=4)
    with pytest.raises(ValueError, match="position_instruction"):
        model(torch.zeros(1, 20, dtype=torch.long), rotary=model.model.rotary_table(4, 5, "cpu"))
