"""Memory: decoding that does not fit is refused before anything is made for it, with tokens and memory named."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from randar_hf import generation, generation_plan
from randar_hf.layout import sequence_length
from randar_hf.memory import check_memory


@pytest.fixture
def free(monkeypatch):
    """`free(gib)` makes the machine have so much memory free."""

    def set_free(gib):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(gib * 2**30)))

    return set_free


@pytest.fixture
def nothing_is_made(model, monkeypatch):
    """Fail if anything that grows with the tokens is made, or the model runs."""
    made = [(generation, "make_order"), (generation, "image_seeds"), (generation, "PaperSchedule")]
    made += [(generation_plan, "make_order"), (generation_plan, "group_sizes")]
    for owner, name in (*made, (model, "forward"), (model.model, "rotary_table")):
        monkeypatch.setattr(owner, name, lambda *args, name=name, **kwargs: pytest.fail(f"{name} was called"))


@pytest.mark.parametrize("grid_size", [(4000, 4000), (10**8, 10**8)])
def test_a_huge_grid_is_refused_before_anything_is_made(model, free, nothing_is_made, grid_size):
    free(8)
    with pytest.raises(ValueError, match=rf"`grid_size` gives {grid_size[0] ** 2} tokens .* GiB .*; 8 GiB are free"):
        model.generate([0], grid_size=grid_size)


def test_whatever_memory_this_machine_has_a_huge_grid_is_refused(model, nothing_is_made):
    with pytest.raises(ValueError, match="`grid_size` gives 10000000000000000 tokens"):
        model.generate([0], grid_size=10**8)


def needed(model, free, images=1, **settings):
    """GiB that the error names when next to nothing is free."""
    free(1e-9)
    with pytest.raises(ValueError, match="GiB for this batch") as caught:
        model.generate([0] * images, **settings)
    return float(str(caught.value).split("at least ")[1].split(" GiB")[0])


def test_what_fits_runs_and_what_does_not_is_refused(model, free):
    gib = needed(model, free)
    free(1.01 * gib)
    assert model.generate([0]).shape == (1, 16)
    free(0.99 * gib)
    with pytest.raises(ValueError, match="`grid_size` gives 16 tokens"):
        model.generate([0])


def test_memory_grows_with_images_sequences_tokens_and_what_is_known(model, free):
    plain = needed(model, free, guidance_scale=1.0)
    assert needed(model, free, images=3, guidance_scale=1.0) == pytest.approx(3 * plain, rel=0.02)
    assert needed(model, free, guidance_scale=4.0) == pytest.approx(2 * plain, rel=0.02)
    both = {"guidance_scale": 4.0, "spatial_guidance_scale": 2.0}
    assert needed(model, free, **both) == pytest.approx(3 * plain, rel=0.02)
    assert needed(model, free, guidance_scale=1.0, grid_size=(40, 40)) > 80 * plain
    known = {"known_tokens": torch.zeros(1, 16, dtype=torch.long), "known_mask": torch.arange(16)[None] < 15}
    read = 4 * (2 * 15 + 1) * (4 * 32 + 2 * 64) * 4  # sequences, slots, numbers of a slot of the model, bytes
    more = needed(model, free, images=2, **{name: value.expand(2, -1) for name, value in known.items()})
    assert more - needed(model, free, images=2) == pytest.approx(read / 2**30, rel=0.05)


def test_half_precision_and_shared_heads_take_less(make_model, free):
    plain = needed(make_model(), free)
    assert needed(make_model().to(torch.bfloat16), free) == pytest.approx(plain / 2, rel=0.02)
    assert needed(make_model(num_key_value_heads=1), free) < 0.5 * plain
    assert needed(make_model(position_instruction="dense"), free) == plain
    assert needed(make_model(position_instruction="merge"), free) < 0.6 * plain


@pytest.mark.parametrize("kind", ["rope", "merge"])
def test_the_cache_fits_into_what_was_named(make_model, free, kind):
    # With a token a step the cache is as long as it can be.
    model = make_model(position_instruction=kind)
    gib = needed(model, free, guidance_scale=1.0)
    cache = 2 * 2 * 32 * 4 * (sequence_length(16, model.model.form) + 1)
    assert cache <= 1.01 * gib * 2**30 < 2.5 * cache


def test_devices_whose_memory_is_unknown_are_trusted(free):
    free(0)
    check_memory(16, 2**40, torch.device("meta"))
    with pytest.raises(ValueError, match=r"16 tokens .* at least 1.02e\+03 GiB .* 0 GiB are free"):
        check_memory(16, 2**40, torch.device("cpu"))


def test_memory_of_a_cuda_device_counts_what_torch_holds_and_does_not_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4 * 2**30)
    check_memory(16, 3 * 2**30, torch.device("cuda"))
    with pytest.raises(ValueError, match="3 GiB are free"):
        check_memory(16, 3 * 2**30 + 1, torch.device("cuda"))
