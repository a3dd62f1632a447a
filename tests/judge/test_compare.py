"""Run against run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.compare import compare

times = st.lists(st.integers(1, 10**12), min_size=1, max_size=30)


@given(times, times)
def test_the_ratio_is_that_of_the_medians_and_turns_over_with_the_runs(make_measurement, make_run, base_ns, head_ns):
    base, head = (make_run(make_measurement(step_time_ns=each)) for each in (base_ns, head_ns))
    (row,) = compare(base, head).rows
    (turned,) = compare(head, base).rows
    assert row.ratio.value == row.head_ns.value / row.base_ns.value
    assert row.ratio.low <= row.ratio.value <= row.ratio.high
    assert turned.ratio.value == pytest.approx(1 / row.ratio.value)
    assert (turned.ratio.low, turned.ratio.high) == pytest.approx((1 / row.ratio.high, 1 / row.ratio.low))


def test_cases_of_one_run_alone_are_named(make_measurement, make_run):
    one, two, three = (make_measurement(f"simple-b8-s64-t{threads}") for threads in (1, 2, 3))
    comparison = compare(make_run(one, two), make_run(two, three))
    assert [row.case.id for row in comparison.rows] == ["simple-b8-s64-t2"]
    assert comparison.only_base == ("simple-b8-s64-t1",)
    assert comparison.only_head == ("simple-b8-s64-t3",)


def test_another_machine_is_told(make_measurement, make_run):
    here = make_measurement()
    machine = here.environment.machine.model_copy(update={"logical_cpus": 96})
    there = make_measurement(machine=machine)
    assert compare(make_run(here), make_run(here)).differences == ()
    (difference,) = compare(make_run(here), make_run(there)).differences
    assert difference == f"machine: {here.environment.machine.fingerprint} against {machine.fingerprint}"


def test_a_run_of_nothing_has_nothing_in_common(make_measurement, make_run):
    comparison = compare(make_run(), make_run(make_measurement()))
    assert comparison.rows == ()
    assert comparison.only_head == ("simple-b8-s64-t1",)
