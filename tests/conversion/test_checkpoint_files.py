"""Files of every kind, read or refused; whatever they hold, nothing of it runs."""

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from randar_hf.conversion import convert_llamagen
from randar_hf.conversion.checkpoint_files import read_checkpoint


class Command:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def tensors():
    return {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(500)}


def save_wrapped(tensors, path):
    torch.save({"model": tensors, "args": argparse.Namespace(dim=64, rate=1e-4), "steps": 3}, path)


def save_legacy(tensors, path):
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


WRITERS = {"safetensors": save_file, "pickle": torch.save, "wrapped": save_wrapped, "legacy": save_legacy}


@pytest.mark.parametrize("writer", WRITERS)
def test_content_decides_not_the_name(writer, tensors, tmp_path):
    path = tmp_path / "weights.bin"
    WRITERS[writer](tensors, path)
    for given in (path, str(path)):
        found = read_checkpoint(given)
        assert list(found) == ["a", "b"] and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_state_dicts(tensors):
    parameters = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    found = read_checkpoint({"model": parameters, "args": None})
    assert found["a"].data_ptr() == tensors["a"].data_ptr() and not found["a"].requires_grad


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", ["torch", "legacy", "pickle"])
def test_code_is_refused_and_does_not_run(kind, protocol, tmp_path):
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    content = {"model": {"a": torch.ones(2) if kind == "torch" else 1}, "args": Command(trace)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=kind == "torch")
    message = (
        r"`checkpoint` .*evil.pt', which would run code, '\w+.mkdir'"
        if protocol == 2
        else "`checkpoint` .*evil.pt'.*code"
    )
    with pytest.raises(ValueError, match=message):
        convert_llamagen(path)
    assert not trace.exists()


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.98])
@pytest.mark.parametrize("writer", WRITERS)
def test_truncated_files(writer, fraction, tensors, tmp_path):
    path = tmp_path / "short.pt"
    WRITERS[writer](tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ValueError, match="`checkpoint` .*short.pt', which cannot be read"):
        convert_llamagen(path)


@pytest.mark.parametrize(
    "content",
    [b"hello world", b"<!DOCTYPE html>", b"\x89PNG\r\n\x1a\n" + bytes(50), b"PK\x03\x04" + bytes(50), b"12345678{}"],
)
def test_files_of_other_kinds(content, tmp_path):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="`checkpoint` .*other.pt', which cannot be read"):
        convert_llamagen(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "state dict, got list"),
        (torch.ones(2), "state dict, got Tensor"),
        ({"a": torch.ones(2), "epoch": 3}, "got int for 'epoch'"),
        ({0: torch.ones(2)}, "got Tensor for 0"),
    ],
)
def test_what_is_no_state_dict(content, message, tmp_path):
    torch.save(content, tmp_path / "list.pt")
    with pytest.raises(ValueError, match=f"`checkpoint` must.*{message}"):
        convert_llamagen(tmp_path / "list.pt")


def test_missing_files(tmp_path):
    for path in (tmp_path / "none.pt", str(tmp_path)):
        with pytest.raises(FileNotFoundError, match=f"`checkpoint`.*{Path(path).name}"):
            convert_llamagen(path)


@pytest.mark.parametrize("checkpoint", [None, 0, b"model.pt", [torch.ones(2)]])
def test_what_is_no_checkpoint(checkpoint):
    with pytest.raises(TypeError, match="`checkpoint` must be"):
        convert_llamagen(checkpoint)


@pytest.mark.parametrize("key", ["model", "module", "state_dict"])
def test_what_training_programs_put_around_the_weights(key, tmp_path):
    torch.save({key: {"module.a": torch.ones(2), "module.b.module.c": torch.ones(1)}, "epoch": 3}, tmp_path / "a.pt")
    assert sorted(read_checkpoint(tmp_path / "a.pt")) == ["a", "b.module.c"]
    assert sorted(read_checkpoint({"module.a": torch.ones(2), "b": torch.ones(1)})) == ["b", "module.a"]


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_names_of_wrapped_models(prefix, published, tmp_path):
    tensors = published("llamagen")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "wrapped.safetensors")
    expected, found = convert_llamagen(tensors), convert_llamagen(tmp_path / "wrapped.safetensors")
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in expected.state_dict().items())


def test_names_of_compiled_parts():
    assert sorted(read_checkpoint({"layers.0._orig_mod.a": torch.ones(2), "b": torch.ones(1)})) == ["b", "layers.0.a"]
    with pytest.raises(ValueError, match="`checkpoint` must hold each tensor once, got 'a' with and without"):
        read_checkpoint({"_orig_mod.a": torch.ones(2), "a": torch.ones(2)})
