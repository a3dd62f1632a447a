"""What the processes of a run say about its cases: levels, ratios, intervals, and where the noise is.

The process is the unit of evidence. Step times within one are correlated, and the process has a level of its own that
no number of steps tells: intervals are made of the processes' median times, on a logarithmic scale, by Student's t.

**Within a run** an interval says by how much another process of the same sweep may differ. **Between runs** there is
more: whole runs of identical code differ, all their cases alike, by what no number of processes of one run shows.
:class:`RunNoise` is that part. Most of it is the machine's own speed, and so is much of the spread between processes:
two runs of one machine are compared by normalised times, those relative to the calibration kernel in the same process.
How often such intervals exclude 1 for identical code: reports/sweeps/README.md.

Sources:
    B. L. Welch, The Generalization of "Student's" Problem when Several Different Population Variances are Involved,
    Biometrika 34 (1947), 28-35: the interval of a difference of two means.
    F. E. Satterthwaite, An Approximate Distribution of Estimates of Variance Components, Biometrics Bulletin 2 (1946),
    110-114: the degrees of freedom of a sum of variances.
    T. Kalibera and R. Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013: levels of repetition, and where the
    noise is.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import NamedTuple, Self

from ntp.case import Case
from ntp.judge.statistics import Interval, t_quantile
from ntp.records.calibration import Calibration, kernel_times_ns
from ntp.records.run import Measurement

CONFIDENCE = 0.95
"""The two-sided confidence of each interval."""


class CaseProcesses(NamedTuple):
    """What the processes of a case say about its level, in the order in which they were measured."""

    case: Case
    medians_ns: tuple[float, ...]
    kernel_ns: tuple[float | None, ...]
    """The calibration kernel's median in the same processes. None where there was no kernel."""

    @classmethod
    def of(cls, measurement: Measurement) -> Self:
        return cls(measurement.case, measurement.medians_ns, kernel_times_ns(measurement))

    def normalised(self) -> Self | None:
        """Divide each median by that of the calibration kernel in the same process.

        What slows the whole machine down for a while slows both. None where a process has no kernel.
        """
        pairs = zip(self.medians_ns, self.kernel_ns, strict=True)
        ratios = tuple(median_ns / kernel_ns for median_ns, kernel_ns in pairs if kernel_ns)
        return self._replace(medians_ns=ratios) if len(ratios) == len(self.medians_ns) else None

    @property
    def log_medians(self) -> list[float]:
        return [math.log(median_ns) for median_ns in self.medians_ns]


class LogEstimate(NamedTuple):
    """A mean on the scale of logarithms, and how far it may be off."""

    log_mean: float
    std_error: float
    """nan for a single process."""
    degrees: float
    """Degrees of freedom of the standard error. 0 for a single process."""
    pool: Hashable = None
    """Estimates of one run that have the same pool share one estimate of their spread."""

    @property
    def value(self) -> float:
        return _exp(self.log_mean)

    @property
    def interval(self) -> Interval | None:
        """The value in its interval. None for a single process: it does not show by how much another differs."""
        return self.log_interval and Interval(*map(_exp, self.log_interval))

    @property
    def log_interval(self) -> Interval | None:
        """The interval on the scale of logarithms."""
        if not self.degrees:
            return None
        return Interval(self.log_mean, self.log_mean - self._reach, self.log_mean + self._reach)

    @property
    def half_width(self) -> float:
        """How far the upper limit lies above the value, as a fraction of it. Infinite for a single process."""
        return math.expm1(min(self._reach, _LARGEST)) if self.degrees else math.inf

    @property
    def _reach(self) -> float:
        return t_quantile(self.degrees, (1 + CONFIDENCE) / 2) * self.std_error


class Level(LogEstimate):
    """The level of one case: the geometric mean of its processes' medians, in nanoseconds."""

    @property
    def value_ns(self) -> float:
        return self.value


class Ratio(LogEstimate):
    """The ratio of two levels."""


def pooled_spread(cases: Sequence[CaseProcesses]) -> list[Level]:
    """Return the levels of cases whose processes are assumed to spread alike: one estimate of the spread for all.

    A case of a single process adds nothing to that estimate, and takes nothing from it.
    """
    logs = [case.log_medians for case in cases]
    means = [math.fsum(values) / len(values) for values in logs]
    degrees = sum(len(values) - 1 for values in logs)
    squares = math.fsum(_squares(values) for values in logs)
    spread = math.sqrt(squares / degrees) if degrees else math.nan
    threads = cases[0].case.runtime.threads
    return [
        Level(mean, spread / math.sqrt(len(values)), degrees, threads) if len(values) > 1 else Level(mean, math.nan, 0)
        for values, mean in zip(logs, means, strict=True)
    ]


Estimator = Callable[[Sequence[CaseProcesses]], list[Level]]
"""Returns the levels of those cases of one run that have the same number of threads."""


