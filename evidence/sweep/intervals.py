"""Ways to make intervals of a sweep's processes, on the scale of logarithms.

C: cases, those of one thread count in what fits them. R: rounds.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit
from sweeps import Sweep, Values


class Part(NamedTuple):
    """A part of the variance of an estimate."""

    variance: float
    degrees: float


NONE = Part(0.0, 1.0)


class Level(NamedTuple):
    """The level of a case, and where its error comes from."""

    value: float
    own: Part
    """What no other case shares."""
    shared: Part = NONE
    """What the cases of one thread count have in common."""
    kernel: float = 0.0
    """The log time of the calibration kernel at which the level holds. Zero where a method does without it."""


Method = Callable[[Values, Values], list[Level]]
"""Makes the levels of the cases of one thread count, from the log times and the log kernel times (C, R)."""


def own_spread(logs: Values, _kernels: Values) -> list[Level]:
    rounds = logs.shape[1]
    return [Level(case.mean(), Part(case.var(ddof=1) / rounds, rounds - 1)) for case in logs]


def pooled(logs: Values, _kernels: Values) -> list[Level]:
    cases, rounds = logs.shape
    own = Part(logs.var(axis=1, ddof=1).mean() / rounds, cases * (rounds - 1))
    return [Level(case.mean(), own) for case in logs]


def partly_pooled(logs: Values, _kernels: Values) -> list[Level]:
    """Let the mean spread of all cases count as a prior with as many degrees of freedom as a case has of its own."""
    rounds, variances = logs.shape[1], logs.var(axis=1, ddof=1)
    mixed = (variances + variances.mean()) / 2
    own = [Part(variance / rounds, 2 * (rounds - 1)) for variance in mixed]
    return [Level(case.mean(), part) for case, part in zip(logs, own, strict=True)]


def round_effect(logs: Values, _kernels: Values) -> list[Level]:
    """Take apart what all cases of a round share: a random effect, whose variance the means of the rounds tell."""
    cases, rounds = logs.shape
    deviations = logs - logs.mean(axis=1, keepdims=True)
    of_round = deviations.mean(axis=0)
    degrees = (cases - 1) * (rounds - 1)
    rest = ((deviations - of_round) ** 2).sum() / degrees
    shared = Part(max(0.0, of_round.var(ddof=1) - rest / cases) / rounds, rounds - 1)
    return [Level(case.mean(), Part(rest / rounds, degrees), shared) for case in logs]


def covariate(logs: Values, kernels: Values) -> list[Level]:
    """Adjust each level to the kernel's mean in all processes of its thread count, by one slope for its cases.

    Source: H. Scheffé, The Analysis of Variance (1959), chapter 6. What the levels share is how far that mean of the
    kernel may be off.
    """
    cases, rounds = logs.shape
    slope, squares = slope_of(logs, kernels)
    off = kernels - kernels.mean()
    adjusted = logs - slope * off
    degrees = cases * (rounds - 1) - 1
    rest = adjusted.var(axis=1).sum() * rounds / degrees
    own = [Part(rest * (1 / rounds + case.mean() ** 2 / squares), degrees) for case in off]
    shared = Part(slope**2 * off.mean(axis=0).var(ddof=1) / rounds, rounds - 1)
    return [Level(case.mean(), part, shared) for case, part in zip(adjusted, own, strict=True)]


def slope_of(logs: Values, kernels: Values) -> tuple[float, float]:
    """Return the slope of log times over log kernel times within the cases, and the kernels' sum of squares."""
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (kernels, logs))
    return float((x * y).sum() / (x**2).sum()), float((x**2).sum())


def normalised(logs: Values, kernels: Values) -> list[Level]:
    """Take each time relative to the kernel's in the same process, which is a slope of exactly 1.

    The level is that at the kernel's mean time in all processes of the thread count.
    """
    mean, rounds = float(kernels.mean()), logs.shape[1]
    shared = Part(kernels.mean(axis=0).var(ddof=1) / rounds, rounds - 1)
    relative = pooled(logs - kernels, kernels)
    return [Level(level.value + mean, level.own, shared, mean) for level in relative]


