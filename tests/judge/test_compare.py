"""Runs side by side."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.errors import OptionError
from ntp.judge.between_runs import RunNoise
from ntp.judge.compare import Column, are_normalised, columns_by, compare
from ntp.records.run import CalibrationKernel

medians = st.lists(st.integers(1, 10**12), min_size=1, max_size=5)


def columns(*runs):
    return [Column.of(f"run {number}", tuple(run)) for number, run in enumerate(runs, 1)]


@given(medians, medians)
def test_the_ratio_is_that_of_the_levels_and_turns_over_with_the_runs(make_measurement, base_ns, head_ns):
    base, head = ([make_measurement(step_time_ns=[1], levels=times_ns)] for times_ns in (base_ns, head_ns))
    (row,) = compare(columns(base, head)).rows
    (turned,) = compare(columns(head, base)).rows
    ratio = row.cells[1].ratio
    assert row.cells[0].ratio is None
    assert ratio.value == pytest.approx(row.cells[1].level.value_ns / row.cells[0].level.value_ns)
    assert turned.cells[1].ratio.value == pytest.approx(1 / ratio.value)
    assert turned.cells[1].differs == row.cells[1].differs
    if min(len(base_ns), len(head_ns)) == 1:
        assert ratio.interval is turned.cells[1].ratio.interval is row.best is None
    else:
        value, low, high = ratio.interval
        assert low <= value <= high
        assert turned.cells[1].ratio.interval == pytest.approx((1 / value, 1 / high, 1 / low), rel=1e-6)


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
        [make_measurement(f"simple-b8-s64-t{threads}", [ns] * 20, levels=(1, 1)) for threads, ns in enumerate(run, 1)]
        for run in ((10, 20, 100), (8, 30, 100), (12, 15, 300))
    ]
    comparison = compare(columns(*runs))
    assert [row.best for row in comparison.rows] == [1, 2, None], "the first two runs of the last case may be as fast"
    assert [cell.ratio.value for cell in comparison.rows[0].cells[1:]] == pytest.approx([0.8, 1.2])
    assert [cell.differs for cell in comparison.rows[2].cells] == [False, False, True]


def test_larger_workloads_are_compared_by_the_token(make_measurement, make_run):
    run = make_run(
        *(make_measurement(f"simple-b{b}-s64-t1", [ns] * 20, levels=(1, 1)) for b, ns in ((8, 100), (32, 200)))
    )
    by_size = columns_by(run, "batch-size")
    assert [column.name for column in by_size] == ["batch_size 8", "batch_size 32"]
    assert compare(by_size).rows == ()  # another workload is another thing to compute
    (row,) = compare(by_size, "batch-size").rows
    assert row.cells[1].ratio.value == pytest.approx(0.5)  # twice the time for four times the tokens
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


def test_a_single_process_is_pointed_out(make_measurement):
    enough, single = (make_measurement(levels=(1,) * count) for count in (2, 1))
    assert compare(columns([enough], [enough])).single == ()
    assert compare(columns([enough], [single])).single == ("simple-b8-s64-t1",)


def test_runs_differ_by_their_noise_and_the_cases_of_one_run_do_not(make_measurement, make_run):
    run = make_run(*(make_measurement(f"simple-b8-s64-t{t}", levels=(0.999, 1.001)) for t in (1, 2)))
    within = compare(columns_by(run, "threads"), "threads")
    quiet, noisy = (compare(columns([*run.measurements], [*run.measurements]), noise=RunNoise(s, 10)) for s in (0, 0.1))
    widths = [comparison.rows[0].cells[1].ratio.half_width for comparison in (within, quiet, noisy)]
    assert (within.one_run, quiet.one_run) == (True, False)
    assert widths[0] == pytest.approx(widths[1])
    assert widths[2] > 0.3
    assert noisy.within == within.within < noisy.another_run


def test_the_cases_of_one_run_share_what_is_known_of_their_spread(make_measurement, make_run):
    run = make_run(*(make_measurement(f"simple-b{b}-s64-t1", levels=(1, 1 + b / 1000)) for b in (8, 16, 32)))
    by_size = compare(columns_by(run, "batch_size"), "batch_size")
    assert {cell.ratio.degrees for cell in by_size.rows[0].cells[1:]} == {3}


def test_a_run_of_nothing_has_nothing_in_common(make_measurement):
    comparison = compare(columns([], [make_measurement()]))
    assert comparison.rows == ()
    assert comparison.alone == (("run 2", ("simple-b8-s64-t1",)),)


@pytest.fixture
def run_at(make_measurement):
    """``run_at(slowness, **fields)``: a run of the simple model on a machine that is slower than usual by a factor."""

    def run(slowness, case="simple-b8-s64-t1", shape=(64, 64, 64), **fields):
        kernel = CalibrationKernel(shape=shape, bursts_ns=((round(1e6 * slowness),),))
        return [make_measurement(case, levels=(slowness, 1.01 * slowness), calibration_kernel=kernel, **fields)]

    return run


def test_how_fast_the_machine_was_is_no_difference_between_runs(run_at):
    comparison = compare(columns(run_at(1.0), run_at(1.5)))
    ((cells),) = (row.cells for row in comparison.rows)
    assert comparison.normalised
    assert cells[1].ratio.value == pytest.approx(1)
    assert cells[1].level.value_ns == pytest.approx(1.5 * cells[0].level.value_ns), "step times are shown as they are"
    assert not cells[1].differs
    assert comparison.another_run < cells[1].ratio.half_width, "the kernel's slope is not known exactly"


def test_what_may_have_changed_the_kernel_is_not_taken_out(run_at, make_measurement, make_run):
    usual, software = run_at(1.0), make_measurement().environment.software
    others = {
        "software": run_at(1.5, software=software.model_copy(update={"torch": "9.9"})),
        "runtime": run_at(1.5, "simple-b8-s64-t1-glibc"),
        "kernel": run_at(1.5, shape=(32, 32, 32)),
        "none": [make_measurement(levels=(1.5, 1.515))],
    }
    for name, other in others.items():
        compared = columns(usual, other)
        assert not are_normalised(compared), name
        (row,) = compare(compared).rows
        assert row.cells[1].ratio.value == pytest.approx(1.5), name
    run = make_run(*run_at(1.0), *run_at(1.5, "simple-b8-s64-t2"))
    by_threads = compare(columns_by(run, "threads"), "threads")
    assert not by_threads.normalised
    assert by_threads.rows[0].cells[1].ratio.value == pytest.approx(1.5)
