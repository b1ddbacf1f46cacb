"""Inception's features: the reference program's numbers for seeded weights, files of weights, wrong input."""

import json
import os
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from randar_hf.evaluation import InceptionFeatures, extractors
from randar_hf.evaluation.inception import WEIGHTS_FILES, resize_tensorflow


CASE = Path(__file__).parents[1] / "fixtures" / "inception"


def seeded_weights() -> dict[str, torch.Tensor]:
    """The weights of the case, by its rule."""
    case, tensors = json.loads((CASE / "case.json").read_text()), {}
    for name, shape in case["checkpoint"].items():
        seed = zlib.crc32(name.encode()) + case["fill_seed"]
        numbers = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            numbers = 1.5 * numbers / np.sqrt(np.prod(shape[1:]))
        else:
            numbers = 0.1 * numbers + name.endswith(("weight", "running_var"))
        tensors[name] = torch.from_numpy(numbers.astype(np.float32))
    return tensors


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(seeded_weights(), path)
    return path


@pytest.fixture(scope="module")
def network(weights_file):
    return InceptionFeatures.from_file(weights_file)


@pytest.fixture(scope="module")
def features(network):
    """`features(kind)`: those of the images of a kind, computed once."""
    return cache(lambda kind: network(load_file(CASE / "expected.safetensors")[f"{kind}_images"]))


@pytest.mark.parametrize("kind", ["exact", "small", "square", "wide"])
def test_the_reference_programs_features(features, kind):
    expected, found = load_file(CASE / "expected.safetensors"), features(kind)
    for name, value in (("pool", found.pool), ("spatial", found.spatial), ("logits_unbiased", found.logits)):
        reference = expected[f"{kind}_{name}"]
        assert value.shape == reference.shape
        assert (value - reference).abs().max() < 1e-4 * reference.abs().max(), name


def test_the_batch_changes_nothing(network, features):
    images = load_file(CASE / "expected.safetensors")["square_images"]
    torch.testing.assert_close(features("square").pool[1:2], network(images[1:2]).pool, rtol=1e-5, atol=1e-5)


def test_resizing_has_no_half_pixel_centres():
    ramp = torch.arange(4, dtype=torch.uint8).repeat(1, 1, 4, 1) * 10  # (1, 1, 4, 4)
    resized = resize_tensorflow(ramp, 8)[0, 0]
    assert resized[0].tolist() == [0, 5, 10, 15, 20, 25, 30, 30]
    assert torch.equal(resized, resized[:1].expand(8, 8))
    assert resize_tensorflow(ramp, 2)[0, 0, 0].tolist() == [0, 20]  # no antialiasing


def test_files_of_weights(weights_file, network, tmp_path):
    assert not network.is_published and len(network.sha256) == 64
    tensors = seeded_weights()
    save_file(tensors, tmp_path / "weights.safetensors")
    counters = {f"{name[:-12]}num_batches_tracked": torch.tensor(0) for name in tensors if "running_mean" in name}
    torch.save(tensors | counters, tmp_path / "counted.pth")
    for name in ("weights.safetensors", "counted.pth"):
        other = InceptionFeatures.from_file(tmp_path / name)
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), network.parameters(), strict=True))


def test_wrong_weights_are_one_sentence(tmp_path, weights_file):
    shapes = json.loads((CASE / "case.json").read_text())["checkpoint"]
    tensors = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}  # small files
    wrong = {
        "another network in .*: fc.weight is missing": {n: t for n, t in tensors.items() if n != "fc.weight"},
        r"fc.bias is \(1000,\) there, not \(1008,\)": tensors | {"fc.bias": torch.zeros(1000)},
        "AuxLogits.weight is .* there, not expected": tensors | {"AuxLogits.weight": torch.zeros(2)},
    }
    for index, (message, state) in enumerate(wrong.items()):
        torch.save(state, tmp_path / f"{index}.pth")
        with pytest.raises(ValueError, match=message):
            InceptionFeatures.from_file(tmp_path / f"{index}.pth")
    with pytest.raises(FileNotFoundError, match="`path` must be a file"):
        InceptionFeatures.from_file(tmp_path / "none.pth")
    (tmp_path / "cut.pth").write_bytes(weights_file.read_bytes()[:100_000])
    (tmp_path / "cut.safetensors").write_bytes(b"12345678901")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "code.pth")
    for name in ("cut.pth", "cut.safetensors", "list.pth", "code.pth"):
        with pytest.raises(ValueError, match="`path` must be a file of tensors") as error:
            InceptionFeatures.from_file(tmp_path / name)
        assert str(error.value).endswith("it is damaged, or holds more than tensors; no code in it was run.")


@pytest.mark.parametrize("cache", ["torch", "hub", "name"])
def test_published_weights_are_found(cache, weights_file, network, tmp_path, monkeypatch):
    """In the cache of torch.hub, in that of the Hub, and by the name of a repository."""
    name, repository = WEIGHTS_FILES[0], tmp_path / "hub" / "models--someone--inception"
    blob, snapshot = repository / "blobs" / network.sha256, repository / "snapshots" / ("0" * 40)
    folder = tmp_path / "torch" / "checkpoints" if cache == "torch" else snapshot
    for path in (folder, blob.parent):
        path.mkdir(parents=True)
    os.link(weights_file, blob)
    (folder / name).symlink_to(blob)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(extractors, "PUBLISHED_HASH", network.sha256[:8])
    monkeypatch.setattr(
        extractors, "hf_hub_download", lambda repository, file: {("someone/i", name): folder / name}[repository, file]
    )
    found = extractors.load_extractor(weights="someone/i" if cache == "name" else None)
    assert found.sha256 == network.sha256 and torch.equal(found.fc.weight, network.fc.weight)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 8, 8), "must be a uint8 tensor with values from 0 to 255, got torch.float32"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), r"must have the shape \(images, 3, height, width\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"must have the shape \(images, 3, height, width\)"),
        (np.zeros((1, 3, 8, 8), dtype=np.uint8), "must be a uint8 tensor .* got ndarray"),
    ],
)
def test_wrong_images_are_one_sentence(network, images, message):
    with pytest.raises(ValueError, match=message):
        network(images)
