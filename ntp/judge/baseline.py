"""A run against a stored baseline: it compares counts exactly, and times as far as those of two days can be compared.

**Normalised time** is the median step time over that of the calibration kernel in the same process
(:class:`ntp.records.run.CalibrationKernel`): what slows the whole machine down for a while slows both.

**The noise** is the spread of such times between runs of identical code on this machine, which
``ntp doctor --calibrate`` measures, case by case. One run of the head stands against one of the base; with the standard
deviation s of n calibrated runs, log(head / base) is known to within ± t s sqrt(1/1 + 1/1), t being the quantile of
Student's distribution of n - 1 degrees of freedom. The verdict is read off that interval as the guard's is.

**What that can't do.** Runs of one calibration lie minutes apart, a baseline and its head days: what changes from day
to day is in no interval here. And the noise between two processes is several times that of a pair whose sides
alternate: ``ntp guard`` detects much smaller slowdowns. Each interval holds for its own case, whatever their number.

Source of the formula: G. J. Hahn and W. Q. Meeker, Statistical Intervals (1991), chapter 4: the prediction interval of
the mean of m further observations of a normal distribution, mean ± t s sqrt(1/m + 1/n); here both m and the n of the
mean are 1, and s is of further runs, so that the degrees of freedom are theirs.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

from ntp.case import Case
from ntp.judge.counts import Change, changes, counts_of, not_counted, regressions
from ntp.judge.differences import differences
from ntp.judge.sequential import Estimate, t_quantile
from ntp.judge.statistics import Interval
from ntp.judge.verdict import Verdict, gravest, verdict_of
from ntp.records.calibration import CalibratedCase, Calibration, fingerprints
from ntp.records.guard import Metric
from ntp.records.run import Measurement, Run

THRESHOLD = 0.05
"""By default a step may get slower by this fraction: less than most machines can tell from one run."""

CONFIDENCE = 0.95
"""The two-sided confidence of each interval."""

MIN_SHARE_OF_TIME = 0.5
"""A run must be timed for this share of the calibrated runs' time: a median of much less is noisier than those were."""


class Noise(NamedTuple):
    """How far runs of identical code lie from each other. Spreads are standard deviations of log times."""

    case: Case
    runs: int
    step_ns: float
    """The median over the runs of their median step times."""
    raw: float | None
    """The spread of the step times as they are. None for a single run."""
    normalised: float | None
    """The spread of the normalised times."""

    @property
    def half_width(self) -> float | None:
        """The half-width of the interval of log(head / base), from one run of each."""
        if self.normalised is None:
            return None
        return t_quantile(self.runs, (1 + CONFIDENCE) / 2) * self.normalised * math.sqrt(1 / 1 + 1 / 1)

    @property
    def smallest_slowdown(self) -> float | None:
        """The least slowdown, as a fraction, that one run against a baseline can tell from none."""
        return None if self.half_width is None else _ratio(self.half_width) - 1


class TimeFinding(NamedTuple):
    """The verdict on the times of one case."""

    verdict: Verdict
    slowdown: Interval | None = None
    """Head over base, of the normalised times: above 1, the head is slower. None where they are not comparable."""
    reasons: tuple[str, ...] = ()
    """Why the times are not comparable, in words."""


class CaseJudgement(NamedTuple):
    """What times and counts say about a case of the baseline."""

    case: Case
    base_ns: float
    """The median step time, not normalised."""
    head_ns: float | None
    """None where the head lacks the case."""
    times: TimeFinding
    changes: tuple[Change, ...] = ()
    """All counts that differ."""
    regressions: tuple[Change, ...] = ()
    """Those for the worse that nobody has allowed."""
    not_counted: tuple[str, ...] = ()
    """The counts that one of the two lacks."""

    @property
    def verdict(self) -> Verdict:
        """The graver of what the counts and the times say."""
        return "regression" if self.regressions else self.times.verdict


class BaselineVerdict(NamedTuple):
    """The verdict on all cases of a baseline."""

    verdict: Verdict
    cases: tuple[CaseJudgement, ...]
    only_head: tuple[str, ...]
    """Ids of the cases that the baseline lacks: they are not judged."""
    threshold: float
    calibrated: tuple[str, ...]
    """The days on which the noise was measured, without repeats. Empty where no calibration was used."""


def noise_of(calibrated: CalibratedCase) -> Noise:
    """Compute how far the runs of a case lie from each other."""
    raw = [max(1.0, median(run.step_time_ns)) for run in calibrated.runs]
    normalised = [step_ns / run.calibration_kernel.time_ns for step_ns, run in zip(raw, calibrated.runs, strict=True)]
    return Noise(
        case=calibrated.case,
        runs=len(calibrated.runs),
        step_ns=median(raw),
        raw=_log_spread(raw),
        normalised=_log_spread(normalised),
    )


def _log_spread(values: Sequence[float]) -> float | None:
    """Compute the standard deviation of the values' logarithms; None of fewer than two."""
    estimate = Estimate.of([math.log(value) for value in values])
    return estimate.std_error * math.sqrt(estimate.n) if estimate.n > 1 else None


def _ratio(log_ratio: float) -> float:
    # With two runs, t is 12.7: an interval may reach beyond the largest float.
    return math.exp(max(-700.0, min(log_ratio, 700.0)))


