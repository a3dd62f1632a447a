"""The rows of a sweep's tables, as numbers. How they are shown is up to the columns."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ntp.case import Case, Workload
from ntp.judge.bottleneck import step_point
from ntp.judge.growth import Growth, growths
from ntp.judge.processes import Level, Ratio, Spreads, levels, ratio, spreads
from ntp.judge.statistics import Interval, quantile
from ntp.judge.warnings import MeasurementWarning, warnings_of
from ntp.records.environment import Conditions, Git, Machine, Software
from ntp.records.observations import Observations
from ntp.records.peaks import MachinePeaks, RooflinePoint
from ntp.records.run import Measurement, Run

AS_FAST = Ratio(log_mean=0.0, std_error=0.0, degrees=0)
"""The speed-up of a case over itself, which has no interval."""


class CaseRow(NamedTuple):
    """A measured case with all that is derived from it, and from the other cases of its run."""

    measurement: Measurement
    level: Level
    """The time of the step, or of its part, over the processes."""
    p95_ns: float
    """The 95th percentile of all samples."""
    speed_up: Ratio | None
    """The step time of the same case with one thread, over this one's. None if the run has no such case."""
    share_of_step: Ratio | None
    """The time of the part, over that of the same case's whole step. None if the run has no such case."""
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
        """What disturbed the processes: the mean of the shares, the sum of what was throttled, the highest load."""
        of_processes = [process.conditions for process in self.measurement.processes]

        def together(name: str, how: Callable[[list[Any]], Any]) -> Any:
            values = [value for value in (getattr(process, name) for process in of_processes) if value is not None]
            return how(values) if values else None

        return Conditions(
            steal_share=together("steal_share", statistics.mean),
            other_cpu_share=together("other_cpu_share", statistics.mean),
            throttled_s=together("throttled_s", math.fsum),
            throttled_periods=together("throttled_periods", sum),
            load_1min=together("load_1min", max),
        )

    @property
    def time_ns(self) -> float:
        return self.level.value_ns

    @property
    def tokens_per_s(self) -> float:
        """Tokens of one step over its time."""
        return self.case.workload.tokens * 1e9 / self.time_ns

    @property
    def tokens_per_s_interval(self) -> Interval | None:
        time_ns, tokens = self.level.interval, self.case.workload.tokens * 1e9
        # The longest time is the lowest rate.
        return time_ns and Interval(tokens / time_ns.value, tokens / time_ns.high, tokens / time_ns.low)

    @property
    def efficiency(self) -> float | None:
        """Speed-up over threads: 1 is perfect scaling."""
        return self.speed_up.value / self.case.runtime.threads if self.speed_up else None

    @property
    def efficiency_interval(self) -> Interval | None:
        interval, threads = self.speed_up and self.speed_up.interval, self.case.runtime.threads
        return interval and Interval(*(speed_up / threads for speed_up in interval))

    @property
    def achieved_flops_per_s(self) -> float | None:
        flops = self.observations.flops
        return flops.total_flops / self.time_ns * 1e9 if flops else None

    @property
    def phase_shares(self) -> dict[str, float]:
        """Shares of the step's time; empty if phases were not timed."""
        phases = self.observations.phases
        return phases.share if phases else {}


class Fastest(NamedTuple):
    """The case of one model that trains on the most tokens a second."""

    row: CaseRow
    rivals: tuple[CaseRow, ...]
    """Cases of the same model that cannot be told from it, the fastest first."""


class Plain(NamedTuple):
    """The largest case in a plain process, against the same case as it was measured in the sweep."""

    measurement: Measurement
    row: CaseRow
    """The case that it is compared with."""
    ratio: Ratio
    """The time in the plain process, over that of the case."""


class HarnessTime(NamedTuple):
    """How the wall time of a run was spent."""

    start_s: float
    warm_up_s: float
    timed_s: float
    observed_s: float
    """Time of the observers, after the last sample."""
    rest_s: float
    """Everything else: importing torch, failed cases, ending workers, writing files, pytest itself."""
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
    plain: Plain | None
    """None if there was no plain process, or if it is the same as a case of the run."""
    spreads: Spreads
    """Where the noise is."""
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
    last = {measurement.case: measurement for measurement in run.measurements}
    rows = tuple(
        # A case measured twice, as a benchmark that is collected twice would be, is compared by its last measurement.
        _row(measurement, by_case if measurement == last[measurement.case] else levels([measurement]), run.peaks)
        for measurement in run.measurements
    )
    steps = [row for row in rows if row.is_step]
    return Tables(
        rows=rows,
        fastest=_fastest(steps),
        growths=growths((row.case, row.time_ns) for row in steps),
        plain=_plain(run.plain, steps),
        spreads=spreads(run.measurements),
        time=_harness_time(run),
    )


def _row(measurement: Measurement, by_case: dict[Case, Level], peaks: MachinePeaks | None) -> CaseRow:
    case = measurement.case
    level, whole = by_case[case], case.workload.part == "step"
    one_thread = case.model_copy(update={"runtime": case.runtime.model_copy(update={"threads": 1})})
    step = case.model_copy(update={"workload": case.workload.model_copy(update={"part": "step"})})
    speed_up = share = None
    if whole and one_thread in by_case:
        speed_up = AS_FAST if case == one_thread else ratio(by_case[one_thread], level)
    if not whole and step in by_case:
        share = ratio(level, by_case[step])
    return CaseRow(
        measurement=measurement,
        level=level,
        p95_ns=quantile(measurement.samples_ns, 0.95),
        speed_up=speed_up,
        share_of_step=share,
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
        first, *others = sorted(group, key=lambda row: -row.tokens_per_s)
        answers.append(Fastest(first, tuple(row for row in others if not _is_slower(row, first))))
    return tuple(answers)


def _is_slower(row: CaseRow, fastest: CaseRow) -> bool:
    """Whether the interval of the two cases' ratio, of time per token, says so."""
    interval = ratio(row.level, fastest.level).interval
    tokens = fastest.case.workload.tokens / row.case.workload.tokens
    return interval is not None and interval.low * tokens > 1


def _plain(plain: Measurement | None, steps: Sequence[CaseRow]) -> Plain | None:
    if plain is None or any(row.case == plain.case for row in steps):
        return None
    for row in steps:
        threads = row.case.runtime.threads
        if (row.case.workload, row.case.step, threads) == (
            plain.case.workload,
            plain.case.step,
            plain.case.runtime.threads,
        ):
            # It has a spread of its own, which is none of those that the cases share.
            level = levels([plain])[plain.case]._replace(pool=None)
            return Plain(plain, row, ratio(level, row.level))
    return None


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
