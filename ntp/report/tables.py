"""From a run to the rows of its tables. Numbers only, in the units of their names; how they look is text's business."""

import math
from typing import Any, NamedTuple

from ntp.case import PHASES, Case, Runtime, StepConfig, Workload
from ntp.judge.bottleneck import step_point
from ntp.judge.growth import Growth, growths
from ntp.judge.statistics import Interval, median_interval, quantile
from ntp.judge.warnings import MeasurementWarning, warnings_of
from ntp.records.environment import Git, Machine, Software
from ntp.records.peaks import MachinePeaks
from ntp.records.run import Measurement, Observations, Run


class StepRow(NamedTuple):
    """One case whose whole step was timed."""

    case: Case
    step_time_ns: Interval
    """The median over the steps, and its 95% interval."""
    step_time_p95_ns: float
    tokens_per_s: Interval
    """Tokens of one step over the median step time."""
    speed_up: float | None
    """Median step time of the same case with one thread, over this one's. None where the run holds no such case."""
    efficiency: float | None
    """Speed-up over threads: 1 is perfect scaling."""
    peak_rss_bytes: int
    minor_page_faults_per_step: float
    samples: int


class PartRow(NamedTuple):
    """One case that times a part of the step: its data, forward, backward or optimizer."""

    case: Case
    part_time_ns: Interval
    part_time_p95_ns: float
    share_of_step: float | None
    """Of the median time of the same case's whole step. None where the run holds no such case."""
    samples: int


class WhyRow(NamedTuple):
    """What the observers saw of one case: why its step takes as long as it does."""

    case: Case
    achieved_flops_per_s: float | None
    share_of_peak: float | None
    """Of the best rate that any product was measured to reach with as many threads."""
    intensity_flops_per_byte: float | None
    """Known if the operators were profiled."""
    bound: str | None
    """By compute or by bandwidth; known if the operators were profiled."""
    phase_shares: dict[str, float]
    """Of the step's time; empty if phases were not timed."""
    peak_tensor_bytes: int | None
    minor_page_faults_per_step: float


class Fastest(NamedTuple):
    """The case of one model that trains on the most tokens a second."""

    row: StepRow
    rivals: tuple[StepRow, ...]
    """Cases of the same model whose interval reaches into the fastest one's."""


class HarnessTime(NamedTuple):
    """Where the wall time of a run went."""

    start_s: float
    warm_up_s: float
    timed_s: float
    observed_s: float
    """What the observers took, after the last sample."""
    rest_s: float
    """What no measurement accounts for: failed cases, ending workers, writing files, pytest itself."""
    wall_s: float
    share_of_steps: float
    """Warm-up and timed steps, over the wall time."""
    parent_cpu_share: float
    """CPU time of the parent while steps were timed, over that time: what the harness itself disturbs."""


class Tables(NamedTuple):
    """All that a report of a run says, but for the machine."""

    steps: tuple[StepRow, ...]
    why: tuple[WhyRow, ...]
    """Of the cases of :attr:`steps` that any observer looked at."""
    parts: tuple[PartRow, ...]
    fastest: tuple[Fastest, ...]
    """One for each model and its sizes: tokens of different models do not compare."""
    growths: tuple[Growth, ...]
    """How the step time grows, where the run has cases of enough sizes."""
    warnings: tuple[tuple[str, MeasurementWarning], ...]
    """Case ids and what casts doubt on them."""
    time: HarnessTime


def tables_of(run: Run) -> Tables:
    """The tables of a run, in the order in which it was measured."""
    # A case measured twice, as a benchmark that is collected twice would be, is compared by its last measurement.
    medians_ns = {measurement.case: _median_ns(measurement).value for measurement in run.measurements}
    whole = [measurement for measurement in run.measurements if measurement.case.workload.part == "step"]
    parts = [measurement for measurement in run.measurements if measurement.case.workload.part != "step"]
    steps = tuple(_step_row(measurement, medians_ns) for measurement in whole)
    return Tables(
        steps=steps,
        why=tuple(_why_row(each, run.peaks) for each in whole if _was_observed(each)),
        parts=tuple(_part_row(measurement, medians_ns) for measurement in parts),
        fastest=_fastest(steps),
        growths=growths((row.case, row.step_time_ns.value) for row in steps),
        warnings=tuple(
            (measurement.case.id, warning) for measurement in run.measurements for warning in warnings_of(measurement)
        ),
        time=_harness_time(run),
    )


