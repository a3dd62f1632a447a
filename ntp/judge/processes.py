"""What the processes of a run say about its cases: levels, ratios, intervals, and where the noise is.

The process is the unit of evidence. Step times within one are correlated, and the process has a level of its own that
no number of steps tells: intervals are made of the processes' median times, on a logarithmic scale, by Student's t.

**Within a run** an interval says by how much another process of the same sweep may differ. **Between runs** there is
more: whole runs of identical code differ, all their cases alike, by what no number of processes of one run shows. That
part is :class:`ntp.judge.between_runs.RunNoise`. Most of it is the machine's own speed, and so is much of the spread
between processes: both are told apart by the calibration kernel, which every process times, too. How often the
intervals exclude 1 for identical code: reports/sweeps/README.md.

Sources:
    B. L. Welch, The Generalization of "Student's" Problem when Several Different Population Variances are Involved,
    Biometrika 34 (1947), 28-35: the interval of a difference of two means.
    F. E. Satterthwaite, An Approximate Distribution of Estimates of Variance Components, Biometrics Bulletin 2 (1946),
    110-114: the degrees of freedom of a sum of variances.
    T. Kalibera and R. Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013: levels of repetition, and where the
    noise is.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple, Self

from ntp.case import Case
from ntp.judge.statistics import Interval, t_quantile
from ntp.records.calibration import kernel_times_ns
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
    squares = math.fsum(squared_deviations(values) for values in logs)
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
        of_sum = sum_of_variances([(own, degrees), shared])
        return Level(log_mean, math.sqrt(of_sum[0]), of_sum[1], cases[0].pool, beside)

    return [level(times, of_kernel) for times, of_kernel in zip(logs, kernels, strict=True)]


def _kernel_fit(logs: Sequence[Sequence[float]], kernels: Sequence[Sequence[float]]) -> KernelFit:
    time_squares = math.fsum(map(squared_deviations, logs))
    kernel_squares = math.fsum(map(squared_deviations, kernels))
    products = math.fsum(
        (time - _mean(times)) * (kernel - _mean(of_kernel))
        for times, of_kernel in zip(logs, kernels, strict=True)
        for time, kernel in zip(times, of_kernel, strict=True)
    )
    of_rounds = [_mean([kernel for kernel in of_round if kernel is not None]) for of_round in zip_longest(*kernels)]
    rounds = len(of_rounds)
    part = (squared_deviations(of_rounds) / (rounds - 1) / rounds, rounds - 1.0) if rounds > 1 else (0.0, 1.0)
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


def ratio(numerator: Level, denominator: Level) -> Ratio:
    """Compare two cases of one run: no part of the difference is that between runs."""
    a, b = numerator, denominator
    if a.pool is None or a.pool != b.pool:
        return ratio_from(a, b, variances_of(a, b))
    if not a.beside or not b.beside:
        return ratio_from(a, b, [(a.std_error**2 + b.std_error**2, a.degrees)])
    slope, slope_squares = common_slope(a.beside.fit)
    variance, degrees = a.beside.fit.rest(slope)
    off = a.beside.log_kernel - b.beside.log_kernel
    return ratio_from(
        a, b, [(variance * (1 / a.beside.processes + 1 / b.beside.processes + off**2 / slope_squares), degrees)]
    )


def variances_of(*levels: Level) -> list[tuple[float, float]]:
    """Return the variance of each level with its degrees of freedom."""
    return [(level.std_error**2, level.degrees) for level in levels]


def ratio_from(a: Level, b: Level, parts: Sequence[tuple[float, float]]) -> Ratio:
    """Return the ratio of two levels whose variance is the sum of these parts."""
    log_mean = a.log_mean - b.log_mean
    if not a.degrees or not b.degrees:
        return Ratio(log_mean, math.nan, 0)
    variance, degrees = sum_of_variances(parts)
    return Ratio(log_mean, math.sqrt(variance), degrees)


def sum_of_variances(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
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
    steps = math.sqrt(math.fsum(map(squared_deviations, samples)) / step_degrees) if step_degrees else None
    if rounds_degrees < 1 or rest_degrees <= 0:
        return Spreads(steps, math.sqrt(squares / degrees) if degrees else None, None)
    rounds_squares = math.fsum(math.fsum(deviations) ** 2 / len(deviations) for deviations in by_round.values())
    rest = max(0.0, squares - rounds_squares) / rest_degrees
    size = math.fsum(map(len, by_round.values())) / len(by_round)
    rounds = max(0.0, rounds_squares / rounds_degrees - rest) / size
    return Spreads(steps, math.sqrt(rest), math.sqrt(rounds))


_LARGEST = 700.0
"""Beyond this, exp overflows: with one degree of freedom, t is 12.7."""


def squared_deviations(values: Sequence[float]) -> float:
    """Return the sum of the squared deviations from the mean. That of equal values is exactly 0."""
    mean = math.fsum(values) / len(values)
    return 0.0 if min(values) == max(values) else math.fsum((value - mean) ** 2 for value in values)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _exp(log: float) -> float:
    return math.exp(max(-_LARGEST, min(log, _LARGEST)))
