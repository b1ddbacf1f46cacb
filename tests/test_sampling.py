import torch

from randar_hf.sampling import sample_tokens


def test_frequencies_follow_the_probabilities():
    probabilities = torch.tensor([0.5, 0.25, 0.2, 0.05])
    count = 200_000
    uniforms = torch.rand(count, generator=torch.Generator().manual_seed(0))
    drawn = sample_tokens(probabilities.log().expand(count, -1), uniforms)
    frequencies = torch.bincount(drawn, minlength=4) / count
    expected_error = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((frequencies - probabilities).abs() < 4 * expected_error).all()


def test_excluded_tokens_are_never_drawn():
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]).expand(4, -1)
    uniforms = torch.tensor([0.0, 0.49, 0.5, 1 - 2**-24])  # the ends of what a float32 generator gives
    assert sample_tokens(logits, uniforms).tolist() == [1, 1, 3, 3]


def test_the_tail_of_a_large_codebook_is_reached():
    logits = torch.zeros(1, 16384)
    logits[0, 0] = 20.0  # one token with nearly all the weight
    tail = 16383 / (16383 + torch.tensor(20.0).exp().item())
    uniforms = torch.tensor([1 - tail / 2], dtype=torch.float64)
    assert sample_tokens(logits, uniforms).item() > 0