def _was_observed(measurement: Measurement) -> bool:
    return measurement.observations != Observations()


def _median_ns(measurement: Measurement) -> Interval:
    return median_interval(measurement.samples_ns)


def _step_row(measurement: Measurement, medians_ns: dict[Case, float]) -> StepRow:
    case = measurement.case
    time_ns = _median_ns(measurement)
    tokens = case.workload.tokens * 1e9
    one_thread_ns = medians_ns.get(case.model_copy(update={"runtime": case.runtime.model_copy(update={"threads": 1})}))
    speed_up = one_thread_ns / time_ns.value if one_thread_ns else None
    return StepRow(
        case=case,
        step_time_ns=time_ns,
        step_time_p95_ns=quantile(measurement.samples_ns, 0.95),
        # The longest time is the lowest rate.
        tokens_per_s=Interval(tokens / time_ns.value, tokens / time_ns.high, tokens / time_ns.low),
        speed_up=speed_up,
        efficiency=speed_up / case.runtime.threads if speed_up else None,
        peak_rss_bytes=measurement.peak_rss_bytes,
        minor_page_faults_per_step=measurement.minor_page_faults_per_step,
        samples=len(measurement.step_time_ns),
    )


def _why_row(measurement: Measurement, peaks: MachinePeaks | None) -> WhyRow:
    seen = measurement.observations
    point = step_point(measurement, peaks.at(measurement.case.runtime.threads) if peaks else None)
    intensity = point.intensity_flops_per_byte if point else None
    rate = seen.flops.total_flops / _median_ns(measurement).value * 1e9 if seen.flops else None
    return WhyRow(
        case=measurement.case,
        achieved_flops_per_s=rate,
        share_of_peak=point.share_of_peak if point else None,
        intensity_flops_per_byte=intensity if intensity is not None and math.isfinite(intensity) else None,
        bound=point.bound if point else None,
        phase_shares=seen.phases.share if seen.phases else {},
        peak_tensor_bytes=seen.memory.peak_bytes if seen.memory else None,
        minor_page_faults_per_step=measurement.minor_page_faults_per_step,
    )


def _part_row(measurement: Measurement, medians_ns: dict[Case, float]) -> PartRow:
    case = measurement.case
    time_ns = _median_ns(measurement)
    step_ns = medians_ns.get(case.model_copy(update={"workload": case.workload.model_copy(update={"part": "step"})}))
    return PartRow(
        case=case,
        part_time_ns=time_ns,
        part_time_p95_ns=quantile(measurement.samples_ns, 0.95),
        share_of_step=time_ns.value / step_ns if step_ns else None,
        samples=len(measurement.step_time_ns),
    )


def _model_and_sizes(workload: Workload) -> tuple[str, int, int, int]:
    return workload.model, workload.vocab_size, workload.embed_dim, workload.hidden_dim


def _fastest(rows: tuple[StepRow, ...]) -> tuple[Fastest, ...]:
    by_model: dict[object, list[StepRow]] = {}
    for row in rows:
        by_model.setdefault(_model_and_sizes(row.case.workload), []).append(row)
    answers = []
    for group in by_model.values():
        best = max(group, key=lambda row: row.tokens_per_s.value)
        rivals = (row for row in group if row is not best and row.tokens_per_s.high >= best.tokens_per_s.low)
        answers.append(Fastest(best, tuple(rivals)))
    return tuple(answers)


def _harness_time(run: Run) -> HarnessTime:
    harness = [measurement.harness for measurement in run.measurements]
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
    """Of a time that may be none, or shorter than any clock tells."""
    return part_s / max(whole_s, 1e-9) if whole_s else 0.0


def surroundings(run: Run) -> list[tuple[Machine, Software, Git]]:
    """Where the run was measured. One machine, software and commit, unless something changed on the way."""
    environments = (measurement.environment for measurement in run.measurements)
    return list(dict.fromkeys((each.machine, each.software, each.git) for each in environments))


