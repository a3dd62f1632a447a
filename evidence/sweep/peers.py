"""Intervals of other tools, made of the same recordings: restated in a few lines each from their sources.

Each gets the steps of all processes of a case in two sweeps, and takes of them what the tool would have measured.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit
from scipy.stats import bootstrap
from sweeps import Values

from ntp.judge.statistics import median_interval

Processes = Sequence[Values]
"""The step times of each process of a case."""


class Reading(NamedTuple):
    """What a tool says of a case in two sweeps."""

    is_different: bool
    level: float
    """The half-width of what it says of the first sweep alone, as a fraction."""
    ratio: float
    """The half-width of the ratio, as a fraction."""


def _apart(first: tuple[float, float], second: tuple[float, float]) -> Reading:
    """Read two values with a spread each: they differ where mean ± spread do not overlap."""
    (a, a_spread), (b, b_spread) = first, second
    ratio = (a + a_spread) / (b - b_spread) / (a / b) - 1 if b > b_spread else math.inf
    return Reading(abs(a - b) > a_spread + b_spread, a_spread / a, ratio)


def _mean_and_spread(values: Values) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1))


def _median_intervals(a: Values, b: Values) -> Reading:
    (a_value, a_low, a_high), (b_value, b_low, b_high) = median_interval(a.tolist()), median_interval(b.tolist())
    level = (a_high - a_low) / 2 / a_value
    return Reading(a_low > b_high or b_low > a_high, level, (a_high / b_low - a_low / b_high) / 2 / (a_value / b_value))


def steps_of_one(a: Processes, b: Processes) -> Reading:
    return _median_intervals(a[0], b[0])


def steps_of_all(a: Processes, b: Processes) -> Reading:
    return _median_intervals(np.concatenate(a), np.concatenate(b))


def pytest_benchmark(a: Processes, b: Processes) -> Reading:
    return _apart(_mean_and_spread(np.concatenate(a)), _mean_and_spread(np.concatenate(b)))


def _pyperf_values(processes: Processes) -> Values:
    return np.concatenate([steps[:3] for steps in processes])


def pyperf_spread(a: Processes, b: Processes) -> Reading:
    return _apart(_mean_and_spread(_pyperf_values(a)), _mean_and_spread(_pyperf_values(b)))


def pyperf_test(a: Processes, b: Processes) -> Reading:
    first, second = _pyperf_values(a), _pyperf_values(b)
    freedom = first.size + second.size - 2
    pooled = (first.var() * first.size + second.var() * second.size) / freedom
    reach = float(stdtrit(freedom, 0.975) * math.sqrt(pooled * (1 / first.size + 1 / second.size)))
    level = float(stdtrit(first.size - 1, 0.975) * first.std(ddof=1) / math.sqrt(first.size) / first.mean())
    return Reading(abs(first.mean() - second.mean()) >= reach, level, reach / float(second.mean()))


def hyperfine(a: Processes, b: Processes) -> Reading:
    (first, first_spread), (second, second_spread) = (
        _mean_and_spread(np.array([steps.mean() for steps in processes])) for processes in (a, b)
    )
    ratio = max(first, second) / min(first, second)
    spread = ratio * math.hypot(first_spread / first, second_spread / second)
    return Reading(ratio - spread > 1, first_spread / first, spread / ratio)


RESAMPLES = 2000


def benchmatrix(a: Processes, b: Processes) -> Reading:
    first, second = (np.sort([float(np.median(steps)) for steps in processes]) for processes in (a, b))
    low, high = _bootstrapped((first, second), lambda x, y, axis: np.median(x, axis=axis) / np.median(y, axis=axis))
    level_low, level_high = _bootstrapped((first,), np.median)
    middle = float(np.median(first))
    ratio = middle / float(np.median(second))
    return Reading(low > 1 or high < 1, (level_high - level_low) / 2 / middle, (high - low) / 2 / ratio)


def _bootstrapped(data: tuple[Values, ...], statistic: Callable[..., Values]) -> tuple[float, float]:
    """Return the limits of a BCa bootstrap, or of a percentile one where the adjustment is degenerate."""
    for method in ("BCa", "percentile"):
        draws = np.random.default_rng(0)
        with np.errstate(all="ignore"):
            limits = bootstrap(data, statistic, n_resamples=RESAMPLES, method=method, rng=draws, vectorized=True)
        low, high = map(float, limits.confidence_interval)
        if math.isfinite(low) and math.isfinite(high):
            break
    return low, high


class Peer(NamedTuple):
    """A way to read a difference between two sweeps, and where it is documented."""

    name: str
    rule: str
    read: Callable[[Processes, Processes], Reading]
    source: str = ""


PEERS = (
    Peer("ntp before this", "interval of the median of one process's steps", steps_of_one),
    Peer("ntp before this", "the same of all steps of five processes", steps_of_all),
    Peer(
        "pytest-benchmark",
        "mean ± standard deviation of all rounds",
        pytest_benchmark,
        "`Stats.mean` and `Stats.stddev` in `pytest_benchmark/stats.py`, shown side by side by `TableResults.display` "
        "in `table.py`; it computes no interval, and its rounds are all steps here",
    ),
    Peer(
        "pyperf",
        "mean ± standard deviation of all values",
        pyperf_spread,
        "`CompareResult.oneliner` in `pyperf/_compare.py`; three values of each process, its default",
    ),
    Peer(
        "pyperf",
        "Student's t test of all values",
        pyperf_test,
        "`is_significant` and `tscore` in `pyperf/_utils.py`, called by `is_significant_benchs` in `_compare.py`",
    ),
    Peer(
        "hyperfine",
        "ratio ± propagated standard deviation over runs",
        hyperfine,
        "`compute_relative_speeds` in `src/benchmark/relative_speed.rs`; a run is a process here, by its mean step",
    ),
    Peer(
        "benchmatrix",
        "BCa bootstrap of the ratio of medians over runs",
        benchmatrix,
        "`bootstrap_median_ratio_interval` in `src/benchmatrix/bench_statistics.py`, here by `scipy.stats.bootstrap` "
        "with its fallback to percentiles, and without the correction for the number of cases; a run is a process",
    ),
)
