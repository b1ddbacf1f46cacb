"""What a model sees in images: features of a layer, a head on them, and classes by likelihood."""

import numpy as np
import pytest
import torch
from PIL import Image

from randar_hf import RARForCausalLM
from randar_hf.evaluation.feature_store import FeatureStore
from randar_hf.evaluation.images import ImageSet, open_images
from randar_hf.evaluation.model_features import ModelFeatures, encode_pixels, image_size
from randar_hf.evaluation.probe import Lars, ProbeRecipe, check_labels, learning_rate, probe_accuracy, train_probe
from randar_hf.evaluation.random_crops import random_crops
from randar_hf.evaluation.zero_shot import class_ids, classify_images, draw_confusion
from randar_hf.pipelines import RARPipeline


def test_features_are_those_of_the_model(pipe, make_images):
    images = open_images("data", make_images("images", 6))
    batch = images.batch(range(6))
    assert image_size(pipe) == 16
    network = ModelFeatures(pipe, layer=1, rounds=2, seed=3)
    expected = pipe.transformer.extract_features(encode_pixels(pipe, batch), layer=1, rounds=2, order=network.order[0])
    assert torch.equal(network.maps(batch), expected.transpose(1, 2).unflatten(2, (4, 4)))
    torch.testing.assert_close(network(batch).pool, expected.mean(dim=1))
    assert torch.equal(
        ModelFeatures(pipe, layer=1, rounds=1).maps(batch[:1])[0], ModelFeatures(pipe, 1, 1).maps(batch)[0]
    )


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_latents_are_those_of_images_in_the_tokenizers_own_range(pipe, make_images, low):
    pipe.vqvae.register_to_config(_pixel_range=(low, 1.0))
    batch = open_images("data", make_images("images", 6)).batch(range(6))
    expected = pipe.vqvae.encode(batch / 255 * (1 - low) + low).latents
    torch.testing.assert_close(ModelFeatures(pipe, layer="tokenizer").maps(batch), expected)


def test_features_are_stored_by_layer_and_round(pipe, make_images, tmp_path):
    images = open_images("data", make_images("images", 6))
    stores = [FeatureStore(tmp_path / "s", images, ModelFeatures(pipe, 1, rounds)) for rounds in (1, 2, 2)]
    for store in stores:
        store.fill(4)
    assert stores[0].folder != stores[1].folder == stores[2].folder
    assert not np.array_equal(stores[0].array("pool"), stores[1].array("pool"))


def test_wrong_layers_are_one_sentence(pipe):
    with pytest.raises(ValueError, match="`layer` must lie between -3 and 2 or be 'tokenizer', got 3"):
        ModelFeatures(pipe, layer=3)
    with pytest.raises(ValueError, match="`rounds` must be an int of at least 1, got 0"):
        ModelFeatures(pipe, rounds=0)


