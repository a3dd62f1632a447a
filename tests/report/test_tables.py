import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ntp.case import PHASES, Runtime, StepConfig, Workload
from ntp.judge.processes import Spreads
from ntp.records.environment import Machine
from ntp.records.observations import Observations
from ntp.records.peaks import MachinePeaks
from ntp.records.run import Failure, Harness, Measurement, Run
from ntp.report.columns import Table
from ntp.report.sweep_columns import WAITING, WHY, record
from ntp.report.tables import surroundings, tables_of

Make = Callable[..., Measurement]
MakeRun = Callable[..., Run]
MakeObservations = Callable[..., Observations]
MakePeaks = Callable[..., MachinePeaks]

MS = 1_000_000
LEVELS = (1.0, 0.99, 1.01, 1.005, 0.995)
"""The levels of five processes that differ by half a percent or so."""


def records_of(run: Run) -> list[dict[str, Any]]:
    return [record(row) for row in tables_of(run).rows]


def test_a_row_is_made_of_the_processes(make_measurement: Make, make_run: MakeRun) -> None:
    samples = [n * MS for n in (9, 1, 2, 3, 4, 5, 6, 7, 8)]
    measurement = make_measurement("simple-b8-s64-t1", samples, levels=(1, 4), minor_page_faults=18, peak_rss_bytes=123)
    (row,) = tables_of(make_run(measurement)).steps
    # The geometric mean of 5 and 20 ms. With one degree of freedom, t is 12.7, and the standard error is log 2.
    assert row.time_ns == pytest.approx(10 * MS)
    assert row.level.interval.high == pytest.approx(10 * MS * math.exp(12.706205 * math.log(2)))
    assert row.p95_ns == pytest.approx(32.6 * MS)
    # 8 x 64 tokens in 10 ms; the longest time is the lowest rate.
    assert row.tokens_per_s == pytest.approx(51_200)
    assert row.tokens_per_s_interval.low == pytest.approx(512e9 / row.level.interval.high)
    (record,) = records_of(make_run(measurement))
    assert (record["processes"], record["samples"]) == (2, 18)
    assert (record["minor_page_faults_per_step"], record["peak_rss_bytes"]) == (2, 123)
    assert record["step_time_low_ns"] == row.level.interval.low


@pytest.mark.parametrize(
    ("cpu_ns", "share", "shown"), [((8 * MS, 6 * MS), 0.3, "30%"), ((10 * MS, 9.5 * MS), 0.025, None), ((), None, None)]
)
def test_waiting_is_what_main_threads_were_off_their_cpus_and_shown_where_it_is_much(
    make_measurement: Make, make_run: MakeRun, cpu_ns: Sequence[int], share: float | None, shown: str | None
) -> None:
    measurement = make_measurement(step_time_ns=[10 * MS] * 2, step_cpu_ns=tuple(map(int, cpu_ns)))
    run = make_run(measurement)
    assert records_of(run)[0]["waiting_share"] == (share if share is None else pytest.approx(share))
    (row,) = tables_of(run).steps
    titles = [column.title for column in Table(WHY, [row]).in_format("terminal").columns]
    assert ("waiting" in titles) == (shown is not None)
    if shown:
        assert WAITING.shown(row) == shown


def test_waiting_is_that_of_the_median_process_if_all_know_theirs(make_measurement: Make) -> None:
    measurement = make_measurement(step_time_ns=[10 * MS], levels=(1, 2, 4), step_cpu_ns=(10 * MS,))
    assert measurement.waiting_share == 0.5
    first, *others = measurement.processes
    unknown = first.model_copy(update={"step_cpu_ns": ()})
    assert measurement.model_copy(update={"processes": (unknown, *others)}).waiting_share is None


def test_a_single_process_has_no_interval(make_measurement: Make, make_run: MakeRun) -> None:
    run = make_run(
        make_measurement("simple-b8-s64-t1", [8 * MS]),
        make_measurement("simple-b8-s64-t2", [5 * MS]),
        make_measurement("simple-b8-s64-t2-forward", [2 * MS]),
    )
    for row, values in zip(tables_of(run).rows, records_of(run), strict=True):
        assert row.level.interval is row.tokens_per_s_interval is row.efficiency_interval is None
        assert not [name for name in values if ("_low" in name or "_high" in name) and values[name] is not None]


