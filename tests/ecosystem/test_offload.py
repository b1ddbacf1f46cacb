"""Weights that lie elsewhere until a layer runs, and another default device."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload


@pytest.mark.parametrize("offload", ["cpu", "disk"])
@pytest.mark.parametrize("build", ["make_model", "make_rar"])
@pytest.mark.parametrize("batch_size", [1, 8, 9])  # an RAR makes the modulations of few images ahead
def test_offloaded_weights_give_the_same_tokens(build, offload, batch_size, request, tmp_path, generators):
    make = request.getfixturevalue(build)
    expected = make().generate([0] * batch_size, generator=generators(batch_size))
    model = make()
    cpu_offload(model, torch.device("cpu")) if offload == "cpu" else disk_offload(model, tmp_path, torch.device("cpu"))
    assert all(weight.is_meta for weight in model.parameters())
    assert torch.equal(model.generate([0] * batch_size, generator=generators(batch_size)), expected)


@pytest.mark.parametrize("build", ["make_model", "make_rar"])
def test_the_default_device_is_not_that_of_generation(build, request, generators):
    model = request.getfixturevalue(build)()
    known = torch.arange(16)[None] < 4
    calls = [{}, {"known_tokens": torch.zeros(1, 16, dtype=torch.long), "known_mask": known}]
    for settings in calls:
        expected = model.generate([0], generator=generators(1), **settings)
        with torch.device("meta"):
            assert torch.equal(model.generate([0], generator=generators(1), **settings), expected)
