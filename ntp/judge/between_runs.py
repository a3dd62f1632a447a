"""By how much whole runs of identical code differ, and ratios of cases that were measured in two runs.

A run cannot show what it has in common with itself: how fast the machine was in those minutes, and how memory was laid
out. What the machine remembers of earlier runs shows it, and a default stands in for that on a new machine.
"""

import math
from collections.abc import Collection, Hashable, Sequence
from statistics import fmean
from typing import NamedTuple

from ntp.judge.processes import (
    CaseProcesses,
    Level,
    LogEstimate,
    Ratio,
    common_slope,
    levels_of_processes,
    ratio_from,
    squared_deviations,
    sum_of_variances,
    variances_of,
)
from ntp.records.calibration import Calibration
from ntp.records.run import Run


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
        squares += squared_deviations([run.log_mean for run in runs]) - (len(runs) - 1) * within
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


def ratio_of_runs(numerator: Level, denominator: Level, noise: RunNoise = DEFAULT_NOISE_AS_MEASURED) -> Ratio:
    """Compare a case of one run with that of another: either run has a deviation of its own besides."""
    parts = [*variances_of(numerator, denominator), (2 * noise.spread**2, noise.degrees)]
    return ratio_from(numerator, denominator, parts)


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
    parts += [(fmean(variances) * off**2 / slope_squares, degrees), (2 * noise.spread**2, noise.degrees)]
    variance, degrees = sum_of_variances(parts)
    return Ratio(log_mean, math.sqrt(variance), degrees)


def another_run(level: Level, noise: RunNoise = DEFAULT_NOISE, *, equal_speed: bool = False) -> Ratio:
    """How far another run of the same code, with as many processes, may lie from this one: the ratio is 1.

    Of the other run's spread nothing is known but what this run shows.
    """
    part = (level.std_error**2, level.degrees)
    if equal_speed and level.beside and level.degrees:
        variance, degrees = level.beside.fit.rest(common_slope(level.beside.fit)[0])
        part = (variance / level.beside.processes, degrees)
    return ratio_from(level, level, [(2 * part[0], part[1]), (2 * noise.spread**2, noise.degrees)])
