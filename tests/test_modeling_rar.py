"""RAR: its sequence, its modulation, merged positions, generation in one order, and what it refuses."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from randar_hf import RARConfig, RARForCausalLM, RARModel
from randar_hf.layout import Layout, list_slots
from randar_hf.modeling_rar import MODULATION_ROWS
from randar_hf.orders import FIXED_ORDER_NAMES, make_order
from randar_hf.schedules import guidance_weight


PUBLISHED_SIZES = {
    "B": (260_923_648, 16.0, 2.75, 1.0),
    "L": (461_668_352, 15.5, 2.5, 1.02),
    "XL": (955_425_024, 6.9, 1.5, 1.02),
    "XXL": (1_498_520_704, 8.0, 1.2, 1.02),
}


def sample_batch(batch_size=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(32, (batch_size, 16), generator=generator)
    labels = torch.randint(5, (batch_size,), generator=generator)
    return tokens, labels, make_order("random", 4, 4, batch_size, generator)


def generate_without_cache(model, labels, order, scale, power):
    """Decoding written from scratch: every step runs the whole sequence, one image at a time."""
    images = []
    for label, positions in zip(labels, order, strict=True):
        tokens = torch.zeros(1, 16, dtype=torch.long)
        for done in range(16):
            slots = torch.tensor(list_slots(done, done + 1, 16, model.model.form))[None]
            layout = Layout(slots[..., 0], slots[..., 1], torch.tensor([slots.shape[1] - 1]))
            logits = model(tokens, torch.tensor([label]), order=positions[None], layout=layout).logits
            null = model(tokens, None, order=positions[None], layout=layout).logits
            weight = guidance_weight("power_cosine", scale, torch.tensor(done / 16), power)
            tokens[0, positions[done]] = (null + weight * (logits - null)).argmax(-1)[0, 0]
        images.append(tokens)
    return torch.cat(images)


@pytest.mark.parametrize("size", PUBLISHED_SIZES)
def test_published_sizes(size):
    with torch.device("meta"):
        model = RARForCausalLM(RARConfig.from_size(size))
    settings = model.generation_config
    found = (model.num_parameters(), settings.guidance_scale, settings.guidance_power, settings.temperature)
    assert found == PUBLISHED_SIZES[size]
    assert settings.guidance_schedule == "power_cosine"
    assert (settings.order, settings.num_inference_steps) == ("raster", 256)


def test_a_model_of_another_size_has_the_guidance_of_the_authors_example(make_rar):
    settings = make_rar().generation_config
    assert (settings.guidance_scale, settings.guidance_power, settings.num_inference_steps) == (4.0, 0.0, 16)


def test_an_untrained_model_is_not_modulated(make_rar):
    torch.manual_seed(0)
    model = RARForCausalLM(make_rar().config).eval()
    for layer in model.model.layers:
        assert not layer.modulation.weight.any() and not layer.modulation.bias.any()
    assert not model.model.norm_modulation.weight.any() and not model.model.start_token.any()
    for name in ("position_embeddings", "target_embeddings", "step_embeddings"):
        assert 0.2 < getattr(model.model, name).std() < 0.4


@pytest.mark.parametrize("name", ["residual_dropout", "mlp_dropout", "attention_dropout", "class_dropout"])
def test_dropout_changes_training_only(make_rar, name):
    model = make_rar(**{name: 0.5})
    tokens, labels, order = sample_batch(16)
    with torch.no_grad():
        assert torch.equal(model(tokens, labels, order=order).logits, model(tokens, labels, order=order).logits)
        model.train()
        assert not torch.equal(model(tokens, labels, order=order).logits, model(tokens, labels, order=order).logits)


def test_auto_classes_save_and_load(make_rar, tmp_path):
    model = make_rar(scan_order="z_curve", random_ratio=0.25)
    model.generation_config.guidance_power = 1.5
    model.save_pretrained(tmp_path)
    tokens, labels, order = sample_batch()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, RARForCausalLM) and isinstance(AutoConfig.from_pretrained(tmp_path), RARConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), RARModel)
    assert (loaded.config.scan_order, loaded.config.random_ratio) == ("z_curve", 0.25)
    assert loaded.generation_config.guidance_power == 1.5
    with torch.no_grad():
        assert torch.equal(loaded(tokens, labels, order=order).logits, model(tokens, labels, order=order).logits)


@pytest.mark.parametrize("batch_size", [1, 3, MODULATION_ROWS // 4, MODULATION_ROWS])
@torch.no_grad()
def test_generation_equals_recomputation(make_rar, batch_size):
    # From one image, whose steps share one block of modulations, to so many that each step makes its own.
    model = make_rar()
    labels = [image % 5 for image in range(batch_size)]
    order = torch.arange(16).expand(batch_size, -1)
    expected = generate_without_cache(model, labels[:5], order[:5], 3.0, 1.5)
    sampled = model.generate(labels, guidance_scale=3.0, guidance_power=1.5, do_sample=False)
    assert torch.equal(sampled[:5], expected)
    assert torch.equal(sampled, expected[torch.tensor(labels)])


def test_modulations_made_ahead_are_those_of_the_layers(make_rar):
    model = make_rar()
    tokens, labels, order = sample_batch()
    slots = torch.tensor(list_slots(15, 16, 16, model.model.form))[None]
    layout = Layout(slots[..., 0], slots[..., 1], torch.arange(1, 17))
    with torch.no_grad():
        ahead = model.model.make_modulations(labels, layout.carried)
        found = model(tokens, labels, order=order, layout=layout, modulations=ahead).logits
        assert_close(found, model(tokens, labels, order=order).logits)
        ahead[1] = ahead[1] + 1
        assert not torch.allclose(found, model(tokens, labels, order=order, layout=layout, modulations=ahead).logits)


@pytest.mark.parametrize("batch_size", [4, MODULATION_ROWS])
def test_an_image_does_not_depend_on_its_batch(make_rar, generators, batch_size):
    model = make_rar()
    labels = [image % 5 for image in range(batch_size)]
    together = model.generate(labels, generator=generators(batch_size))
    for i in range(4):
        assert torch.equal(together[i], model.generate([labels[i]], generator=generators(1, first=i))[0])


def test_a_beginning_is_completed(make_rar, generators):
    model = make_rar()
    expected = model.generate([1, 4, 2], do_sample=False)
    beginning = torch.arange(16) < torch.tensor([[3], [9], [0]])  # the images differ in length
    sampled = model.generate([1, 4, 2], do_sample=False, known_tokens=expected, known_mask=beginning)
    assert torch.equal(sampled, expected)
    with pytest.raises(ValueError, match="`known_mask` must be true for the first tokens.*RandARInpaintPipeline"):
        model.generate([1, 4, 2], known_tokens=expected, known_mask=~beginning)


@pytest.mark.parametrize("name", FIXED_ORDER_NAMES)
@torch.no_grad()
def test_every_scan_order_generates_in_it(make_rar, name):
    model = make_rar(scan_order=name)
    order = make_order(name, 4, 4, 2)
    expected = generate_without_cache(model, [1, 4], order, 2.0, 1.0)
    settings = {"guidance_scale": 2.0, "guidance_power": 1.0, "do_sample": False}
    assert torch.equal(model.generate([1, 4], **settings), expected)
    assert torch.equal(model.generate([1, 4], order=name, **settings), expected)
    assert torch.equal(model.generate([1, 4], order=order, **settings), expected)
    other = "raster" if name != "raster" else "alternate"
    for wrong in (other, "random", make_order(other, 4, 4)[0]):
        with pytest.raises(ValueError, match=f"`order` must be '{name}'.*RandARPipeline"):
            model.generate([1, 4], order=wrong)


def test_a_model_that_was_never_annealed_generates_in_any_order(make_rar):
    model = make_rar(scan_order="random", random_ratio=1.0)
    tokens, labels, order = sample_batch()
    known = torch.arange(16) % 3 == 0
    sampled = model.generate(labels, known_tokens=tokens, known_mask=known.expand(3, -1), num_inference_steps=5)
    assert torch.equal(sampled[:, known], tokens[:, known]) and sampled.min() >= 0
    assert model.generate(labels, order="spiral_in").min() >= 0


@pytest.mark.parametrize("name", ["raster", "z_curve"])
@torch.no_grad()
def test_merged_positions_are_exact_up_to_rounding(make_rar, tmp_path, name):
    model = make_rar(scan_order=name)
    model.generation_config.guidance_scale = 2.5
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    merged = model.merge_positions()
    assert merged.num_parameters() == model.num_parameters() - 32 * (2 * (16 + 1024) - 18)
    tokens, labels, _ = sample_batch()
    order = make_order(name, 4, 4)[0]
    assert_close(merged(tokens, labels, order=order).logits, model(tokens, labels, order=order).logits)
    assert torch.equal(merged.generate(labels, do_sample=False), model.generate(labels, do_sample=False))
    assert merged.generation_config.guidance_scale == 2.5
    for rounds in (1, 2):
        assert_close(merged.extract_features(tokens, rounds=rounds), model.extract_features(tokens, rounds=rounds))

    merged.save_pretrained(tmp_path)
    loaded = RARForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(tokens, labels, order=order).logits, merged(tokens, labels, order=order).logits)
    merged.lm_head.weight.add_(1)  # the copy shares nothing with its original
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_merged_positions_know_one_order(make_rar):
    merged = make_rar().merge_positions()
    tokens, labels, order = sample_batch()
    for call in (
        lambda: merged(tokens, labels, order=order),
        lambda: merged.log_likelihood(tokens, labels, order="random"),
        lambda: merged.extract_features(tokens, order=order),
    ):
        with pytest.raises(ValueError, match="`order` must be 'raster'"):
            call()
    with pytest.raises(ValueError, match="has them merged"):
        merged.merge_positions()


@pytest.mark.parametrize("fields", [{"random_ratio": 0.1}, {"scan_order": "random"}, {"scan_order": "hierarchical"}])
def test_positions_are_not_merged_before_annealing_has_ended(make_rar, fields):
    with pytest.raises(ValueError, match="annealing has ended"):
        make_rar(**fields).merge_positions()
    with pytest.raises(ValueError, match="`merged_positions` needs"):
        make_rar(merged_positions=True, **fields)


def test_merging_keeps_half_precision(make_rar):
    model = make_rar().to(torch.bfloat16)
    merged = model.merge_positions()
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    sums = model.model.position_embeddings[2].float() + model.model.target_embeddings[3].float()
    assert torch.equal(merged.model.position_embeddings[2], sums.bfloat16())  # rounded once


@torch.no_grad()
def test_likelihoods_are_those_of_the_scan_order_by_default(make_rar):
    model = make_rar(scan_order="spiral_in")
    tokens, labels, order = sample_batch()
    for asked, positions in ((None, make_order("spiral_in", 4, 4, 3)), (order, order)):
        logits = model(tokens, labels, order=positions).logits
        expected = logits.log_softmax(-1).gather(-1, tokens.gather(1, positions)[..., None]).sum((1, 2))
        assert_close(model.log_likelihood(tokens, labels, asked), expected)
    by_class = model.class_log_likelihoods(tokens)
    assert_close(by_class.gather(1, labels[:, None])[:, 0], model.log_likelihood(tokens, labels))


def test_what_one_order_cannot_do_is_refused(make_rar):
    model = make_rar()
    tokens, labels, _ = sample_batch()
    for call in (lambda: model.refine(tokens, labels), lambda: model.token_log_likelihoods(tokens, labels)):
        with pytest.raises(ValueError, match="need a model of any order, such as RandARForCausalLM"):
            call()
    with pytest.raises(ValueError, match="`grid_size` must be the trained"):
        model.generate(labels, grid_size=8)
    with pytest.raises(ValueError, match="`rotary` needs a model with rotary"):
        model.generate(labels, rotary=torch.zeros(17, 4, 2))
    with pytest.raises(ValueError, match="`num_inference_steps` must equal the number of tokens"):
        model.generate(labels, num_inference_steps=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 30}, "`hidden_size` must be a multiple of `num_attention_heads` = 4, got 30"),
        ({"grid_size": 0}, "`grid_size`"),
        ({"num_classes": 0}, "`num_classes`"),
        ({"vocab_size": 0}, "`vocab_size`"),
        ({"mlp_dropout": 1.0}, "`mlp_dropout`"),
        ({"scan_order": "zigzag"}, "`scan_order` must be one of"),
        ({"random_ratio": 1.5}, r"`random_ratio` must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_fields_are_named(make_rar, fields, message):
    with pytest.raises(ValueError, match=message):
        make_rar(**fields)
    with pytest.raises(ValueError, match="`size` must be one of B, L, XL, XXL, got 'M'"):
        RARConfig.from_size("M")


def test_wrong_shapes_are_named(make_rar):
    model = make_rar()
    with pytest.raises(ValueError, match="`input_ids` must have the shape"):
        model(torch.zeros(1, 15, dtype=torch.long))
    with pytest.raises(ValueError, match="`order` must have the shape"):
        model(torch.zeros(2, 16, dtype=torch.long), order=torch.arange(15))
