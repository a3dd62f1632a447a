"""What the processes of a run say about its cases: levels, ratios, intervals, and where the noise is.

The process is the unit of evidence. Step times within one are correlated, and the process has a level of its own that
no number of steps tells: intervals are made of the processes' median times, on a logarithmic scale, by Student's t.

**Within a run** an interval says by how much another process of the same sweep may differ. **Between runs** there is
more: whole runs of identical code differ, all their cases alike, by what no number of processes of one run shows.
:class:`RunNoise` is that part. Most of it is the machine's own speed, and so is much of the spread between processes:
both are told apart by the calibration kernel, which every process times, too. How often the intervals exclude 1 for
identical code: reports/sweeps/README.md.

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
from itertools import chain, zip_longest
from typing import NamedTuple, Self

from ntp.case import Case
from ntp.judge.statistics import Interval, t_quantile
from ntp.records.calibration import Calibration, kernel_times_ns
from ntp.records.run import Measurement, Run

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
        if len(ratios) < len(self.medians_ns):
            return None
        return self._replace(medians_ns=ratios, kernel_ns=(None,) * len(ratios))

    @property
    def pool(self) -> Hashable:
        """What cases have in common whose processes are assumed to spread alike: the runtime, and what is timed.

        A batch is drawn in microseconds, and is as steady as a whole step never is.
        """
        return self.case.runtime, self.case.workload.part

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
    beside: "BesideKernel | None" = None
    """What the calibration kernel in the same processes says. None of a ratio, and where there was no kernel."""

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


class KernelFit(NamedTuple):
    """How log step times depend on those of the kernel in the same processes, within the cases of one pool."""

    kernel_squares: float
    """The sum of squares of the log kernel times about the mean of each case."""
    products: float
    time_squares: float
    degrees: int
    """Those of the sums."""
    log_kernel: float
    """The mean over all processes: levels hold where the kernel takes this time."""
    log_kernel_part: tuple[float, float]
    """The variance of that mean, and its degrees of freedom."""

    def rest(self, slope: float) -> tuple[float, float]:
        """Return the variance of a process that the slope leaves, and its degrees of freedom."""
        degrees = self.degrees - self.kernel_squares / (self.kernel_squares + SLOPE_PRIOR)
        squares = self.time_squares - 2 * slope * self.products + slope**2 * self.kernel_squares
        return max(0.0, squares) / degrees if degrees else math.nan, degrees


SLOPE_PRIOR = 0.01
"""What a slope of exactly 1 counts for, as a sum of squares of log kernel times: less than that of a usual run."""


def common_slope(*fits: KernelFit) -> tuple[float, float]:
    """Return the slope of log times over log kernel times, and what divides its variance.

    A machine that is slower for a while slows step and kernel alike, which is a slope of 1. A process that takes turns
    with them on one CPU slows them by different amounts, and then the slope is close to 0.
    """
    squares = math.fsum(fit.kernel_squares for fit in fits) + SLOPE_PRIOR
    return (math.fsum(fit.products for fit in fits) + SLOPE_PRIOR) / squares, squares


class BesideKernel(NamedTuple):
    """The means of a case's processes, and the fit that they were part of."""

    log_time: float
    log_kernel: float
    processes: int
    fit: KernelFit


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
    spread, pool = math.sqrt(squares / degrees) if degrees else math.nan, cases[0].pool
    return [
        Level(mean, spread / math.sqrt(len(values)), degrees, pool) if len(values) > 1 else Level(mean, math.nan, 0)
        for values, mean in zip(logs, means, strict=True)
    ]


def adjusted_to_kernel(cases: Sequence[CaseProcesses]) -> list[Level]:
    """Return the levels of cases at the kernel's mean time in all their processes: an analysis of covariance.

    Without a kernel in every process, the spread is only pooled. What the levels of a pool share is how far the
    kernel's mean may be off: its variance is that between processes of different cases that were measured one after the
    other, in a round.

    Source: H. Scheffé, The Analysis of Variance (1959), chapter 6.
    """
    if any(None in case.kernel_ns for case in cases):
        return pooled_spread(cases)
    logs = [case.log_medians for case in cases]
    kernels = [[math.log(kernel_ns) for kernel_ns in case.kernel_ns if kernel_ns] for case in cases]
    fit = _kernel_fit(logs, kernels)
    slope, slope_squares = common_slope(fit)
    variance, degrees = fit.rest(slope)
    shared = (slope**2 * fit.log_kernel_part[0], fit.log_kernel_part[1])

    def level(times: Sequence[float], of_kernel: Sequence[float]) -> Level:
        beside = BesideKernel(_mean(times), _mean(of_kernel), len(times), fit)
        off = beside.log_kernel - fit.log_kernel
        log_mean = beside.log_time - slope * off
        if len(times) == 1:
            return Level(log_mean, math.nan, 0, beside=beside)
        own = variance * (1 / len(times) + off**2 / slope_squares)
        of_sum = _sum([(own, degrees), shared])
        return Level(log_mean, math.sqrt(of_sum[0]), of_sum[1], cases[0].pool, beside)

    return [level(times, of_kernel) for times, of_kernel in zip(logs, kernels, strict=True)]


