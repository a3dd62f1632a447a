import math
import random
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.statistics import median_interval, quantile

times = st.integers(1, 10**12)
some_times = st.lists(times, min_size=1, max_size=60)
confidences = st.sampled_from([0.5, 0.9, 0.95, 0.99])


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_the_limits_are_those_of_scipy_and_the_range_where_scipy_has_none(confidence: float) -> None:
    rng = np.random.default_rng(1)
    for n in [*range(1, 60), 250, 1001, 20_000]:
        samples = rng.lognormal(size=n)
        expected = scipy.stats.quantile_test(samples).confidence_interval(confidence)
        interval = median_interval(list(samples), confidence)
        if math.isnan(expected.low):
            assert interval[1:] == (samples.min(), samples.max())
        else:
            assert interval[1:] == (expected.low, expected.high)


def test_six_samples_are_the_fewest_whose_range_reaches_95_percent() -> None:
    assert math.isnan(scipy.stats.quantile_test([1.0, 2, 3, 4, 5]).confidence_interval(0.95).low)
    assert median_interval([3, 1, 2, 5, 4]) == (3, 1, 5)
    assert median_interval([3, 1, 2, 5, 4, 6]) == (3.5, 1, 6)
    assert median_interval([1, 2, 3, 4, 5, 6, 7, 8, 9]) == (5, 2, 8)


def test_the_interval_holds_the_median_of_a_skewed_distribution_as_often_as_it_promises() -> None:
    rng = np.random.default_rng(7)
    trials, true_median = 2000, 1.0  # of a log-normal with mu = 0
    for n in (12, 50):
        intervals = [median_interval(list(rng.lognormal(sigma=1.5, size=n))) for _ in range(trials)]
        coverage = sum(low <= true_median <= high for _, low, high in intervals) / trials
        # At least 95%, less the error of 2000 trials; and not the whole range, which would always hold it.
        assert 0.94 <= coverage <= 0.99


@given(some_times, confidences)
def test_the_limits_are_samples_on_either_side_of_the_median(samples: list[int], confidence: float) -> None:
    value, low, high = median_interval(samples, confidence)
    assert value == pytest.approx(statistics.median(samples))
    assert low <= value <= high
    assert low in samples
    assert high in samples


@given(some_times)
def test_more_confidence_never_narrows_the_interval(samples: list[int]) -> None:
    narrow, wide = median_interval(samples, 0.8), median_interval(samples, 0.99)
    assert wide.low <= narrow.low <= narrow.high <= wide.high


@given(some_times, st.sampled_from([0.125, 2.0, 1024.0]))
def test_another_unit_changes_the_unit_alone(samples: list[int], factor: float) -> None:
    scaled = median_interval([sample * factor for sample in samples])
    assert scaled == tuple(limit * factor for limit in median_interval(samples))


@given(some_times, st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(samples: list[int], order: random.Random) -> None:
    shuffled = list(samples)
    order.shuffle(shuffled)
    assert median_interval(shuffled) == median_interval(samples)
    assert quantile(shuffled, 0.95) == quantile(samples, 0.95)


@given(st.lists(times, min_size=2, max_size=60), st.floats(0, 1))
def test_a_quantile_lies_between_the_samples_around_its_rank(samples: list[int], q: float) -> None:
    ordered = sorted(samples)
    rank = (len(samples) - 1) * q
    below, above = ordered[math.floor(rank)], ordered[math.ceil(rank)]
    assert below * (1 - 1e-9) <= quantile(samples, q) <= above * (1 + 1e-9)


def test_a_quantile_is_interpolated_linearly() -> None:
    assert quantile([40, 10, 30, 20], 0.5) == 25
    assert quantile([10, 20], 0.95) == pytest.approx(19.5)
    assert quantile([10], 0.95) == 10


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        median_interval([])
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 0.5)
    with pytest.raises(ValueError, match=r"1\.5"):
        median_interval([1.0], 1.5)