def test_equal_processes_have_an_interval_of_no_width(make_measurement: Make, make_run: MakeRun) -> None:
    (row,) = tables_of(make_run(make_measurement(step_time_ns=[5 * MS], levels=(1, 1, 1)))).steps
    assert row.level.interval.low == row.level.interval.high == row.time_ns


def test_the_speed_up_is_over_the_same_case_with_one_thread(make_measurement: Make, make_run: MakeRun) -> None:
    run = make_run(
        make_measurement("simple-b8-s64-t2", [5 * MS]),
        make_measurement("simple-b8-s64-t1", [8 * MS]),
        make_measurement("simple-b32-s64-t2", [30 * MS]),
        make_measurement("simple-b8-s64-t2-fused", [4 * MS]),
        make_measurement("simple-b8-s64-t4", [4 * MS]),
    )
    rows = tables_of(run).steps
    assert [row.speed_up and row.speed_up.value for row in rows] == pytest.approx([1.6, 1, None, None, 2])
    assert [row.efficiency for row in rows] == pytest.approx([0.8, 1, None, None, 0.5])


def test_ratios_within_a_run_have_intervals_but_that_of_a_case_to_itself(
    make_measurement: Make, make_run: MakeRun
) -> None:
    run = make_run(
        make_measurement("simple-b8-s64-t1", [8 * MS], levels=LEVELS),
        make_measurement("simple-b8-s64-t2", [5 * MS], levels=LEVELS),
        make_measurement("simple-b8-s64-t2-forward", [2 * MS], levels=LEVELS),
    )
    one, two, part = tables_of(run).rows
    assert (one.speed_up.value, one.speed_up.interval) == (1, None)
    assert two.speed_up.interval.low < 1.6 < two.speed_up.interval.high < 1.7
    assert two.efficiency_interval.high == pytest.approx(two.speed_up.interval.high / 2)
    assert part.share_of_step.interval.low < 0.4 < part.share_of_step.interval.high


def test_a_part_is_a_share_of_its_own_step(make_measurement: Make, make_run: MakeRun) -> None:
    run = make_run(
        make_measurement("simple-b8-s64-t2-forward", [2 * MS]),
        make_measurement("simple-b8-s64-t1-forward", [2 * MS]),
        make_measurement("simple-b8-s64-t2", [8 * MS]),
    )
    tables = tables_of(run)
    assert [row.case.id for row in tables.parts] == ["simple-b8-s64-t2-forward", "simple-b8-s64-t1-forward"]
    assert [row.share_of_step and row.share_of_step.value for row in tables.parts] == pytest.approx([0.25, None])
    assert [row.case.id for row in tables.steps] == ["simple-b8-s64-t2"]


def test_a_step_too_short_for_the_clock_has_its_rates_all_the_same(
    make_measurement: Make, make_run: MakeRun, make_observations: MakeObservations, make_peaks: MakePeaks
) -> None:
    run = make_run(make_measurement("simple-b1-s1-t1", [0, 0], observations=make_observations()), peaks=make_peaks(1))
    (row,) = tables_of(run).steps
    assert (row.tokens_per_s, row.speed_up.value) == (1e9, 1)
    assert row.achieved_flops_per_s == pytest.approx(19_176_357_888e9)
    assert row.roofline.share_of_peak == pytest.approx(row.achieved_flops_per_s / 300e9)


