"""Where the noise of a pair comes from, and what a pair is best summed up by."""

import math
from collections.abc import Callable, Collection, Sequence
from statistics import fmean, variance
from typing import Any, NamedTuple

import numpy as np
from scipy.special import betaincinv, chdtri
from suites import Summary

from ntp.judge.guard import METRICS, log_ratios_of_rounds
from ntp.judge.sequential import critical_values, t_quantile
from ntp.judge.statistics import Interval
from ntp.records.guard import Plan
from ntp.records.pairs import Clock, Pair

Values = np.ndarray[Any, np.dtype[np.float64]]


class Levels(NamedTuple):
    """Standard deviations of the logarithm of a step's CPU time, by where they arise: 0.01 is about 1%."""

    step: float
    """From step to step within a block. nan where a block is one step: then it is part of the next."""
    block: float
    """From block to block, of one side alone."""
    shared: float
    """From round to round, of both sides alike: interleaving takes this out."""
    process: float
    """From process to process: only more pairs take this out."""
    pair: float
    """From pair to pair, of both sides alike: pairing takes this out."""
    log_ratio: float
    """What is left in a pair's log-ratio, by the means of the logarithms."""


def levels(pairs: Sequence[Pair]) -> Levels:
    """Compute the components of variance of nested random effects, by the method of moments, each at least zero.

    With b and h the mean logarithms of the two blocks of a round, a block's own variance is half that of h - b within a
    pair, and the shared one what (b + h) / 2 has beyond it; likewise with whole processes and pairs. Pairs need not
    have equally many rounds: what divides a variance is then their harmonic mean.

    Source: S. R. Searle, G. Casella and C. E. McCulloch, Variance Components (1992), section 3.
    """
    logs = [
        np.array([[fmean(map(math.log, block.times_ns("cpu"))) for block in both] for both in pair.rounds_on("cpu")]).T
        for pair in pairs
    ]
    rounds = 1 / float(np.mean([1 / base.size for base, _ in logs]))
    blocks = [block.times_ns("cpu") for pair in pairs for both in pair.rounds_on("cpu") for block in both]
    within = [np.log(block).var(ddof=1) for block in blocks if len(block) > 1]
    step = float(np.mean(within)) if within else math.nan
    steps = float(np.mean([len(block) for block in blocks]))
    own = float(np.mean([(head - base).var(ddof=1) for base, head in logs])) / 2
    shared = float(np.mean([((base + head) / 2).var(ddof=1) for base, head in logs])) - own / 2
    log_ratio = float(np.var([(head - base).mean() for base, head in logs], ddof=1))
    process = log_ratio / 2 - own / rounds
    between = float(np.var([(base.mean() + head.mean()) / 2 for base, head in logs], ddof=1))
    pair = between - max(0, shared) / rounds - max(0, process) / 2 - own / (2 * rounds)
    block = own - step / steps if within else own
    variances = (block, shared, process, pair, log_ratio)
    return Levels(math.sqrt(step), *(math.sqrt(max(0, variance)) for variance in variances))


def _of_rounds(centre: Callable[[Values], float], clock: Clock = "cpu") -> Summary:
    """Take another centre of the log-ratios of the rounds."""
    return lambda pair: centre(np.array(log_ratios_of_rounds(pair, clock)))


def hodges_lehmann(values: Values) -> float:
    """Return the median of the means of all pairs of the values, of a value and itself too.

    Source: J. L. Hodges and E. L. Lehmann, Estimates of Location Based on Rank Tests, Ann. Math. Statist. 34 (1963).
    """
    first, second = np.triu_indices(values.size)
    return float(np.median((values[first] + values[second]) / 2))


SUMMARIES: dict[str, Summary] = {
    **METRICS,
    "cpu, mean": _of_rounds(lambda values: float(values.mean())),
    "cpu, median": _of_rounds(lambda values: float(np.median(values))),
    "cpu, Hodges-Lehmann": _of_rounds(hodges_lehmann),
}
"""The ways to sum up a pair: the metrics of a guard, and other centres of the log-ratios of rounds."""


def deviation(values: Sequence[float]) -> Interval:
    freedom = len(values) - 1
    sd = float(np.std(values, ddof=1))
    low, high = (sd * math.sqrt(freedom / float(chdtri(freedom, p))) for p in (0.025, 0.975))
    return Interval(sd, low, high)


def mean_of_cases(cases: Collection[Sequence[float]]) -> Interval:
    """Return the mean of the cases' means, in its 95% interval: t, with the smallest case's degrees of freedom."""
    means = [fmean(values) for values in cases]
    error = math.sqrt(sum(variance(values) / len(values) for values in cases)) / len(means)
    half = t_quantile(min(map(len, cases)), 0.975) * error
    mean = fmean(means)
    return Interval(mean, mean - half, mean + half)


def pairs_for_a_pass(sd: float, plan: Plan, threshold: float) -> int | None:
    """Return how many pairs of unchanged code pass, with this spread and a mean of zero. None if the plan has fewer."""
    for n, t in enumerate(critical_values(plan.alpha, plan.min_pairs, plan.max_pairs), plan.min_pairs):
        if t * sd / math.sqrt(n) < math.log1p(threshold):
            return n
    return None


def clopper_pearson(hits: int, trials: int) -> Interval:
    """Return a share in its exact 95% interval.

    Source: C. J. Clopper and E. S. Pearson, The Use of Confidence or Fiducial Limits Illustrated in the Case of the
    Binomial, Biometrika 26 (1934), 404-413.
    """
    low = float(betaincinv(hits, trials - hits + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 1, trials - hits, 0.975)) if hits < trials else 1.0
    return Interval(hits / trials, low, high)
