import math

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.sequential import Estimate, _tail_probabilities, critical_values, t_quantile

FIRST, LAST, ALPHA = 5, 20, 0.05


def share_of_walks_that_cross(draw, level, walks=40_000):
    """How often the t of standardised noise crosses the limit at one look at least, one-sided."""
    noise = draw(np.random.default_rng(3), (walks, LAST))
    n = np.arange(1, LAST + 1)
    mean = noise.cumsum(axis=1) / n
    looks = slice(FIRST - 1, None)
    variance = ((noise**2).cumsum(axis=1) - n * mean**2)[:, looks] / (n[looks] - 1)
    t = mean[:, looks] * np.sqrt(n[looks] / variance)
    return np.mean((t > critical_values(level, FIRST, LAST)).any(axis=1))


def standard_error(share, trials=40_000):
    return math.sqrt(share * (1 - share) / trials)


@pytest.mark.parametrize("level", [ALPHA, ALPHA / 4])
def test_all_looks_together_err_as_often_as_promised_where_noise_is_normal(level):
    share = share_of_walks_that_cross(lambda rng, shape: rng.normal(size=shape), level)
    # Within a twentieth of the promise: the step from z to t is an approximation.
    assert 0.9 * level < share < 1.05 * level + 2 * standard_error(level)


@pytest.mark.parametrize("freedom", [3, 5])
def test_heavy_tails_make_it_err_less(freedom):
    share = share_of_walks_that_cross(lambda rng, shape: rng.standard_t(freedom, shape), ALPHA)
    assert 0.5 * ALPHA < share < ALPHA


def test_the_recursion_spends_just_the_error_of_normal_sums():
    tails = _tail_probabilities(ALPHA, FIRST, LAST)
    noise = np.random.default_rng(5).normal(size=(40_000, LAST))
    z = (noise.cumsum(axis=1) / np.sqrt(np.arange(1, LAST + 1)))[:, FIRST - 1 :]
    share = (z > -scipy.special.ndtri(tails)).any(axis=1).mean()
    assert share == pytest.approx(ALPHA, abs=3 * standard_error(ALPHA))


def test_one_look_is_the_plain_t_test():
    # The correction for many looks apart, a single one spends the whole level at once.
    assert _tail_probabilities(0.01, 8, 8) == [pytest.approx(0.01)]
    assert critical_values(0.01, 8, 8) == (pytest.approx(t_quantile(8, 1 - 0.01 / 1.1)),)


def test_the_limits_are_those_published_for_five_looks():
    # Spending of Pocock's type, 2.5% on one side, five equal looks: what gsDesign's sfLDPocock gives.
    z = -scipy.special.ndtri(_tail_probabilities(0.025, 1, 5))
    assert z == pytest.approx([2.438, 2.427, 2.410, 2.397, 2.386], abs=0.001)


levels = st.floats(0.001, 0.2)
looks = st.tuples(st.integers(2, 12), st.integers(0, 20)).map(lambda both: (both[0], both[0] + both[1]))


@given(levels, levels, looks)
def test_less_error_allowed_never_narrows_an_interval(one, other, first_last):
    strict, lax = (critical_values(level, *first_last) for level in sorted((one, other)))
    assert all(a >= b - 1e-9 for a, b in zip(strict, lax, strict=True))


@given(levels, looks)
def test_what_decides_is_never_narrower_than_a_plain_interval(level, first_last):
    first, last = first_last
    limits = critical_values(level, first, last)
    assert len(limits) == last - first + 1
    assert all(limit >= t_quantile(n, 0.975) for n, limit in enumerate(limits, first))


def test_an_estimate_is_the_mean_with_its_standard_error():
    values = [0.01, -0.02, 0.005, 0.015]
    n, mean, std_error = Estimate.of(values)
    assert (n, mean) == (4, pytest.approx(0.0025))
    assert std_error == pytest.approx(np.std(values, ddof=1) / 2)
    assert Estimate.of(values).interval(3.0) == pytest.approx((mean, mean - 3 * std_error, mean + 3 * std_error))


def test_one_value_has_no_spread_to_speak_of_and_equal_values_have_none():
    assert math.isnan(Estimate.of([0.1]).std_error)
    assert Estimate.of([0.1] * 7).std_error == 0