def test_the_fastest_is_the_one_with_the_most_tokens_a_second_of_each_model(
    make_measurement: Make, make_run: MakeRun
) -> None:
    run = make_run(
        make_measurement("simple-b8-s64-t1", [4 * MS], levels=LEVELS),
        make_measurement("simple-b32-s64-t1", [15 * MS], levels=LEVELS),
        make_measurement("simple-b32-s64-t2", [round(15.1 * MS)], levels=LEVELS),
        make_measurement("simple-b8-s64-t1-e16", [1 * MS], levels=LEVELS),
        make_measurement("simple-b8-s64-t1-data", [1]),
    )
    fastest = tables_of(run).fastest
    assert [answer.row.case.id for answer in fastest] == ["simple-b32-s64-t1", "simple-b8-s64-t1-e16"]
    assert [[rival.case.id for rival in answer.rivals] for answer in fastest] == [["simple-b32-s64-t2"], []]


def test_single_processes_are_never_told_apart(make_measurement: Make, make_run: MakeRun) -> None:
    run = make_run(make_measurement("simple-b8-s64-t1", [4 * MS]), make_measurement("simple-b8-s64-t2", [1 * MS]))
    (answer,) = tables_of(run).fastest
    assert (answer.row.case.id, [row.case.id for row in answer.rivals]) == ("simple-b8-s64-t2", ["simple-b8-s64-t1"])


def test_the_plain_process_is_compared_with_its_own_case(make_measurement: Make, make_run: MakeRun) -> None:
    cases = [make_measurement(f"simple-b8-s64-t{threads}", [8 * MS], levels=LEVELS) for threads in (1, 2)]
    plain = make_measurement("simple-b8-s64-t2-glibc-free", [10 * MS], levels=LEVELS)
    compared = tables_of(make_run(*cases, plain=plain)).plain
    assert compared.row.case.id == "simple-b8-s64-t2"
    assert compared.ratio.value == pytest.approx(1.25)
    assert 1.2 < compared.ratio.interval.low < 1.25 < compared.ratio.interval.high < 1.3
    assert tables_of(make_run(cases[0], plain=plain)).plain is None
    assert tables_of(make_run(*cases)).plain is None
    # A sweep of the plain runtime itself.
    assert tables_of(make_run(plain, plain=plain)).plain is None


def test_the_time_adds_up(make_measurement: Make, make_run: MakeRun) -> None:
    harness = Harness(start_s=1, warm_up_s=2, timed_s=4, parent_cpu_s=0.1)
    observations = Observations(wall_time_s=0.5)
    run = make_run(*[make_measurement(harness=harness, observations=observations)] * 2, wall_time_s=16.0)
    time = tables_of(run).time
    assert (time.start_s, time.warm_up_s, time.timed_s, time.observed_s, time.rest_s) == (2, 4, 8, 1, 1)
    assert (time.wall_s, time.share_of_steps, time.parent_cpu_share) == (16, 0.75, 0.025)


def test_a_run_without_measurements_has_tables_without_rows(make_run: MakeRun) -> None:
    tables = tables_of(make_run(planned=3))
    assert tables[:-1] == ((), (), (), None, Spreads(None, None, None))
    assert set(tables.time) == {0}


def test_a_machine_that_stays_the_same_is_told_once(make_measurement: Make, make_run: MakeRun) -> None:
    run = make_run(make_measurement(), make_measurement("simple-b1-s1-t1"), make_measurement(machine=Machine()))
    assert [machine.cpu_model for machine, _, _ in surroundings(run)] == ["Example CPU @ 2.50GHz", None]