def _kernel_fit(logs: Sequence[Sequence[float]], kernels: Sequence[Sequence[float]]) -> KernelFit:
    time_squares = math.fsum(map(_squares, logs))
    kernel_squares = math.fsum(map(_squares, kernels))
    products = math.fsum(
        (time - _mean(times)) * (kernel - _mean(of_kernel))
        for times, of_kernel in zip(logs, kernels, strict=True)
        for time, kernel in zip(times, of_kernel, strict=True)
    )
    of_rounds = [_mean([kernel for kernel in of_round if kernel is not None]) for of_round in zip_longest(*kernels)]
    rounds = len(of_rounds)
    part = (_squares(of_rounds) / (rounds - 1) / rounds, rounds - 1.0) if rounds > 1 else (0.0, 1.0)
    degrees = sum(len(times) - 1 for times in logs)
    return KernelFit(kernel_squares, products, time_squares, degrees, _mean(list(chain(*kernels))), part)


Estimator = Callable[[Sequence[CaseProcesses]], list[Level]]
"""Returns the levels of those cases of one run that are in one pool."""


def levels(measurements: Iterable[Measurement], estimator: Estimator = adjusted_to_kernel) -> dict[Case, Level]:
    """Return the levels of the cases of one run. A case measured twice counts by its last measurement."""
    return levels_of_processes(map(CaseProcesses.of, measurements), estimator)


def levels_of_processes(cases: Iterable[CaseProcesses], estimator: Estimator = adjusted_to_kernel) -> dict[Case, Level]:
    """Return the levels of the cases of one run, from their processes' medians alone."""
    last = {processes.case: processes for processes in cases}
    groups: dict[Hashable, list[CaseProcesses]] = {}
    for processes in last.values():
        groups.setdefault(processes.pool, []).append(processes)
    estimated = {
        processes.case: level
        for group in groups.values()
        for processes, level in zip(group, estimator(group), strict=True)
    }
    return {case: estimated[case] for case in last}


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


def noise_when_measured(run: Run) -> RunNoise:
    """Return the noise between runs as the machine knew it when a run was measured, or the default."""
    return DEFAULT_NOISE_AS_MEASURED if run.noise is None else RunNoise(*dict(run.noise).values())


def ratio(numerator: Level, denominator: Level) -> Ratio:
    """Compare two cases of one run: no part of the difference is that between runs."""
    a, b = numerator, denominator
    if a.pool is None or a.pool != b.pool:
        return _ratio(a, b, _parts(a, b))
    if not a.beside or not b.beside:
        return _ratio(a, b, [(a.std_error**2 + b.std_error**2, a.degrees)])
    slope, slope_squares = common_slope(a.beside.fit)
    variance, degrees = a.beside.fit.rest(slope)
    off = a.beside.log_kernel - b.beside.log_kernel
    return _ratio(
        a, b, [(variance * (1 / a.beside.processes + 1 / b.beside.processes + off**2 / slope_squares), degrees)]
    )


def ratio_of_runs(numerator: Level, denominator: Level, noise: RunNoise = DEFAULT_NOISE_AS_MEASURED) -> Ratio:
    """Compare a case of one run with that of another: either run has a deviation of its own besides."""
    parts = [*_parts(numerator, denominator), (2 * noise.spread**2, noise.degrees)]
    return _ratio(numerator, denominator, parts)


def ratio_at_equal_speed(numerator: Level, denominator: Level, noise: RunNoise = DEFAULT_NOISE) -> Ratio:
    """Compare a case of two runs as if the kernel had taken the same time in both. Both must have it."""
    a, b = numerator.beside, denominator.beside
    assert a is not None
    assert b is not None
    slope, slope_squares = common_slope(a.fit, b.fit)
    off = a.log_kernel - b.log_kernel
    log_mean = a.log_time - b.log_time - slope * off
    if not numerator.degrees or not denominator.degrees:
        return Ratio(log_mean, math.nan, 0)
    rests = [(beside.fit.rest(slope), beside.processes) for beside in (a, b)]
    variances = [variance for (variance, _), _ in rests]
    parts = [(variance / processes, degrees) for (variance, degrees), processes in rests]
    degrees = math.fsum(degrees for _, degrees in parts)
    parts += [(_mean(variances) * off**2 / slope_squares, degrees), (2 * noise.spread**2, noise.degrees)]
    variance, degrees = _sum(parts)
    return Ratio(log_mean, math.sqrt(variance), degrees)


def another_run(level: Level, noise: RunNoise = DEFAULT_NOISE, *, equal_speed: bool = False) -> Ratio:
    """How far another run of the same code, with as many processes, may lie from this one: the ratio is 1.

    Of the other run's spread nothing is known but what this run shows.
    """
    part = (level.std_error**2, level.degrees)
    if equal_speed and level.beside and level.degrees:
        variance, degrees = level.beside.fit.rest(common_slope(level.beside.fit)[0])
        part = (variance / level.beside.processes, degrees)
    return _ratio(level, level, [(2 * part[0], part[1]), (2 * noise.spread**2, noise.degrees)])


def _parts(*levels: Level) -> list[tuple[float, float]]:
    return [(level.std_error**2, level.degrees) for level in levels]


def _ratio(a: Level, b: Level, parts: Sequence[tuple[float, float]]) -> Ratio:
    log_mean = a.log_mean - b.log_mean
    if not a.degrees or not b.degrees:
        return Ratio(log_mean, math.nan, 0)
    variance, degrees = _sum(parts)
    return Ratio(log_mean, math.sqrt(variance), degrees)


def _sum(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Add variances that were estimated independently, each with its degrees of freedom (Satterthwaite 1946)."""
    variance = math.fsum(part for part, _ in parts)
    if not variance:
        return 0.0, min(degrees for _, degrees in parts)
    return variance, 1 / math.fsum((part / variance) ** 2 / degrees for part, degrees in parts)


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


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _exp(log: float) -> float:
    return math.exp(max(-_LARGEST, min(log, _LARGEST)))
