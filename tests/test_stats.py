"""Intervals against numbers worked out by hand."""

import pytest

from palaestra.agents.stats import paired_difference, wilson


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (1, 2, 0.0945, 0.9055),
        (0, 10, 0.0, 0.2775),  # z² / (n + z²) = 3.8415 / 13.8415
        (10, 10, 0.7225, 1.0),
        (250, 500, 0.4563, 0.5437),
    ],
)
def test_wilson_gives_the_published_interval(wins, n, low, high):
    assert wilson(wins, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_knows_nothing_of_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_is_wider_when_it_is_to_be_surer():
    (low, high), (lower, higher) = wilson(8, 10), wilson(8, 10, level=0.99)
    assert lower < low < 0.8 < high < higher


def test_a_paired_difference_is_the_mean_of_the_differences_and_its_normal_interval():
    # Differences 1, 0, 1, 0: mean 1/2, variance (4 * 1/4) / 3 = 1/3, standard error sqrt(1/12).
    mean, low, high = paired_difference([0, 1, 0, 1], [1, 1, 1, 1])
    half = 1.959964 * (1 / 12) ** 0.5
    assert (mean, low, high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))


def test_pairing_sees_what_two_separate_means_would_not():
    before = [0.0, 10.0, 20.0, 30.0]
    assert paired_difference(before, [x + 1 for x in before]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1], [1]), ([1, 2], [1])])
def test_a_paired_difference_needs_two_pairs(before, after):
    with pytest.raises(ValueError, match="two equally long samples"):
        paired_difference(before, after)