def clusters(count, classes=8, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = np.random.default_rng(9).normal(size=(classes, 16))
    return (5 * centres[labels] + rng.normal(size=(count, 16)) + 100).astype(np.float32), labels


def test_a_probe_finds_what_is_linear_and_no_more():
    recipe = ProbeRecipe(epochs=60, warmup_epochs=5, batch_size=64, learning_rate=10.0)
    features, labels = clusters(512)
    head = train_probe(features, labels, 8, recipe)
    held_out = clusters(256, seed=1)
    assert probe_accuracy(head, *held_out)["top_1"] > 0.95
    shuffled = np.random.default_rng(0).permutation(labels)
    found = probe_accuracy(train_probe(features, shuffled, 8, recipe), *held_out)
    assert found["top_1"] < 0.4 and found["top_1"] <= found["top_5"] <= 1


def test_a_probe_depends_on_its_seed_alone():
    features, labels = clusters(128)
    recipe = ProbeRecipe(epochs=2, warmup_epochs=1, batch_size=32)
    first, second = (train_probe(features, labels, 8, recipe)[1].weight for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, train_probe(features, labels, 8, ProbeRecipe(2, 1, 32, seed=1))[1].weight)


def test_each_epoch_takes_the_next_crops():
    features, labels = clusters(64)
    unread = np.full_like(features, np.nan)
    once, twice = (ProbeRecipe(epochs, 0, batch_size=32, crops=2) for epochs in (1, 2))
    weights = [train_probe(np.concatenate([features, part]), labels, 8, once)[1].weight for part in (features, unread)]
    assert torch.equal(*weights)
    assert train_probe(np.concatenate([features, unread]), labels, 8, twice)[1].weight.isnan().all()
    thrice = ProbeRecipe(3, 0, batch_size=32, crops=2)  # the first ones again
    assert torch.equal(
        train_probe(np.concatenate([features, features]), labels, 8, thrice)[1].weight,
        train_probe(features, labels, 8, thrice)[1].weight,
    )


def test_random_crops_are_those_of_the_recipe():
    """Of an image whose pixels tell where they lie: red by column, green by row."""
    columns, rows = np.meshgrid(np.arange(200), np.arange(200))
    pixels = np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8)
    images = ImageSet("ramp", "data", "0", 2, lambda index: pixels, labels=[0, 1])
    crops = random_crops(images, 64, 300, seed=1)
    assert crops.count == 600 and crops.labels is None
    batch = crops.batch(range(600)).numpy().astype(int)  # (600, 3, 64, 64)
    assert np.array_equal(batch[7], random_crops(images, 64, 10, seed=1).batch([7])[0].numpy())
    assert not np.array_equal(batch[7], random_crops(images, 64, 10, seed=2).batch([7])[0].numpy())
    for name, numbers in (("size", (0, 1, 0)), ("count", (64, 0, 0)), ("seed", (64, 1, -1))):
        with pytest.raises(ValueError, match=f"`{name}` must be an int of at least"):
            random_crops(images, *numbers)
    widths, heights = batch[:, 0, 32, -1] - batch[:, 0, 32, 0], batch[:, 1, -1, 32] - batch[:, 1, 0, 32]
    assert 0.4 < (widths < 0).mean() < 0.6 and (heights > 0).all()  # mirrored
    areas, ratios = abs(widths) * heights / 200**2, abs(widths) / heights
    assert 0.06 < areas.min() < 0.12 and 0.85 < areas.max() <= 1 and 0.4 < areas.mean() < 0.6
    assert 0.7 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.4
    tall = ImageSet("tall", "data", "0", 1, lambda index: Image.fromarray(pixels[:, :5]))
    assert random_crops(tall, 8, 20, seed=0).batch(range(20)).shape == (20, 3, 8, 8)


def test_top_5_counts_the_five_likeliest():
    head, labels = torch.nn.Identity(), np.array([0, 1, 2])
    logits = np.array([[9, 8, 7, 6, 5, 4, 3], [9, 8, 7, 6, 5, 4, 3], [9, 8, 1, 7, 6, 5, 3]], dtype=np.float32)
    assert probe_accuracy(head, logits, labels) == {"top_1": 1 / 3, "top_5": 2 / 3}


def test_the_schedule_and_the_step_are_those_of_the_recipe():
    recipe = ProbeRecipe()
    assert learning_rate(5, recipe) == pytest.approx(0.05) and learning_rate(10, recipe) == pytest.approx(0.1)
    assert learning_rate(50, recipe) == pytest.approx(0.05) and learning_rate(90, recipe) == pytest.approx(0)
    weight = torch.nn.Parameter(torch.full((2, 2), 3.0))
    weight.grad = torch.full((2, 2), 0.5)
    Lars([weight], lr=1.0).step()  # the trust ratio: 0.001 * |w| / |g| = 0.006
    torch.testing.assert_close(weight.data, torch.full((2, 2), 3.0 - 0.006 * 0.5))


