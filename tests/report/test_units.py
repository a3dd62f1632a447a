import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.report.units import duration, durations, nominal_size, ratio, share, significant, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (0.5, "0.50"),
        (1.2, "1.20"),
        (9.999, "10.0"),
        (99.96, "100"),
        (12345.6, "12,346"),
        (9_999_999_999, "9,999,999,999"),
        (1e10, "1.00e+10"),
    ],
)
def test_three_digits_are_significant(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [(1, "1.00 ns"), (999.4, "999 ns"), (999.6, "1.00 µs"), (12_345, "12.3 µs"), (1.5e8, "150 ms"), (6.1e10, "61.0 s")],
)
def test_a_time_has_the_unit_that_fits(time_ns: float, text: str) -> None:
    assert duration(time_ns) == text


def test_a_range_has_one_unit() -> None:
    assert durations(990_000, 1_200_000) == "990 to 1,200 µs"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.00 B"), (1023, "1,023 B"), (2**20, "1.00 MiB"), (300 << 20, "300 MiB"), (1 << 43, "8.00 TiB")],
)
def test_sizes_are_of_powers_of_two(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(32 << 10, "32 KiB"), (3 << 19, "1.5 MiB"), (300 << 20, "300 MiB"), (0, "0 B")]
)
def test_round_sizes_stay_round(count: int, text: str) -> None:
    assert nominal_size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0.00%"), (0.0091, "0.91%"), (0.00999, "1.0%"), (0.091, "9.1%"), (0.0996, "10%"), (1.08, "108%")],
)
def test_shares_are_percentages(value: float | None, text: str) -> None:
    assert share(value) == text


def test_what_is_unknown_is_a_dash_and_what_is_huge_stays_short() -> None:
    assert ratio(None) == "-"
    assert share(12.3) == ">999%"


@given(st.floats(1, 1e15))
def test_a_time_reads_back_within_half_a_digit(time_ns: float) -> None:
    number, unit = duration(time_ns).split()
    back = float(number.replace(",", "")) * {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}[unit]
    assert back == pytest.approx(time_ns, rel=0.00501)
    assert unit == "s" or re.fullmatch(r"\d{3}|\d\d\.\d|\d\.\d\d", number)