def levels(measurements: Iterable[Measurement], estimator: Estimator = pooled_spread) -> dict[Case, Level]:
    """Return the levels of the cases of one run. A case measured twice counts by its last measurement."""
    return levels_of_processes(map(CaseProcesses.of, measurements), estimator)


def levels_of_processes(cases: Iterable[CaseProcesses], estimator: Estimator = pooled_spread) -> dict[Case, Level]:
    """Return the levels of the cases of one run, from their processes' medians alone."""
    last = {processes.case: processes for processes in cases}
    groups: dict[int, list[CaseProcesses]] = {}
    for processes in last.values():
        groups.setdefault(processes.case.runtime.threads, []).append(processes)
    estimated = {
        processes.case: level
        for group in groups.values()
        for processes, level in zip(group, estimator(group), strict=True)
    }
    return {case: estimated[case] for case in last}


def normalised_levels(measurements: Iterable[Measurement]) -> dict[Case, Level]:
    """Return the levels of the normalised times, of the cases that have them: multiples of the kernel's time."""
    last = {measurement.case: CaseProcesses.of(measurement).normalised() for measurement in measurements}
    return levels_of_processes(filter(None, last.values()))


def half_widths(measurements: Sequence[Measurement]) -> dict[Case, float]:
    """Return by how much the level of each case may be off within this run, as a fraction."""
    return {case: level.half_width for case, level in levels(measurements).items()}


class RunNoise(NamedTuple):
    """By how much whole runs of identical code differ on one machine, all their cases alike."""

    spread: float
    """The standard deviation of the logarithm of a run's times."""
    degrees: float
    """Degrees of freedom of the spread."""
    remembered: int = 0
    """How many runs of this machine it was learned from. 0: it is the default."""


DEFAULT_NOISE = RunNoise(spread=0.016, degrees=10)
"""The noise between runs of normalised times, on a machine that remembers no runs of identical code.

Default sweeps of identical code, minutes apart on a busy virtual machine of two CPUs: reports/sweeps/README.md. It
counts as much as ten runs' deviations, so that few remembered runs do not make it jump.
"""

DEFAULT_NOISE_AS_MEASURED = RunNoise(spread=0.05, degrees=10)
"""The same of times as they are, from the same sweeps: the machine itself is faster in one run than in the next."""


def default_noise(normalised: bool) -> RunNoise:
    """Return the noise of a machine that remembers no runs."""
    return DEFAULT_NOISE if normalised else DEFAULT_NOISE_AS_MEASURED


def run_noise(calibration: Calibration, without: Collection[str] = (), *, normalised: bool = False) -> RunNoise:
    """Learn the noise between runs from what a machine remembers.

    Runs of the same code with the same cases are compared: the deviations of their mean log levels, less what the
    processes within each run let expect. The default is the prior, scaled-inverse-chi-squared, of these deviations.

    Args:
        calibration: the remembered runs.
        without: the start of each run that is to be judged by this noise: it must not excuse itself.
        normalised: whether the noise is that of :meth:`CaseProcesses.normalised` times.

    Source: A. Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), section 2.6: a normal variance with a conjugate
    prior.
    """
    alike: dict[Hashable, list[LogEstimate]] = {}
    for (code, started), cases in remembered_runs(calibration, normalised=normalised).items():
        if started not in without:
            alike.setdefault((code, frozenset(processes.case for processes in cases)), []).append(_mean_of(cases))
    repeated = [runs for runs in alike.values() if len(runs) > 1]
    squares, degrees = 0.0, 0
    for runs in repeated:
        within = math.fsum(run.std_error**2 for run in runs) / len(runs)
        squares += _squares([run.log_mean for run in runs]) - (len(runs) - 1) * within
        degrees += len(runs) - 1
    prior = default_noise(normalised)
    spread = math.sqrt((prior.degrees * prior.spread**2 + max(0.0, squares)) / (prior.degrees + degrees))
    return RunNoise(spread, prior.degrees + degrees, sum(map(len, repeated)))


def remembered_runs(
    calibration: Calibration, *, normalised: bool = False
) -> dict[tuple[str, str], list[CaseProcesses]]:
    """Return the cases of each remembered run, by its code and its start, without those that cannot be normalised."""
    runs: dict[tuple[str, str], list[CaseProcesses]] = {}
    for remembered in calibration.cases:
        for run in remembered.runs:
            processes = CaseProcesses(remembered.case, run.medians_ns, run.kernel_ns)
            if wanted := processes.normalised() if normalised else processes:
                runs.setdefault((run.code, run.started), []).append(wanted)
    return runs