@pytest.mark.parametrize("name", ["epochs", "batch_size", "learning_rate"])
def test_wrong_recipes_are_one_sentence(name):
    with pytest.raises(ValueError, match=f"`{name}` must be .* got 0"):
        ProbeRecipe(**{name: 0})


def test_labels_are_needed(make_images, tmp_path):
    folder = make_images("images", 4, classes=1) / "class_0"
    with pytest.raises(ValueError, match="`data` must have classes, sub-folders or a column of labels, got none"):
        check_labels(open_images("data", folder))
    with pytest.raises(ValueError, match="`data` must have classes below 2, got 2"):
        check_labels(open_images("data", make_images("three", 4)), 2)


def test_classes_are_those_of_the_likelihoods(pipe, make_images, tmp_path):
    images = open_images("data", make_images("images", 6))
    found = classify_images(pipe, images, tmp_path / "out", num_orders=3, seed=5)
    assert found["labels"] == [1, 1, 2, 2, 0, 0]  # by name: class_0 is the model's class 1
    assert list(found["accuracy_by_orders"]) == [1, 2, 3]
    assert found["accuracy"] == found["accuracy_by_orders"][3]
    for row, prediction in enumerate(found["predictions"]):
        generator = torch.Generator().manual_seed((5 + 0x9E3779B1 * row) % 2**32)
        tokens = encode_pixels(pipe, images.batch([row]))
        scores = pipe.transformer.class_log_likelihoods(tokens, num_orders=3, generator=generator)
        assert scores.argmax().item() == prediction
    confusion = np.array(found["confusion"])
    assert confusion.sum() == 6 and confusion.sum(axis=1).tolist() == [2, 2, 2, 0, 0]
    assert confusion.trace() / 6 == found["accuracy"]
    draw_confusion(found["confusion"], list("abcde"), tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_likelihoods_are_not_computed_again(pipe, make_images, tmp_path, monkeypatch):
    images = open_images("data", make_images("images", 6))
    calls, real = [], pipe.transformer.class_log_likelihoods

    def counted(*arguments, **settings):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(pipe.transformer, "class_log_likelihoods", counted)
    with pytest.raises(KeyboardInterrupt):
        classify_images(pipe, images, tmp_path / "out", num_orders=2)
    found = classify_images(pipe, images, tmp_path / "out", num_orders=2)
    assert len(calls) == 6 + 2 * 4  # two of six images were there
    assert classify_images(pipe, images, tmp_path / "out", num_orders=2) == found and len(calls) == 14
    (scores,) = (tmp_path / "out").iterdir()
    for target in (scores.rename(tmp_path / "scores.npy"), tmp_path / "nothing"):
        scores.unlink(missing_ok=True)
        scores.symlink_to(target)
        with pytest.raises(ValueError, match="`output_dir` must hold no links, .*scores-"):
            classify_images(pipe, images, tmp_path / "out", num_orders=2)
    assert not (tmp_path / "nothing").exists()


def test_wrong_classification_is_one_sentence_and_writes_nothing(pipe, make_images, make_rar, vqvae, tmp_path):
    images = open_images("data", make_images("images", 6))
    for settings, message in (
        ({"num_orders": 0}, "`num_orders` must be an int of at least 1, got 0"),
        ({"num_images": 7}, "`num_images` must lie between 1 and 6, got 7"),
    ):
        with pytest.raises(ValueError, match=message):
            classify_images(pipe, images, tmp_path / "out", **settings)
    rar = make_rar()
    assert isinstance(rar, RARForCausalLM)
    with pytest.raises(ValueError, match="`num_orders` must be 1 for a model of the order 'raster' alone, got 20"):
        classify_images(RARPipeline(rar, vqvae), images, tmp_path / "out")
    images.class_names[0] = "nothing"
    with pytest.raises(ValueError, match="must name its classes as the model does, got 'nothing'"):
        class_ids(images, pipe.id2label, 5)
    assert not (tmp_path / "out").exists()