def judge_run(
    base: Run,
    head: Run,
    calibration: Calibration | None,
    threshold: float = THRESHOLD,
    allowed: Sequence[str] = (),
) -> BaselineVerdict:
    """Judge each case of the base, in its order. A case measured twice counts by its last time.

    Args:
        base: the stored run.
        head: the run that is judged. A case that it lacks is not comparable, and then the whole is not comparable
            either, at best.
        calibration: that of the machine and the software that the head ran on.
        threshold: the slowdown allowed, as a fraction.
        allowed: names of counts that may rise, or patterns of them.
    """
    bases, heads = ({measurement.case: measurement for measurement in run.measurements} for run in (base, head))
    metric = Metric(name="median", threshold=threshold)
    failures = {failure.case_id: failure.message.removeprefix(f"{failure.case_id}: ") for failure in head.failures}
    cases = tuple(
        _judgement(measurement, heads[case], calibration, metric, allowed)
        if case in heads
        else _missing(measurement, failures.get(case.id))
        for case, measurement in bases.items()
    )
    used = (calibration.at(case.case) for case in cases if case.times.slowdown) if calibration else ()
    return BaselineVerdict(
        verdict=gravest([case.verdict for case in cases]),
        cases=cases,
        only_head=tuple(case.id for case in heads if case not in bases),
        threshold=threshold,
        calibrated=tuple(dict.fromkeys(case.started[:10] for case in used if case)),
    )


def _missing(base: Measurement, failure: str | None) -> CaseJudgement:
    reason = f"the head has no such case: it failed ({failure})" if failure else "the head has no such case"
    return CaseJudgement(base.case, median(base.samples_ns), None, TimeFinding("not comparable", reasons=(reason,)))


def _judgement(
    base: Measurement,
    head: Measurement,
    calibration: Calibration | None,
    metric: Metric,
    allowed: Sequence[str],
) -> CaseJudgement:
    base_counts, head_counts = counts_of(base), counts_of(head)
    differing = changes(base_counts, head_counts)
    return CaseJudgement(
        case=head.case,
        base_ns=median(base.samples_ns),
        head_ns=median(head.samples_ns),
        times=_times(base, head, calibration, metric),
        changes=differing,
        regressions=regressions(differing, allowed),
        not_counted=not_counted(base_counts, head_counts),
    )


def _times(base: Measurement, head: Measurement, calibration: Calibration | None, metric: Metric) -> TimeFinding:
    ours = calibration is not None and (calibration.machine, calibration.software) == fingerprints(head)
    calibrated = calibration.at(head.case) if calibration and ours else None
    if reasons := tuple(_obstacles(base, head, calibrated)):
        return TimeFinding("not comparable", reasons=reasons)
    assert calibrated is not None
    half_width = noise_of(calibrated).half_width
    assert half_width is not None
    value = math.log(_normalised_time(head) / _normalised_time(base))
    log_ratio = Interval(value, value - half_width, value + half_width)
    return TimeFinding(verdict_of(log_ratio, metric), Interval(*map(_ratio, log_ratio)))


def _normalised_time(measurement: Measurement) -> float:
    assert measurement.calibration_kernel is not None
    return median(measurement.samples_ns) / measurement.calibration_kernel.time_ns


def _obstacles(base: Measurement, head: Measurement, calibrated: CalibratedCase | None) -> Iterator[str]:
    """Say why two times cannot be compared. On another machine or with other software, nothing else matters."""
    here, there = head.environment, base.environment
    if here.machine.fingerprint != there.machine.fingerprint:
        yield f"another machine: {', '.join(differences(there.machine, here.machine))}"
    if here.software.fingerprint != there.software.fingerprint:
        yield f"other software: {', '.join(differences(there.software, here.software))}"
    if fingerprints(head) != fingerprints(base):
        return
    for name, measurement in (("base", base), ("head", head)):
        if measurement.calibration_kernel is None:
            yield f"the {name} was measured without the calibration kernel: measure it again with this ntp"
    if base.calibration_kernel is None or head.calibration_kernel is None:
        return
    if base.calibration_kernel.shape != head.calibration_kernel.shape:
        yield "the two were measured beside calibration kernels of different sizes: measure the base again"
    elif calibrated is None or any(
        run.calibration_kernel.shape != head.calibration_kernel.shape for run in calibrated.runs
    ):
        yield "the noise of this case on this machine is not known: ntp doctor --calibrate --cases RUN.json measures it"
    elif len(calibrated.runs) < 2:
        yield "a single calibrated run does not show the noise: ntp doctor --calibrate --cases RUN.json measures it"
    else:
        yield from _too_short(base, head, calibrated)


def _too_short(base: Measurement, head: Measurement, calibrated: CalibratedCase) -> Iterator[str]:
    usual_s = median(sum(run.step_time_ns) for run in calibrated.runs) / 1e9
    for name, measurement in (("base", base), ("head", head)):
        timed_s = sum(measurement.step_time_ns) / 1e9
        if timed_s < MIN_SHARE_OF_TIME * usual_s:
            yield f"the {name}'s steps were timed for {timed_s:.2g} s in all, the calibrated ones for {usual_s:.2g} s"


def nearest(baselines: Sequence[Run], head: Run) -> Run | None:
    """Find the baseline of the machine and software that the head ran on; else one that differs in the fewest fields.

    The fields of the software come first, for counts can be compared across machines. None without any measurement.
    """
    if not head.measurements:
        return next(iter(baselines), None)
    there = head.measurements[0].environment

    def distance(run: Run) -> tuple[int, int]:
        here = run.measurements[0].environment
        return (
            len(differences(here.software, there.software)),
            len(differences(here.machine, there.machine)),
        )

    return min((run for run in baselines if run.measurements), key=distance, default=None)
