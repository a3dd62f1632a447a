"""The rows of a sweep's tables, as numbers. How they are shown is up to the columns."""

from collections.abc import Sequence
from typing import NamedTuple

from ntp.case import Case, Workload
from ntp.judge.bottleneck import step_point
from ntp.judge.growth import Growth, growths
from ntp.judge.processes import levels
from ntp.judge.statistics import Interval, quantile
from ntp.judge.warnings import MeasurementWarning, warnings_of
from ntp.records.environment import Conditions, Git, Machine, Software
from ntp.records.observations import Observations
from ntp.records.peaks import MachinePeaks, RooflinePoint
from ntp.records.run import Measurement, Run


class CaseRow(NamedTuple):
    """A measured case with all that is derived from it, and from the other cases of its run."""

    measurement: Measurement
    time_ns: Interval
    """The median time of the step, or of its part, and its 95% interval."""
    p95_ns: float
    speed_up: float | None
    """Median step time of the same case with one thread, over this one's. None if the run has no such case."""
    share_of_step: float | None
    """Median time of the part, over that of the same case's whole step. None if the run has no such case."""
    observations: Observations
    """Those of a whole step; a part has none."""
    roofline: RooflinePoint | None
    """Where the step lies under the roofline of as many threads."""
    warnings: tuple[MeasurementWarning, ...]

    @property
    def case(self) -> Case:
        return self.measurement.case

    @property
    def is_step(self) -> bool:
        """Whether the whole step was timed, and not a part: its data, forward, backward or optimizer."""
        return self.case.workload.part == "step"

    @property
    def conditions(self) -> Conditions:
        return self.measurement.processes[-1].conditions

    @property
    def tokens_per_s(self) -> Interval:
        """Tokens of one step over the median time."""
        tokens = self.case.workload.tokens * 1e9
        # The longest time is the lowest rate.
        return Interval(tokens / self.time_ns.value, tokens / self.time_ns.high, tokens / self.time_ns.low)

    @property
    def efficiency(self) -> float | None:
        """Speed-up over threads: 1 is perfect scaling."""
        return self.speed_up / self.case.runtime.threads if self.speed_up else None

    @property
    def achieved_flops_per_s(self) -> float | None:
        flops = self.observations.flops
        return flops.total_flops / self.time_ns.value * 1e9 if flops else None

    @property
    def phase_shares(self) -> dict[str, float]:
        """Shares of the step's time; empty if phases were not timed."""
        phases = self.observations.phases
        return phases.share if phases else {}


class Fastest(NamedTuple):
    """The case of one model that trains on the most tokens a second."""

    row: CaseRow
    rivals: tuple[CaseRow, ...]
    """Cases of the same model whose interval overlaps that of the fastest."""


class HarnessTime(NamedTuple):
    """How the wall time of a run was spent."""

    start_s: float
    warm_up_s: float
    timed_s: float
    observed_s: float
    """Time of the observers, after the last sample."""
    rest_s: float
    """Everything else: failed cases, ending workers, writing files, pytest itself."""
    wall_s: float
    share_of_steps: float
    """Warm-up and timed steps, over the wall time."""
    parent_cpu_share: float
    """CPU time of the parent while steps were timed, over that time: how much the harness itself disturbs them."""


class Tables(NamedTuple):
    """All that a report says about a run, except for the machine."""

    rows: tuple[CaseRow, ...]
    """One for each measurement, in the order in which they were made."""
    fastest: tuple[Fastest, ...]
    """One for each model and its sizes: tokens per second of different models cannot be compared."""
    growths: tuple[Growth, ...]
    """How the step time grows, if the run has cases of enough sizes."""
    time: HarnessTime

    @property
    def steps(self) -> tuple[CaseRow, ...]:
        return tuple(row for row in self.rows if row.is_step)

    @property
    def why(self) -> tuple[CaseRow, ...]:
        """Those of :attr:`steps` that an observer looked at."""
        return tuple(row for row in self.steps if row.observations != Observations())

    @property
    def parts(self) -> tuple[CaseRow, ...]:
        return tuple(row for row in self.rows if not row.is_step)

    @property
    def warnings(self) -> tuple[tuple[str, MeasurementWarning], ...]:
        """Case ids, and what casts doubt on them."""
        return tuple((row.case.id, warning) for row in self.rows for warning in row.warnings)


