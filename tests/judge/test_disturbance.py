"""How much steps vary, and why most of all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.disturbance import Spreads, likeliest, spread
from ntp.judge.warnings import MeasurementWarning


def warning(kind):
    return MeasurementWarning(kind=kind, message=kind, advice="none")


def test_one_step_in_twenty_is_slower_by_as_much():
    assert spread([100] * 95 + [150] * 5) == pytest.approx(0.025)
    assert spread([100] * 90 + [150] * 10) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no samples"):
        spread([])


@given(st.lists(st.integers(1, 10**9), min_size=1), st.integers(2, 1000))
def test_it_is_a_share_whatever_the_unit(samples, scale):
    assert spread(samples) >= 0
    assert spread([sample * scale for sample in samples]) == pytest.approx(spread(samples))


def test_seconds_of_one_process_tell_large_differences_alone():
    assert Spreads(quiet=0.02, plain=0.05).plain_is_louder
    assert not Spreads(quiet=0.02, plain=0.025).plain_is_louder
    assert not Spreads(quiet=0.02, plain=0.01).plain_is_louder


def test_what_others_take_now_is_louder_than_what_they_may_take():
    kinds = ("smt", "virtual-machine", "default-allocator", "other-load", "high-steal")
    warnings = [warning(kind) for kind in kinds]
    assert likeliest(warnings).kind == "high-steal"
    assert likeliest(warnings[:4]).kind == "other-load"
    assert likeliest(warnings[:3]).kind == "virtual-machine"
    assert likeliest([warning("default-allocator")]) is None
    assert likeliest([]) is None
