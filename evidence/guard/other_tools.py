"""How other tools decide whether something became slower, restated in a few lines each from what they document.

Each rule gets the step times of one process of the base and one of the head, as such a tool gets one run of each. An
alarm is a call of "slower"; where a tool reports any difference, only that call counts.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from pools import Pool
from scipy.special import stdtrit
from scipy.stats import mannwhitneyu

from ntp.records.pairs import Pair, SideName

Times = np.ndarray[Any, np.dtype[np.float64]]

Alarm = Callable[[Times, Times], bool]
"""Says from the step times of base and head whether the head is called slower."""

RESAMPLES = 2000
"""Resamples of a bootstrap. Criterion.rs takes 100,000; its limits hardly change with their number."""


class Tool(NamedTuple):
    name: str
    rule: str
    source: str
    alarm: Alarm

    @property
    def key(self) -> str:
        """Name tool and rule: a tool may have two."""
        return f"{self.name}: {self.rule}"


def more_than(statistic: Callable[[Times], float], share: float) -> Alarm:

    def alarm(base: Times, head: Times) -> bool:
        return float(statistic(head) / statistic(base)) > 1 + share

    return alarm


def asv(base: Times, head: Times) -> bool:
    """A Mann-Whitney test at p < 0.002, exact up to 20 samples a side, then whether the medians are 1.1 apart."""
    method = "exact" if max(base.size, head.size) <= 20 else "asymptotic"
    different = mannwhitneyu(base, head, method=method, use_continuity=False).pvalue < 0.002
    return bool(different and np.median(base) < np.median(head) / 1.1)


def pyperf(base: Times, head: Times) -> bool:
    """Student's t test of two samples with a pooled variance, two-sided, at 95%."""
    freedom = base.size + head.size - 2
    pooled = (base.var() * base.size + head.var() * head.size) / freedom
    error = math.sqrt(pooled * (1 / base.size + 1 / head.size))
    slower = head.mean() - base.mean()
    return bool(slower > 0 and slower >= stdtrit(freedom, 0.975) * error)


def google_benchmark(base: Times, head: Times) -> bool:
    """A Mann-Whitney test, two-sided, at 5%."""
    different = mannwhitneyu(base, head, alternative="two-sided").pvalue < 0.05
    return bool(different and np.median(head) > np.median(base))


def criterion(base: Times, head: Times) -> bool:
    """A bootstrapped t test at 5%, then whether the 95% interval of the means' ratio lies above a noise of 1%."""
    draw = np.random.RandomState(0)  # of all generators of numpy the one whose numbers never change
    ratio = _resampled(draw, head, head.size).mean(axis=1) / _resampled(draw, base, base.size).mean(axis=1)
    if np.percentile(ratio, 2.5) <= 1.01:
        return False
    both = np.concatenate([base, head])
    t = _welch_t(_resampled(draw, both, head.size), _resampled(draw, both, base.size))
    smaller = np.count_nonzero(t < _welch_t(head[None], base[None])[0])
    return bool(2 * min(smaller, RESAMPLES - smaller) / RESAMPLES < 0.05)


def _resampled(draw: np.random.RandomState, times: Times, size: int) -> Times:
    return times[draw.randint(0, times.size, (RESAMPLES, size))]


def _welch_t(first: Times, second: Times) -> Times:
    error = first.var(axis=1, ddof=1) / first.shape[1] + second.var(axis=1, ddof=1) / second.shape[1]
    difference: Times = first.mean(axis=1) - second.mean(axis=1)
    return difference / np.sqrt(error)


TOOLS = (
    Tool(
        "pytest-benchmark", "mean more than 5% greater", "`--benchmark-compare-fail=mean:5%`", more_than(np.mean, 0.05)
    ),
    Tool("pytest-benchmark", "min more than 5% greater", "`--benchmark-compare-fail=min:5%`", more_than(np.min, 0.05)),
    Tool(
        "asv",
        "Mann-Whitney p < 0.002, medians a factor of 1.1 apart",
        "`is_different` in `asv/_stats.py`, `_is_result_better` and `--factor` in `asv/commands`",
        asv,
    ),
    Tool("pyperf", "Student's t test at 95%", "`is_significant` in `pyperf/_utils.py`", pyperf),
    Tool(
        "Criterion.rs",
        "bootstrapped t test at 5%, interval of the mean above 1%",
        "its book, Analysis Process; `src/analysis/compare.rs` and `src/report.rs`",
        criterion,
    ),
    Tool(
        "google/benchmark",
        "Mann-Whitney p < 0.05",
        "`compare.py`, `calc_utest` in `tools/gbench/report.py`",
        google_benchmark,
    ),
    Tool(
        "github-action-benchmark",
        "mean more than 200%",
        "`alert-threshold` in `action.yml`, `findAlerts` in `src/write.ts`",
        more_than(np.mean, 1.0),
    ),
    Tool(
        "TorchBench",
        "median more than 7% greater",
        "`userbenchmark/torch-nightly/regression_detector.py`",
        more_than(np.median, 0.07),
    ),
)


def drawn(pool: Pool, apart: int, rounds: int) -> dict[str, str]:
    """Return by tool and rule, for each round of a pool, whether any case raised an alarm: 1 or 0.

    The base is that of the pair ``apart`` rounds before. With 0, base and head alternated, as in a guard's pairs; with
    1, the base was measured a little earlier, as these tools do it.
    """
    return {tool.key: "".join(_rounds(pool, tool.alarm, apart, rounds)) for tool in TOOLS}


def _rounds(pool: Pool, alarm: Alarm, apart: int, rounds: int) -> Iterator[str]:
    for i in range(apart, min(pool.rounds, rounds + apart)):
        both = ((_times(pairs[i - apart], "base"), _times(pairs[i], "head")) for pairs in pool.pairs.values())
        yield str(int(any(alarm(base, head) for base, head in both)))


def _times(pair: Pair, side: SideName) -> Times:
    return np.array(pair.samples(side), dtype=np.float64)
