import random

import pytest

from labkit.bench import stats


def noisy(middle, n=9, seed=1):
    draw = random.Random(seed)
    return [middle * (1 + draw.uniform(-0.05, 0.05)) for _ in range(n)]


def test_same_samples_show_no_difference_in_those_words():
    values = noisy(10)
    ratio, low, high = stats.ratio_interval(values, noisy(10, seed=2))
    assert low < 1 < high
    assert stats.verdict(ratio, low, high, 9) == "no detectable difference"


def test_a_real_difference_is_claimed_in_percent_with_its_interval():
    ratio, low, high = stats.ratio_interval(noisy(10), noisy(6, seed=2))
    assert ratio == pytest.approx(0.6, rel=0.1)
    words = stats.verdict(ratio, low, high, 9)
    assert "% less (95 % interval" in words


def test_few_rounds_make_no_claim():
    ratio, low, high = stats.ratio_interval([10, 10, 10], [5, 5, 5])
    assert stats.verdict(ratio, low, high, 3) == "too few rounds for a claim (3; it takes 5)"


def test_intervals_are_the_same_each_time():
    assert stats.median_interval(noisy(3)) == stats.median_interval(noisy(3))


def test_slope_of_a_line():
    gradient, fit = stats.slope([10, 100, 1000], [1.1, 2.0, 11.0])
    assert gradient == pytest.approx(0.01)
    assert fit == pytest.approx(1.0)


def test_a_far_sample_is_found_and_ordinary_scatter_is_not():
    assert stats.outliers([10.0, 10.2, 9.9, 30.0, 10.1, 9.8]) == [3]
    assert stats.outliers(noisy(10)) == []
    assert stats.outliers([1.0, 1.0, 50.0]) == [], "of so few none can be called far"


def test_equal_samples_do_not_make_a_tick_an_outlier():
    assert stats.outliers([100.0, 100.001] * 4 + [101.0]) == []
