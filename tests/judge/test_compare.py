"""Runs side by side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.errors import OptionError
from ntp.judge.compare import Column, columns_by, compare

times = st.lists(st.integers(1, 10**12), min_size=1, max_size=30)


def columns(*runs):
    return [Column(f"run {number}", tuple(run)) for number, run in enumerate(runs, 1)]


@given(times, times)
def test_the_ratio_is_that_of_the_medians_and_turns_over_with_the_runs(make_measurement, base_ns, head_ns):
    base, head = ([make_measurement(step_time_ns=times_ns)] for times_ns in (base_ns, head_ns))
    (row,) = compare(columns(base, head)).rows
    (turned,) = compare(columns(head, base)).rows
    ratio = row.cells[1].ratio
    assert row.cells[0].ratio is None
    assert ratio.value == pytest.approx(row.cells[1].time_ns.value / row.cells[0].time_ns.value)
    assert ratio.low <= ratio.value <= ratio.high
    assert turned.cells[1].ratio == pytest.approx((1 / ratio.value, 1 / ratio.high, 1 / ratio.low))


def test_cases_of_one_run_alone_are_named(make_measurement):
    one, two, three = (make_measurement(f"simple-b8-s64-t{threads}") for threads in (1, 2, 3))
    comparison = compare(columns([one, two], [two, three]))
    assert [row.case.id for row in comparison.rows] == ["simple-b8-s64-t2"]
    assert comparison.alone == (("run 1", ("simple-b8-s64-t1",)), ("run 2", ("simple-b8-s64-t3",)))


def test_what_each_run_has_of_its_own_is_what_is_compared(make_measurement):
    ids = ("simple-b8-s64-t1-glibc", "simple-b32-s64-t1-glibc"), ("simple-b8-s64-t2", "simple-b32-s64-t2")
    comparison = compare(columns(*([make_measurement(case_id) for case_id in run] for run in ids)))
    assert [(setting.field, setting.values) for setting in comparison.settings] == [
        ("threads", ("1", "2")),
        ("allocator", ("glibc", "glibc-tuned")),
    ]
    assert [row.case.id for row in comparison.rows] == list(ids[0])
    assert comparison.alone == ()


def test_three_runs_and_the_best_of_each_case(make_measurement):
    runs = [
        [make_measurement("simple-b8-s64-t1", [first] * 20), make_measurement("simple-b8-s64-t2", [second] * 20)]
        for first, second in ((10, 20), (8, 30), (12, 15))
    ]
    comparison = compare(columns(*runs))
    assert [row.best for row in comparison.rows] == [1, 2]
    assert [cell.ratio.value for cell in comparison.rows[0].cells[1:]] == [0.8, 1.2]


def test_larger_workloads_are_compared_by_the_token(make_measurement, make_run):
    run = make_run(make_measurement("simple-b8-s64-t1", [100] * 20), make_measurement("simple-b32-s64-t1", [200] * 20))
    by_size = columns_by(run, "batch-size")
    assert [column.name for column in by_size] == ["batch_size 8", "batch_size 32"]
    assert compare(by_size).rows == ()  # another workload is another thing to compute
    (row,) = compare(by_size, "batch-size").rows
    assert row.cells[1].ratio.value == 0.5  # twice the time for four times the tokens
    assert row.best == 1


@pytest.mark.parametrize(("field", "said"), [("colour", "no such field"), ("loss", "only loss full")])
def test_a_run_cannot_be_compared_by_what_it_does_not_vary(make_measurement, make_run, field, said):
    with pytest.raises(OptionError, match=said):
        columns_by(make_run(make_measurement()), field)


def test_an_empty_run_has_no_values(make_run):
    with pytest.raises(OptionError, match="only threads nothing"):
        columns_by(make_run(), "threads")


def test_another_machine_is_told_and_in_what(make_measurement):
    here = make_measurement()
    machine = here.environment.machine.model_copy(update={"logical_cpus": 96})
    there = make_measurement(machine=machine)
    assert compare(columns([here], [here])).differences == ()
    (difference,) = compare(columns([here], [there])).differences
    assert difference == f"machine of run 2: logical_cpus {here.environment.machine.logical_cpus} -> 96"


def test_few_samples_are_pointed_out(make_measurement):
    enough, few = (make_measurement(step_time_ns=[10] * count) for count in (10, 9))
    assert compare(columns([enough], [enough])).few == ()
    assert compare(columns([enough], [few])).few == ("simple-b8-s64-t1",)


def test_a_run_of_nothing_has_nothing_in_common(make_measurement):
    comparison = compare(columns([], [make_measurement()]))
    assert comparison.rows == ()
    assert comparison.alone == (("run 2", ("simple-b8-s64-t1",)),)
