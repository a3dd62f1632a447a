"""Growth, by hand and by the power laws that it must give back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ntp.case import Case
from ntp.judge.growth import growths


def of(**fields: object) -> Case:
    return Case.of({"threads": 2, **fields})


@given(st.floats(-1, 3), st.floats(1e3, 1e9), st.lists(st.integers(1, 1000), min_size=4, max_size=9, unique=True))
def test_a_power_law_is_given_back(exponent, scale, factors):
    sizes = sorted(16 * factor for factor in [*factors, 1, 16_000])
    (growth,) = growths([(of(batch_size=size, seq_len=1), scale * size**exponent) for size in set(sizes)])
    assert growth.what == "tokens"
    assert growth.exponent.value == pytest.approx(exponent, abs=1e-6)
    assert growth.last_exponent == pytest.approx(exponent, abs=1e-6)
    assert growth.sizes == tuple(sorted(set(sizes)))


def test_the_interval_is_that_of_least_squares():
    sizes, times = (1000, 5000, 10_000, 50_000), (1.0, 4.0, 11.0, 43.0)
    (growth,) = growths((of(vocab_size=size), time) for size, time in zip(sizes, times, strict=True))
    expected = stats.linregress([math.log(x) for x in sizes], [math.log(y) for y in times])
    assert growth.what == "vocabulary"
    assert growth.exponent.value == pytest.approx(expected.slope)
    reach = stats.t(2).ppf(0.975) * expected.stderr
    assert growth.exponent.high - growth.exponent.value == pytest.approx(reach, rel=1e-3)


def test_few_sizes_or_a_narrow_span_tell_nothing():
    assert growths((of(batch_size=size), float(size)) for size in (1, 2, 100)) == ()
    assert growths((of(batch_size=size), float(size)) for size in (8, 16, 32, 64)) == ()


def test_each_series_stands_alone():
    cases = [
        (of(batch_size=size, loss=loss), float(size)) for size in (1, 4, 16, 64) for loss in ("full", "deduplicated")
    ]
    assert [growth.smallest.step.loss for growth in growths(cases)] == ["full", "deduplicated"]