def test_the_fields_of_a_case_do_not_hide_each_other(
    make_measurement: Make, make_run: MakeRun, make_observations: MakeObservations, make_peaks: MakePeaks
) -> None:
    run = make_run(
        make_measurement(
            "simple-b8-s64-t2-zipf:1.1-fused-glibc-active-free", [10 * MS], observations=make_observations()
        ),
        make_measurement("simple-b8-s64-t2-data", observations=make_observations()),
        make_measurement("simple-b8-s64-t2"),
        failures=(Failure(case_id="simple-b1-s1-t1", message="died"),),
        peaks=make_peaks(threads=2),
    )
    step, part, unobserved = records_of(run)
    for group in (Workload, StepConfig, Runtime):
        assert set(group.model_fields) < set(step)
    assert (step["data"], step["optimizer"], step["allocator"], step["threads"]) == ("zipf:1.1", "fused", "glibc", 2)
    assert part["part"] == "data"
    # The rate of a part would mean nothing.
    unknown = {
        *("speed_up", "efficiency", "share_of_step", "waiting_share"),
        *(name for name in step if "_low" in name or "_high" in name),  # each has a single process
        *("steal_share", "other_cpu_share", "throttled_s", "throttled_periods", "load_1min"),
    }
    observed = {
        *("flops_per_step", "achieved_flops_per_s", "share_of_peak", "intensity_flops_per_byte", "bound"),
        *(f"{phase}_share" for phase in PHASES),
        *("phase_cost", "peak_tensor_bytes"),
    }
    assert {name for name, value in step.items() if value is None} == unknown
    assert {name for name, value in unobserved.items() if value is None} == unknown | observed
    assert observed < {name for name, value in part.items() if value is None}
    assert part["tokens_per_s"] is None
    assert part["step_time_ns"] == pytest.approx(10 * MS)


def test_why_is_told_in_the_units_of_its_names(
    make_measurement: Make, make_run: MakeRun, make_observations: MakeObservations, make_peaks: MakePeaks
) -> None:
    observations = make_observations()
    run = make_run(
        make_measurement("simple-b32-s128-t2", [100 * MS], observations=observations, minor_page_faults=7),
        peaks=make_peaks(threads=2, fp32=400.0, gb_per_s=10.0),
    )
    (record,) = records_of(run)
    flops, moved = 19_176_357_888, sum(operator.moved_bytes_per_step for operator in observations.operators.operators)
    assert record["flops_per_step"] == flops
    assert record["achieved_flops_per_s"] == pytest.approx(flops / 0.1)
    assert record["share_of_peak"] == pytest.approx(flops / 0.1 / 400e9)
    assert record["intensity_flops_per_byte"] == pytest.approx(flops / moved)
    assert record["bound"] == "compute"  # 49 operations a byte, where the roof bends at 40
    shares = [record[f"{phase}_share"] for phase in PHASES]
    assert shares == pytest.approx([0.003, 0.001, 0.3, 0.15, 0.49, 0.05])
    assert (record["peak_tensor_bytes"], record["minor_page_faults_per_step"]) == (observations.memory.peak_bytes, 7)
    assert record["phase_cost"] == pytest.approx(1 / 0.998 - 1)


def test_why_tells_what_is_known_and_nothing_else(
    make_measurement: Make, make_run: MakeRun, make_observations: MakeObservations, make_peaks: MakePeaks
) -> None:
    only_flops = Observations(flops=make_observations().flops)
    run = make_run(
        make_measurement("simple-b32-s128-t2", observations=only_flops),
        make_measurement("simple-b32-s128-t1", observations=only_flops),
        make_measurement("simple-b32-s128-t1", observations=Observations(failures=("memory: no",))),
        make_measurement("simple-b8-s64-t1"),
        peaks=make_peaks(threads=2),
    )
    with_peaks, without_peaks, nothing = map(record, tables_of(run).why)
    assert with_peaks["share_of_peak"]
    assert (with_peaks["intensity_flops_per_byte"], with_peaks["bound"], with_peaks["forward_share"]) == (None,) * 3
    assert without_peaks["achieved_flops_per_s"]
    assert without_peaks["share_of_peak"] is None
    assert (nothing["achieved_flops_per_s"], nothing["peak_tensor_bytes"]) == (None, None)


def test_a_case_measured_twice_has_two_records_of_its_own(
    make_measurement: Make, make_run: MakeRun, make_observations: MakeObservations
) -> None:
    observations = make_observations()
    run = make_run(
        make_measurement("simple-b32-s128-t2", [100 * MS], observations=observations),
        make_measurement("simple-b32-s128-t2", [50 * MS]),
        make_measurement("simple-b32-s128-t2", [50 * MS], observations=observations),
    )
    rates = [record["achieved_flops_per_s"] for record in records_of(run)]
    assert rates == [pytest.approx(191.76e9, rel=1e-4), None, pytest.approx(383.53e9, rel=1e-4)]
