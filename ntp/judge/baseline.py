"""A run against a stored baseline: it compares counts exactly, and times as far as those of two runs can be compared.

**Normalised time** is the median step time of a process over that of the calibration kernel in it
(:class:`ntp.records.run.CalibrationKernel`): what slows the whole machine down for a while slows both. How much less it
differs than the time itself: ``reports/sweeps/README.md``.

Such times are compared by :func:`ntp.judge.between_runs.ratio_of_runs`: the interval covers the processes of both runs,
and the noise between runs of identical code, learned from the runs that this machine remembers
(``ntp doctor --calibrate`` adds some). The verdict is read off that interval as the guard's is.

**What that can't do.** Remembered runs may lie minutes apart, a baseline and its head days. And the noise between runs
is several times that of a pair whose sides alternate: ``ntp guard`` detects much smaller slowdowns. Each interval holds
for its own case, whatever their number.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ntp.case import Case
from ntp.judge.between_runs import (
    DEFAULT_NOISE,
    RunNoise,
    another_run,
    ratio_at_equal_speed,
    remembered_runs,
    run_noise,
)
from ntp.judge.counts import Change, changes, counts_of, not_counted, regressions
from ntp.judge.differences import differences
from ntp.judge.processes import Level, levels, levels_of_processes
from ntp.judge.statistics import Interval
from ntp.judge.verdict import Verdict, gravest, verdict_of
from ntp.records.calibration import MIN_ROUNDS, Calibration, fingerprints
from ntp.records.guard import Metric
from ntp.records.run import Measurement, Run

THRESHOLD = 0.05
"""By default a step may get slower by this fraction: less than most machines can tell from one run."""


class CaseNoise(NamedTuple):
    """How far the remembered runs of a case let another run lie from one of them."""

    case: Case
    runs: int
    level: Level
    """That of a typical run: the one whose interval is of median width."""
    smallest_slowdown: float | None
    """The least slowdown, as a fraction, that such a run against such a baseline can tell from none. None where torch
    refused the calibration kernel: then a gate compares no times."""


class Noises(NamedTuple):
    """The noise of the remembered runs: that of whole runs, and what it means for each case."""

    between: RunNoise
    normalised: RunNoise
    """That of the normalised times."""
    cases: tuple[CaseNoise, ...]


class TimeFinding(NamedTuple):
    """The verdict on the times of one case."""

    verdict: Verdict
    slowdown: Interval | None = None
    """Head over base: above 1, the head is slower. None where they are not comparable."""
    reasons: tuple[str, ...] = ()
    """Why the times are not comparable, in words."""


class CaseJudgement(NamedTuple):
    """What times and counts say about a case of the baseline."""

    case: Case
    base_ns: float
    """The level of the step time."""
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
    noise: RunNoise


def noises_of(calibration: Calibration) -> Noises:
    """Say how noisy the remembered runs are."""
    between, normalised = run_noise(calibration), run_noise(calibration, normalised=True)
    raw, compared = (_typical_levels(calibration, normalised=divided) for divided in (False, True))
    cases = (
        CaseNoise(
            case, number, level, another_run(compared[case][1], normalised).half_width if case in compared else None
        )
        for case, (number, level) in raw.items()
    )
    return Noises(between, normalised, tuple(cases))


def _typical_levels(calibration: Calibration, *, normalised: bool) -> dict[Case, tuple[int, Level]]:
    """Return for each case the number of its runs, and the level in the run whose interval is of median width."""
    by_case: dict[Case, list[Level]] = {}
    for cases in remembered_runs(calibration, normalised=normalised).values():
        for case, level in levels_of_processes(cases).items():
            by_case.setdefault(case, []).append(level)
    return {
        case: (len(runs), sorted(runs, key=lambda level: level.half_width)[len(runs) // 2])
        for case, runs in by_case.items()
    }


def judge_run(
    base: Run,
    head: Run,
    noise: RunNoise = DEFAULT_NOISE,
    threshold: float = THRESHOLD,
    allowed: Sequence[str] = (),
) -> BaselineVerdict:
    """Judge each case of the base, in its order. A case measured twice counts by its last measurement.

    Args:
        base: the stored run.
        head: the run that is judged. A case that it lacks is not comparable, and then the whole is not comparable
            either, at best.
        noise: how far the normalised times of identical code differ from run to run on the machine that the head ran
            on. Times are not comparable by one that was not learned from this machine's runs.
        threshold: the slowdown allowed, as a fraction.
        allowed: names of counts that may rise, or patterns of them.
    """
    bases, heads = ({measurement.case: measurement for measurement in run.measurements} for run in (base, head))
    base_levels, head_levels = (levels(run.measurements) for run in (base, head))
    metric = Metric(name="median", threshold=threshold)
    failures = {failure.case_id: failure.message.removeprefix(f"{failure.case_id}: ") for failure in head.failures}

    def times(case: Case) -> TimeFinding:
        if reasons := tuple(_obstacles(bases[case], heads[case], noise)):
            return TimeFinding("not comparable", reasons=reasons)
        slowdown = ratio_at_equal_speed(head_levels[case], base_levels[case], noise)
        assert slowdown.interval is not None
        assert slowdown.log_interval is not None
        return TimeFinding(verdict_of(slowdown.log_interval, metric), slowdown.interval)

    def judged(case: Case) -> CaseJudgement:
        base_ns = base_levels[case].value_ns
        if case not in heads:
            return CaseJudgement(case, base_ns, None, _missing(failures.get(case.id)))
        base_counts, head_counts = counts_of(bases[case]), counts_of(heads[case])
        differing = changes(base_counts, head_counts)
        return CaseJudgement(
            case=case,
            base_ns=base_ns,
            head_ns=head_levels[case].value_ns,
            times=times(case),
            changes=differing,
            regressions=regressions(differing, allowed),
            not_counted=not_counted(base_counts, head_counts),
        )

    cases = tuple(map(judged, bases))
    return BaselineVerdict(
        verdict=gravest([case.verdict for case in cases]),
        cases=cases,
        only_head=tuple(case.id for case in heads if case not in bases),
        threshold=threshold,
        noise=noise,
    )


def _missing(failure: str | None) -> TimeFinding:
    reason = f"the head has no such case: it failed ({failure})" if failure else "the head has no such case"
    return TimeFinding("not comparable", reasons=(reason,))


def _obstacles(base: Measurement, head: Measurement, noise: RunNoise) -> Iterator[str]:
    """Say why two times cannot be compared. On another machine or with other software, nothing else matters."""
    here, there = head.environment, base.environment
    if here.machine.fingerprint != there.machine.fingerprint:
        yield f"another machine: {', '.join(differences(there.machine, here.machine))}"
    if here.software.fingerprint != there.software.fingerprint:
        yield f"other software: {', '.join(differences(there.software, here.software))}"
    if fingerprints(head) != fingerprints(base):
        return
    sides = {"base": base.processes, "head": head.processes}
    for name, processes in sides.items():
        if not all(process.calibration_kernel for process in processes):
            yield f"the {name} was measured without the calibration kernel: measure it again with this ntp"
        if len(processes) < MIN_ROUNDS:
            yield f"the {name} has a single process, which has no interval: measure it in at least {MIN_ROUNDS} rounds"
    kernels = (process.calibration_kernel for processes in sides.values() for process in processes)
    if len({kernel.shape for kernel in kernels if kernel}) > 1:
        yield "the two were measured beside calibration kernels of different sizes: measure the base again"
    if not noise.remembered:
        yield "the noise between runs on this machine is not known: ntp doctor --calibrate --cases RUN.json measures it"


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