COLUMNS = (
    "case_id",
    *Workload.model_fields,
    *StepConfig.model_fields,
    *Runtime.model_fields,
    "samples",
    "step_time_median_ns",
    "step_time_low_ns",
    "step_time_high_ns",
    "step_time_p95_ns",
    "tokens_per_s",
    "tokens_per_s_low",
    "tokens_per_s_high",
    "speed_up",
    "efficiency",
    "share_of_step",
    "peak_rss_bytes",
    "minor_page_faults_per_step",
    "major_page_faults",
    "parameters",
    "flops_per_step",
    "achieved_flops_per_s",
    "share_of_peak",
    "intensity_flops_per_byte",
    "bound",
    *(f"{phase}_share" for phase in PHASES),
    "phase_cost",
    "peak_tensor_bytes",
    "warm_up_steps",
    "warm_up_steady",
    "start_s",
    "warm_up_s",
    "timed_s",
    "parent_cpu_s",
    "steal_share",
    "other_cpu_share",
    "throttled_s",
    "throttled_periods",
    "load_1min",
    "machine_fingerprint",
    "software_fingerprint",
    "git_commit",
    "git_dirty",
)
"""Names of what :func:`records_of` tells of each measurement. Times are of the step, or of the part that is named."""


def records_of(run: Run, tables: Tables) -> list[dict[str, Any]]:
    """One flat record a measurement, for other programs: all :data:`COLUMNS`, None where unknown or meaningless."""
    steps, parts, why = iter(tables.steps), iter(tables.parts), iter(tables.why)
    records = []
    for measurement in run.measurements:
        whole = measurement.case.workload.part == "step"
        derived = _of_step(next(steps)) if whole else _of_part(next(parts))
        record = _of_measurement(measurement) | derived
        if whole and _was_observed(measurement):
            record |= _of_why(next(why), measurement.observations)
        records.append({name: record.get(name) for name in COLUMNS})
    return records


def _of_measurement(measurement: Measurement) -> dict[str, Any]:
    case, environment = measurement.case, measurement.environment
    return {
        "case_id": case.id,
        **case.workload.model_dump(),
        **case.step.model_dump(),
        **case.runtime.model_dump(),
        "samples": len(measurement.step_time_ns),
        "peak_rss_bytes": measurement.peak_rss_bytes,
        "minor_page_faults_per_step": measurement.minor_page_faults_per_step,
        "major_page_faults": measurement.major_page_faults,
        "parameters": measurement.parameters,
        "warm_up_steps": len(measurement.warm_up.step_time_ns),
        "warm_up_steady": measurement.warm_up.steady,
        **measurement.harness.model_dump(),
        **(environment.conditions.model_dump() if environment.conditions else {}),
        "machine_fingerprint": environment.machine.fingerprint,
        "software_fingerprint": environment.software.fingerprint,
        "git_commit": environment.git.commit,
        "git_dirty": environment.git.dirty,
    }


def _of_step(row: StepRow) -> dict[str, float | None]:
    return {
        **_times(row.step_time_ns, row.step_time_p95_ns),
        "tokens_per_s": row.tokens_per_s.value,
        "tokens_per_s_low": row.tokens_per_s.low,
        "tokens_per_s_high": row.tokens_per_s.high,
        "speed_up": row.speed_up,
        "efficiency": row.efficiency,
    }


def _of_why(row: WhyRow, seen: Observations) -> dict[str, Any]:
    return {
        "flops_per_step": seen.flops.total_flops if seen.flops else None,
        "achieved_flops_per_s": row.achieved_flops_per_s,
        "share_of_peak": row.share_of_peak,
        "intensity_flops_per_byte": row.intensity_flops_per_byte,
        "bound": row.bound,
        **{f"{phase}_share": share for phase, share in row.phase_shares.items()},
        "phase_cost": seen.phases.cost if seen.phases else None,
        "peak_tensor_bytes": row.peak_tensor_bytes,
    }


def _of_part(row: PartRow) -> dict[str, float | None]:
    return {**_times(row.part_time_ns, row.part_time_p95_ns), "share_of_step": row.share_of_step}


def _times(median_ns: Interval, p95_ns: float) -> dict[str, float | None]:
    return {
        "step_time_median_ns": median_ns.value,
        "step_time_low_ns": median_ns.low,
        "step_time_high_ns": median_ns.high,
        "step_time_p95_ns": p95_ns,
    }
