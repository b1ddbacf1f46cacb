import pytest
import torch

from randar_hf.schedules import group_sizes, guidance_weight


# The published program's groups for 256 tokens in 88 steps, after its fix of July 2025.
PUBLISHED_88 = [1] * 24 + [2] * 6 + [int(size) for size in "323233233333334334343443444444444445444544545454545454"]
PUBLISHED_88 += [5, 4, 5, 4]


def test_published_groups():
    assert group_sizes(256, 88) == PUBLISHED_88
    assert group_sizes(256, 256) == [1] * 256
    assert group_sizes(256, 64)[:16] == [1] * 13 + [2, 3, 2] and max(group_sizes(256, 64)) == 7


@pytest.mark.parametrize("schedule", ["cosine", "uniform"])
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 16, 64, 97, 256, 576])
def test_every_token_is_decoded_for_every_step_count(num_tokens, schedule):
    for num_steps in range(1, num_tokens + 1):
        sizes = group_sizes(num_tokens, num_steps, schedule)
        assert len(sizes) == num_steps and sum(sizes) == num_tokens and min(sizes) >= 1


def test_uniform_groups_are_as_equal_as_whole_tokens_allow():
    assert group_sizes(64, 8, "uniform") == [8] * 8
    assert group_sizes(10, 4, "uniform") == [2, 3, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 1), "num_tokens"),
        ((4, 0), "num_steps"),
        ((4, 5), "num_steps"),
        ((4, 2, "sine"), "schedule"),
        ((4.5, 2), "num_tokens"),
        ((4, 2.0), "num_steps"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        group_sizes(*arguments)


def test_guidance_grows_linearly_with_what_is_known():
    done = torch.tensor([0.0, 0.5, 0.75])
    assert guidance_weight("linear", 5.0, done).tolist() == [1.0, 3.0, 4.0]
    assert guidance_weight("constant", 5.0, done).tolist() == [5.0] * 3


def test_power_cosine_grows_late_and_power_zero_is_the_scale():
    done = torch.tensor([0.0, 0.25, 0.5, 1.0])
    expected = 1 + 15 * (1 - torch.cos(torch.pi * done**2.75)) / 2
    torch.testing.assert_close(guidance_weight("power_cosine", 16.0, done, 2.75), expected)
    assert guidance_weight("power_cosine", 16.0, done, 2.75)[[0, 3]].tolist() == [1, 16]
    assert guidance_weight("power_cosine", 4.0, done, 0.0).tolist() == [4, 4, 4, 4]
    assert guidance_weight("power_cosine", 16.0, done)[2].item() == pytest.approx(8.5)


def test_an_unknown_guidance_schedule_is_named():
    with pytest.raises(ValueError, match="`schedule` must be one of linear, constant, power_cosine, got 'zigzag'"):
        guidance_weight("zigzag", 2.0, torch.zeros(1))
