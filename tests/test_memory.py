"""Memory: decoding that does not fit is refused before anything is made for it, with tokens and memory named."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from randar_hf import generation, generation_plan, memory
from randar_hf.memory import check_libraries_fit, check_memory, free_memory


@pytest.fixture
def free(tmp_path, monkeypatch):
    """`free(gib)` makes the machine have so much memory free; no container and no address space limits it."""
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "missing")
    if hasattr(psutil, "RLIMIT_AS"):
        limit_addresses(monkeypatch, None)

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


@pytest.mark.parametrize("settings", [{}, {"position_instruction": "merge"}, {"num_key_value_heads": 1}])
def test_what_is_named_is_what_the_cache_takes(make_model, free, settings):
    model, caches = make_model(**settings), []
    gib = needed(model, free, images=3, guidance_scale=4.0)
    free(8)
    model.register_forward_pre_hook(lambda _, args, inputs: caches.append(inputs["past_key_values"]), with_kwargs=True)
    model.generate([0, 1, 2], guidance_scale=4.0)
    buffers = [part for layer in caches[-1].layers for part in (layer.keys, layer.values)]
    assert sum(part.nbytes for part in buffers) / 2**30 == pytest.approx(gib, rel=0.1)  # a slot's states are in it


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


@pytest.fixture
def container(tmp_path, monkeypatch):
    """`container(version)` puts the process into a group of 900 bytes, 100 used, inside one of 800, 500 used."""

    def enter(version):
        root = tmp_path / "memory" if version == 1 else tmp_path
        line, files = ("4:memory:/job/part", memory.V1_FILES) if version == 1 else ("0::/job/part", memory.V2_FILES)
        for group, limit, used in (("job", 800, 500), ("job/part", 900, 100)):
            (root / group).mkdir(parents=True)
            (root / group / files[0]).write_text(f"{limit}\n")
            (root / group / files[1]).write_text(f"{used}\n")
            (root / group / "memory.stat").write_text(f"anon 3\n{files[2]} 50\n")
        (tmp_path / "cgroup").write_text(f"7:cpu:/elsewhere\n{line}\n")
        monkeypatch.setattr(memory, "CGROUPS", tmp_path)
        monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "cgroup")
        return root / "job" / files[0]

    return enter


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_leaves_what_the_tightest_of_its_groups_leaves(container, version):
    outer = container(version)
    assert free_memory(torch.device("cpu")) == 800 - 500 + 50  # cached files count as free
    outer.write_text("max\n" if version == 2 else "9223372036854771712\n")
    assert free_memory(torch.device("cpu")) == 900 - 100 + 50
    outer.unlink()
    assert free_memory(torch.device("cpu")) == 900 - 100 + 50


def test_without_limits_all_is_left_that_the_machine_has(free):
    free(2)
    assert free_memory(torch.device("cpu")) == 2 * 2**30


def limit_addresses(monkeypatch, left):
    """Limit the address space of the process to so many bytes more than it has."""
    limit = psutil.Process().memory_info().vms + left if left is not None else psutil.RLIM_INFINITY
    monkeypatch.setattr(psutil.Process, "rlimit", lambda process, kind: (limit, limit))


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_AS"), reason="address spaces are limited on Linux")
def test_a_limit_of_the_address_space_leaves_what_threads_do_not_take(free, monkeypatch):
    free(100)
    limit_addresses(monkeypatch, 3 * 2**30)
    assert free_memory(torch.device("cpu")) == pytest.approx(3 * 2**30 - 256 * 2**20, rel=0.01)


def test_libraries_are_refused_before_their_import_where_they_do_not_fit(free, container, monkeypatch):
    free(449 / 2**10)
    with pytest.raises(ValueError, match="take about 450 MiB of memory, got 449 MiB that are free"):
        check_libraries_fit()
    free(450 / 2**10)
    check_libraries_fit()
    if hasattr(psutil, "RLIMIT_AS"):
        limit_addresses(monkeypatch, 1700 * 2**20)
        with pytest.raises(ValueError, match=r"take about 1500 MiB of address space \(`ulimit -v`\), got 14\d\d MiB"):
            check_libraries_fit()
        limit_addresses(monkeypatch, 2**32)
        check_libraries_fit()
    container(2)
    with pytest.raises(ValueError, match="take about 450 MiB of memory, got 0 MiB that are free"):
        check_libraries_fit()
