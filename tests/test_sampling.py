"""Tokens from logits and noise: the law, independence, and noise that belongs to a token alone."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from randar_hf.sampling import gumbel_noise, sample_tokens


COUNT = 100_000


def chi_square(observed, probabilities):
    """Pearson's statistic in standard deviations from its mean."""
    expected = probabilities * observed.sum()
    statistic = ((observed - expected) ** 2 / expected).sum()
    degrees = len(probabilities) - 1
    return ((statistic - degrees) / (2 * degrees) ** 0.5).item()


@pytest.mark.parametrize(
    "warpers", [[], [TemperatureLogitsWarper(0.6)], [TopKLogitsWarper(5)], [TopPLogitsWarper(0.8)]]
)
@pytest.mark.parametrize("along", ["seeds", "positions"])
def test_frequencies_follow_the_softmax(warpers, along):
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(3)) * 1.5
    for warper in warpers:
        logits = warper(None, logits)
    seeds = torch.randint(2**63 - 1, (COUNT,), generator=torch.Generator().manual_seed(0))
    positions = torch.zeros(COUNT, 1, dtype=torch.long)
    if along == "positions":  # of one image
        seeds, positions = seeds[:1], torch.arange(COUNT)[None]
    scores = logits.expand(*positions.shape, -1)
    observed = torch.bincount(sample_tokens(scores, seeds, positions)[0].flatten(), minlength=12).double()
    law = logits[0].double().softmax(-1)
    assert observed[law == 0].sum() == 0
    assert abs(chi_square(observed[law > 0], law[law > 0])) < 4


def test_noise_is_standard_gumbel():
    noise = gumbel_noise(torch.tensor([7]), torch.arange(64)[None], 16384).double().flatten()
    assert noise.isfinite().all()
    levels = torch.linspace(0, 1, 257, dtype=torch.float64)[1:-1]
    cells = torch.bucketize(noise, -(-levels.log()).log())
    assert abs(chi_square(torch.bincount(cells, minlength=256).double(), torch.full((256,), 1 / 256))) < 4
    assert noise.max() > 11  # of a million numbers: the tail is there


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2**32, 0, 0), (0, 64, 0)])
def test_seeds_positions_and_codes_are_independent(shift):
    seed, position, code = shift
    noise = gumbel_noise(torch.tensor([5, 5 + seed]), torch.arange(256 + position).expand(2, -1), 512 + code)
    first = noise[0, :256, :512].flatten()
    second = noise[1 if seed else 0, position:, code:].flatten()[: len(first)] if seed or position or code else None
    second = noise[int(seed > 0), position : position + 256, code : code + 512].flatten()
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 4 / len(first) ** 0.5
    both = ((first > 2) & (second > 2)).double().mean()
    alone = (first > 2).double().mean() * (second > 2).double().mean()
    assert abs(both - alone) < 4 * (alone / len(first)) ** 0.5


def test_noise_belongs_to_a_token_alone():
    seeds, positions = torch.tensor([3, 2**62 + 11, 3]), torch.tensor([[4, 9], [0, 4], [9, 4]])
    noise = gumbel_noise(seeds, positions, 40)
    assert torch.equal(noise[0], noise[2].flip(0)) and not torch.equal(noise[0, 0], noise[1, 1])
    assert torch.equal(gumbel_noise(seeds[1:2], positions[1:2, 1:], 16), noise[1:2, 1:, :16])
    numbers = [2.1453, 0.6516, -0.8589, 0.5095]
    assert torch.allclose(noise[0, 0, :4], torch.tensor(numbers), atol=1e-3), noise[0, 0, :4]


def test_excluded_tokens_are_never_sampled_and_none_lies_outside():
    scores = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]).expand(1, 1000, -1)
    tokens, highest = sample_tokens(scores, torch.tensor([1]), torch.arange(1000)[None])
    assert set(tokens.flatten().tolist()) == {1, 3} and highest.isfinite().all()
    for value in (torch.nan, torch.inf, -torch.inf):
        for seeds in (None, torch.tensor([1])):
            tokens, highest = sample_tokens(torch.full((1, 1, 5), value), seeds, torch.zeros(1, 1, dtype=torch.long))
            assert 0 <= tokens.item() < 5 and not highest.isfinite().item()


def test_without_seeds_the_most_likely_token_is_taken():
    scores = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample_tokens(scores, None, torch.zeros(2, 3, dtype=torch.long))[0], scores.argmax(-1))


def test_a_small_difference_of_logits_seldom_changes_a_token():
    scores = torch.randn(1, 2000, 256, generator=torch.Generator().manual_seed(0))
    other = scores + 0.05 * torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    seeds, positions = torch.tensor([1]), torch.arange(2000)[None]
    distance = (scores.softmax(-1) - other.softmax(-1)).abs().sum(-1).mean() / 2
    changed = (sample_tokens(scores, seeds, positions)[0] != sample_tokens(other, seeds, positions)[0]).float().mean()
    assert 0.01 < distance < 0.05 and changed < 3 * distance
