"""Where the noise of a sweep is, and what more rounds, other summaries or shorter samples would change."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import intervals
import numpy as np
import sweep_coverage
from recording import RecordedSweep
from scipy.special import stdtrit
from sweep_coverage import Candidate
from sweeps import Summary, Sweep, Values, arrays


class Components(NamedTuple):
    """Variances of the log level of a process, by where they arise."""

    process: float
    round: float
    run: float

    @property
    def total(self) -> float:
        return math.fsum(self)

    def of_level(self, rounds: int) -> "Components":
        """Return what they come to in the mean of as many processes as there are rounds."""
        return Components(self.process / rounds, self.round / rounds, self.run)


def components(sweeps: Sequence[Sweep], threads: int, relative: bool) -> Components:
    """Estimate the components for one thread count by the method of moments, each at least zero.

    Within a run, cases and rounds are an analysis of variance in two ways; the run has what its own mean squares do not
    account for. Source: S. R. Searle, G. Casella and C. E. McCulloch, Variance Components (1992), section 3.
    """
    logs = [_of_threads(sweep, threads, relative) for sweep in sweeps]
    within = [intervals.round_effect(values, values) for values in logs]
    rounds = logs[0].shape[1]
    process = statistics.fmean(run[0].own.variance for run in within) * rounds
    shared = statistics.fmean(run[0].shared.variance for run in within) * rounds
    return Components(process, shared, intervals.noise_between(within).variance)


def _of_threads(sweep: Sweep, threads: int, relative: bool) -> Values:
    logs = sweep.logs - sweep.kernels if relative else sweep.logs
    of_threads: Values = logs[sweep.threads == threads]
    return of_threads


def rows(sweeps: Sequence[Sweep]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of components: standard deviations, and shares of the variance of one process."""
    for relative in (False, True):
        for threads in map(int, np.unique(sweeps[0].threads)):
            parts = components(sweeps, threads, relative)
            cells = (f"{math.sqrt(part):.1%} ({part / parts.total:.0%})" for part in parts)
            level = parts.of_level(sweeps[0].logs.shape[1])
            name = "relative to the kernel" if relative else "as measured"
            yield (
                f"{name}, {threads} threads",
                *cells,
                f"{math.sqrt(level.total):.1%}",
                f"{level.run / level.total:.0%}",
            )


HEADERS = ("times", "between processes", "between rounds", "between runs", "a level of five processes", "of it the run")


def _quantile(q: float) -> Summary:
    return lambda steps: float(np.quantile(steps, q))


VARIANTS: dict[str, tuple[Summary, int | None, float]] = {
    "5 rounds, medians of processes, their mean": (statistics.median, None, 1.0),
    "3 rounds": (statistics.median, 3, 1.0),
    "4 rounds": (statistics.median, 4, 1.0),
    "the first half of each process's steps": (statistics.median, None, 0.5),
    "lower quartiles of processes": (_quantile(0.25), None, 1.0),
    "minima of processes": (min, None, 1.0),
    "means of processes": (statistics.fmean, None, 1.0),
}


def median_of_medians(logs: Values, kernels: Values) -> list[intervals.Level]:
    """As :func:`intervals.normalised`, by the median over the processes.

    Of five normal values the median's variance is 1.434 times that of the mean (the ratio tends to pi / 2).
    """
    middle = np.median(logs - kernels, axis=1) + kernels.mean()
    return [
        level._replace(value=float(value), own=level.own._replace(variance=1.434 * level.own.variance))
        for value, level in zip(middle, intervals.normalised(logs, kernels), strict=True)
    ]


def variants(recorded: Sequence[RecordedSweep], candidate: Candidate) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of what could be measured or summed up in another way, by one method."""
    for name, (summary, rounds, share) in VARIANTS.items():
        sweeps = [arrays(sweep, summary, rounds, share) for sweep in recorded]
        yield sweep_coverage.row(name, sweep_coverage.of_candidate(sweeps, candidate))
    sweeps = [arrays(sweep) for sweep in recorded]
    yield sweep_coverage.row(
        "medians of processes, their median",
        sweep_coverage.of_candidate(sweeps, candidate._replace(method=median_of_medians)),
    )


def computed(sweeps: Sequence[Sweep], counts: Sequence[int] = (3, 5, 8, 12, 20)) -> Iterator[tuple[str, ...]]:
    """Yield what half-widths the components promise for other numbers of rounds, relative to the kernel."""
    for threads in map(int, np.unique(sweeps[0].threads)):
        parts = components(sweeps, threads, relative=True)
        cases = int((sweeps[0].threads == threads).sum())
        for rounds in counts:
            own = (parts.process + parts.round) / rounds
            within = _reach(own, cases * (rounds - 1))
            between = _reach(2 * (own + parts.run), cases * (rounds - 1))
            yield (f"{threads} threads, {rounds} rounds", f"±{math.expm1(within):.1%}", f"±{math.expm1(between):.1%}")


def _reach(variance: float, degrees: float) -> float:
    return float(stdtrit(degrees, 0.975)) * math.sqrt(variance)
