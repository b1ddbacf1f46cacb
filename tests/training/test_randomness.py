"""What is sampled depends on the seed, the epoch and the sample, not on who reads it or in which company."""

import json

import pytest
import torch
from datasets import Dataset

from randar_hf.training.accelerator import make_loader
from randar_hf.training.annealing import Annealing
from randar_hf.training.randomness import KeyedSamples, collate, key_seed, seed_masks


def make_samples(seed: int = 0, annealing: Annealing = Annealing("z_curve", 0, 10)) -> KeyedSamples:  # noqa: B008
    rows = Dataset.from_dict({"tokens": torch.arange(40 * 16).view(40, 16).tolist(), "label": list(range(40))})
    return KeyedSamples(rows.with_format("torch"), seed, annealing, (4, 4))


def test_a_sample_is_the_same_in_every_batch():
    samples = make_samples()
    together = samples.__getitems__([3, 7, 39])
    (alone,) = samples.__getitems__([7])
    assert alone["index"] == together[1]["index"] == alone["label"] == 7
    for name in ("tokens", "orders", "chances"):
        assert alone[name].equal(together[1][name])


def test_seed_epoch_and_index_make_the_difference():
    sampled = []
    for seed in (0, 1):
        for epoch in (0, 1):
            samples = make_samples(seed)
            samples.set_epoch(epoch)
            sampled += [(sample["orders"][0], sample["chances"]) for sample in samples.__getitems__([0, 1])]
    for index, (order, chances) in enumerate(sampled):
        for other, more in sampled[:index]:
            assert not order.equal(other) and not (chances == more).any()


def test_chances_are_uniform_and_independent_of_one_another():
    chances = torch.stack([sample["chances"] for sample in make_samples().__getitems__(list(range(40)) * 1)])
    more = torch.cat([chances] + [epoch_chances(epoch) for epoch in range(1, 50)])  # (2000, 2)
    assert more.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=4 * 12**-0.5 / 2000**0.5)
    assert abs(torch.corrcoef(more.T)[0, 1]) < 4 / 2000**0.5


def epoch_chances(epoch: int) -> torch.Tensor:
    samples = make_samples()
    samples.set_epoch(epoch)
    return torch.stack([sample["chances"] for sample in samples.__getitems__(list(range(40)))])


def test_several_crops_are_sampled_anew_in_each_epoch():
    class Rows(list):
        def __getitems__(self, indices):
            return [self[index] for index in indices]

        def set_epoch(self, epoch):
            self.epoch = epoch

    samples = KeyedSamples(Rows([{}]), 0, Annealing("raster"), (4, 4))
    samples.set_epoch(3)
    assert samples.rows.epoch == 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_keeps_the_index_on_the_host(num_workers):
    batch = next(iter(make_loader(make_samples(), 8, num_workers, collate=collate)))
    assert batch["index"] == list(range(8))
    assert (
        batch["orders"].shape == (8, 2, 16) and batch["chances"].shape == (8, 2) and batch["tokens"].shape == (8, 16)
    )


def test_masks_have_a_key_of_their_own():
    masks = []
    for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)):
        seed_masks(*key)
        masks.append(torch.rand(4))
    assert masks[0].equal(masks[4])
    assert not any((masks[0] == mask).any() for mask in masks[1:4])
    samples = make_samples().__getitems__([0])[0]
    assert not torch.isin(samples["chances"], masks[0]).any()
    assert key_seed(0, 1) != key_seed(1, 0)


def test_two_processes_train_on_what_one_reads(start_training, training_settings, tmp_path, monkeypatch, read_metrics):
    for name in ("token_dropout", "residual_dropout", "mlp_dropout"):
        training_settings[name] = 0.0
    training_settings |= {"class_dropout": 0.5, "order": "raster", "annealing_start": 0, "annealing_end": 5}
    runs = {}
    for processes, batch_size in ((1, 8), (2, 4)):
        folder = tmp_path / f"run-{processes}"
        seen = tmp_path / f"seen-{processes}"
        seen.mkdir()
        settings = {**training_settings, "output_dir": str(folder), "batch_size": batch_size}
        group = start_training(settings, processes, watch=str(seen))
        for process in group:
            process.join()
        assert all(process.exitcode == 0 for process in group), (tmp_path / "log").read_text()
        runs[processes] = (read_metrics(folder), [read_seen(path) for path in sorted(seen.iterdir())])
    (rows, (one,)), (rows_of_two, two) = runs[1], runs[2]
    assert len(one) == 6 and [len(steps) for steps in two] == [6, 6]
    for step, samples in enumerate(one):
        assert samples == two[0][step] + two[1][step]
    assert any(sample["dropped"] for samples in one for sample in samples)
    for row, other in zip(rows, rows_of_two, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-6)
        assert row["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)


def read_seen(path) -> list[list[dict]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