def normalised_own(logs: Values, kernels: Values) -> list[Level]:
    """As :func:`normalised`, with the spread of each case by itself."""
    return _with_spread_of(own_spread, logs, kernels)


def normalised_partly(logs: Values, kernels: Values) -> list[Level]:
    """As :func:`normalised`, with spreads that are partly pooled."""
    return _with_spread_of(partly_pooled, logs, kernels)


def _with_spread_of(method: Method, logs: Values, kernels: Values) -> list[Level]:
    spread = method(logs - kernels, kernels)
    return [level._replace(own=of.own) for level, of in zip(normalised(logs, kernels), spread, strict=True)]


def levels(sweep: Sweep, method: Method) -> list[Level]:
    """Make the levels of all cases of a sweep, those of each thread count by themselves."""
    by_case: dict[int, Level] = {}
    for group in sweep.groups():
        by_case |= zip(group, method(sweep.logs[group], sweep.kernels[group]), strict=True)
    return [by_case[i] for i in range(len(sweep.ids))]


class LogRatio(NamedTuple):
    """The logarithm of a ratio and how far it may be off."""

    value: float
    variance: float
    degrees: float

    @classmethod
    def of(cls, value: float, *parts: Part) -> "LogRatio":
        """Add variances that were estimated independently (Satterthwaite 1946)."""
        variance = math.fsum(part.variance for part in parts)
        spread = math.fsum(part.variance**2 / part.degrees for part in parts)
        return cls(float(value), variance, variance**2 / spread if spread else 1.0)

    @property
    def reach(self) -> float:
        """By how much the logarithm may be off, with a confidence of 95%."""
        return float(stdtrit(self.degrees, 0.975)) * math.sqrt(self.variance)

    @property
    def is_different(self) -> bool:
        """Whether the interval excludes a ratio of 1."""
        return abs(self.value) > self.reach


def within(level: Level) -> LogRatio:
    """Return by how much a level may be off within its run."""
    return LogRatio.of(level.value, level.own, level.shared)


def between_runs(a: Level, b: Level, noise: Part = NONE) -> LogRatio:
    """Compare a case in two sweeps, of which either has a deviation of its own with the variance of the noise."""
    return LogRatio.of(a.value - b.value, a.own, a.shared, b.own, b.shared, noise, noise)


def at_equal_speed(a: Level, b: Level, noise: Part = NONE) -> LogRatio:
    """Compare as :func:`between_runs` does, but relative to the kernel: another speed of the machine cancels out."""
    return LogRatio.of(a.value - a.kernel - b.value + b.kernel, a.own, b.own, noise, noise)


def speedup(fewer: Level, more: Level) -> LogRatio:
    """Compare the level of a case on more threads with that on fewer, in one sweep."""
    return LogRatio.of(fewer.value - more.value, fewer.own, fewer.shared, more.own, more.shared)


def difference(a: LogRatio, b: LogRatio) -> LogRatio:
    """Compare the same ratio in two sweeps."""
    return LogRatio.of(a.value - b.value, Part(a.variance, a.degrees), Part(b.variance, b.degrees))


def noise_between(runs: Sequence[Sequence[Level]], equal_speed: bool = False) -> Part:
    """Estimate the variance between runs, besides that which their own intervals account for (method of moments)."""
    if len(runs) < 2:
        return NONE
    values = np.array([[level.value - level.kernel * equal_speed for level in run] for run in runs])
    own = [level.own.variance + level.shared.variance * (not equal_speed) for run in runs for level in run]
    return Part(max(0.0, float(values.var(axis=0, ddof=1).mean() - np.mean(own))), len(runs) - 1)