def _mean_of(cases: Sequence[CaseProcesses]) -> LogEstimate:
    """Return the mean log level of a run, all cases alike."""
    estimates = levels_of_processes(cases).values()
    number = len(estimates)
    std_error = math.sqrt(math.fsum(level.std_error**2 for level in estimates)) / number
    return LogEstimate(math.fsum(level.log_mean for level in estimates) / number, std_error, number)


def ratio(numerator: Level, denominator: Level) -> Ratio:
    """Compare two cases of one run: no part of the difference is that between runs."""
    a, b = numerator, denominator
    shared = a.pool is not None and a.pool == b.pool
    parts = [(a.std_error**2 + b.std_error**2, a.degrees)] if shared else _parts(a, b)
    return _ratio(a, b, parts)


def ratio_of_runs(numerator: Level, denominator: Level, noise: RunNoise = DEFAULT_NOISE) -> Ratio:
    """Compare a case of one run with that of another: either run has a deviation of its own besides."""
    parts = [*_parts(numerator, denominator), (2 * noise.spread**2, noise.degrees)]
    return _ratio(numerator, denominator, parts)


def another_run(level: Level, noise: RunNoise = DEFAULT_NOISE) -> Ratio:
    """How far another run of the same code, with as many processes, may lie from this one: the ratio is 1.

    Of the other run's spread nothing is known but what this run shows.
    """
    return _ratio(level, level, [(2 * level.std_error**2, level.degrees), (2 * noise.spread**2, noise.degrees)])


def _parts(*levels: Level) -> list[tuple[float, float]]:
    return [(level.std_error**2, level.degrees) for level in levels]


def _ratio(a: Level, b: Level, parts: Sequence[tuple[float, float]]) -> Ratio:
    """Add variances that were estimated independently, each with its degrees of freedom (Satterthwaite 1946)."""
    log_mean = a.log_mean - b.log_mean
    if not a.degrees or not b.degrees:
        return Ratio(log_mean, math.nan, 0)
    variance = math.fsum(part for part, _ in parts)
    if not variance:
        return Ratio(log_mean, 0.0, min(degrees for _, degrees in parts))
    shares = math.fsum((part / variance) ** 2 / degrees for part, degrees in parts)
    return Ratio(log_mean, math.sqrt(variance), 1 / shares)


class Spreads(NamedTuple):
    """Where the noise of a run is: standard deviations of log times, pooled over its cases."""

    steps: float | None
    """Between the steps of one process. None where no process has two steps."""
    processes: float | None
    """Between the processes of a case, besides what all processes of a round share. None without a second process."""
    rounds: float | None
    """Between the rounds, all cases alike. None without a second case or a second round to tell it by."""


def spreads(measurements: Sequence[Measurement]) -> Spreads:
    """Split the noise of a run: an analysis of variance of the processes' log medians by case and by round.

    Source: H. Scheffé, The Analysis of Variance (1959), sections 4.1 and 7.4: two ways, one observation per cell. Of
    rounds that miss a case, the round's size is taken as the average one.
    """
    last = {measurement.case: measurement for measurement in measurements}.values()
    samples = [[math.log(max(1, step)) for step in process.step_time_ns] for of in last for process in of.processes]
    by_round: dict[int, list[float]] = {}
    degrees = 0
    for measurement in last:
        logs = CaseProcesses.of(measurement).log_medians
        degrees += len(logs) - 1
        mean = math.fsum(logs) / len(logs)
        for process, log_ns in zip(measurement.processes, logs, strict=True):
            by_round.setdefault(process.round, []).append(log_ns - mean)
    squares = math.fsum(deviation**2 for deviations in by_round.values() for deviation in deviations)
    rounds_degrees = len(by_round) - 1
    rest_degrees = degrees - rounds_degrees
    step_degrees = sum(len(logs) - 1 for logs in samples)
    steps = math.sqrt(math.fsum(map(_squares, samples)) / step_degrees) if step_degrees else None
    if rounds_degrees < 1 or rest_degrees <= 0:
        return Spreads(steps, math.sqrt(squares / degrees) if degrees else None, None)
    rounds_squares = math.fsum(math.fsum(deviations) ** 2 / len(deviations) for deviations in by_round.values())
    rest = max(0.0, squares - rounds_squares) / rest_degrees
    size = math.fsum(map(len, by_round.values())) / len(by_round)
    rounds = max(0.0, rounds_squares / rounds_degrees - rest) / size
    return Spreads(steps, math.sqrt(rest), math.sqrt(rounds))


_LARGEST = 700.0
"""Beyond this, exp overflows: with one degree of freedom, t is 12.7."""


def _squares(values: Sequence[float]) -> float:
    """Return the sum of the squared deviations from the mean. That of equal values is exactly 0."""
    mean = math.fsum(values) / len(values)
    return 0.0 if min(values) == max(values) else math.fsum((value - mean) ** 2 for value in values)


def _exp(log: float) -> float:
    return math.exp(max(-_LARGEST, min(log, _LARGEST)))