def tables_of(run: Run) -> Tables:
    """The tables of a run, in the order in which it was measured."""
    by_case = levels(run.measurements)
    timed = [
        (measurement, by_case[measurement.case].interval or Interval(*[by_case[measurement.case].value_ns] * 3))
        for measurement in run.measurements
    ]
    # A case measured twice, as a benchmark that is collected twice would be, is compared by its last measurement.
    medians_ns = {measurement.case: time_ns.value for measurement, time_ns in timed}
    rows = tuple(_row(measurement, time_ns, medians_ns, run.peaks) for measurement, time_ns in timed)
    steps = [row for row in rows if row.is_step]
    return Tables(
        rows=rows,
        fastest=_fastest(steps),
        growths=growths((row.case, row.time_ns.value) for row in steps),
        time=_harness_time(run),
    )


def _row(
    measurement: Measurement, time_ns: Interval, medians_ns: dict[Case, float], peaks: MachinePeaks | None
) -> CaseRow:
    case = measurement.case
    whole = case.workload.part == "step"
    one_thread = case.model_copy(update={"runtime": case.runtime.model_copy(update={"threads": 1})})
    step = case.model_copy(update={"workload": case.workload.model_copy(update={"part": "step"})})
    one_thread_ns, step_ns = medians_ns.get(one_thread), medians_ns.get(step)
    return CaseRow(
        measurement=measurement,
        time_ns=time_ns,
        p95_ns=quantile(measurement.samples_ns, 0.95),
        speed_up=one_thread_ns / time_ns.value if whole and one_thread_ns else None,
        share_of_step=time_ns.value / step_ns if not whole and step_ns else None,
        observations=measurement.observations if whole else Observations(),
        roofline=step_point(measurement, peaks.at(case.runtime.threads) if peaks else None) if whole else None,
        warnings=warnings_of(measurement),
    )


def _model_and_sizes(workload: Workload) -> tuple[str, int, int, int]:
    return workload.model, workload.vocab_size, workload.embed_dim, workload.hidden_dim


def _fastest(rows: Sequence[CaseRow]) -> tuple[Fastest, ...]:
    by_model: dict[object, list[CaseRow]] = {}
    for row in rows:
        by_model.setdefault(_model_and_sizes(row.case.workload), []).append(row)
    answers = []
    for group in by_model.values():
        best = max(group, key=lambda row: row.tokens_per_s.value)
        rivals = (row for row in group if row is not best and row.tokens_per_s.high >= best.tokens_per_s.low)
        answers.append(Fastest(best, tuple(rivals)))
    return tuple(answers)


def _harness_time(run: Run) -> HarnessTime:
    extra = (run.plain,) if run.plain else ()
    harness = [process.harness for measurement in (*run.measurements, *extra) for process in measurement.processes]
    start_s = sum(part.start_s for part in harness)
    warm_up_s = sum(part.warm_up_s for part in harness)
    timed_s = sum(part.timed_s for part in harness)
    observed_s = sum(measurement.observations.wall_time_s for measurement in run.measurements)
    parent_cpu_s = sum(part.parent_cpu_s for part in harness)
    return HarnessTime(
        start_s=start_s,
        warm_up_s=warm_up_s,
        timed_s=timed_s,
        observed_s=observed_s,
        rest_s=max(0.0, run.wall_time_s - start_s - warm_up_s - timed_s - observed_s),
        wall_s=run.wall_time_s,
        share_of_steps=_share(warm_up_s + timed_s, run.wall_time_s),
        parent_cpu_share=_share(parent_cpu_s, timed_s),
    )


def _share(part_s: float, whole_s: float) -> float:
    """The whole may be zero, or shorter than any clock can tell."""
    return part_s / max(whole_s, 1e-9) if whole_s else 0.0


def surroundings(run: Run) -> list[tuple[Machine, Software, Git]]:
    """Where the run was measured: one machine, software and commit, unless something changed during the sweep."""
    environments = (measurement.environment for measurement in run.measurements)
    return list(dict.fromkeys((place.machine, place.software, place.git) for place in environments))
