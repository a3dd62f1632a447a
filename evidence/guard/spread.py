"""Where the noise of a pair comes from, and what a pair is best summed up by."""

import math
from collections.abc import Callable, Collection, Sequence
from statistics import fmean, median, variance
from typing import Any, NamedTuple

import numpy as np
from scipy.special import betaincinv, chdtri
from scipy.stats import trim_mean
from suites import Summary

from ntp.judge.guard import METRICS
from ntp.judge.sequential import critical_values, t_quantile
from ntp.judge.statistics import Interval
from ntp.records.guard import Pair, Plan

Values = np.ndarray[Any, np.dtype[np.float64]]


class Levels(NamedTuple):
    """Standard deviations of the logarithm of the step time, by where they arise; about 1% each where it is 0.01."""

    step: float
    """From step to step within a turn. nan where a turn is one step: then it is part of what follows."""
    turn: float
    """From turn to turn, of one side alone."""
    shared: float
    """From turn to turn, of both sides alike: what interleaving takes out."""
    process: float
    """From process to process: what only more pairs take out."""
    pair: float
    """From pair to pair, of both sides alike: what pairing takes out."""
    log_ratio: float
    """Of a pair's log-ratio, by the means of the logarithms: what is left."""


def levels(pairs: Sequence[Pair]) -> Levels:
    """The components of variance of nested random effects, by the method of moments, each at least zero.

    With b and h the mean logarithms of the k-th turns of both sides, a turn's own variance is half that of h - b within
    a pair, and the shared one what (b + h) / 2 has beyond it; likewise with whole processes and pairs. Pairs need not
    have equally many turns: what divides a variance is then their harmonic mean.

    Source: S. R. Searle, G. Casella and C. E. McCulloch, Variance Components (1992), section 3.
    """
    logs = [np.array([[np.log(side).mean() for side in turn] for turn in pair.rounds]).T for pair in pairs]
    turns = 1 / float(np.mean([1 / base.size for base, _ in logs]))
    sides = [side for pair in pairs for turn in pair.rounds for side in turn]
    within = [np.log(side).var(ddof=1) for side in sides if len(side) > 1]
    step = float(np.mean(within)) if within else math.nan
    steps = float(np.mean([len(side) for side in sides]))
    own = float(np.mean([(head - base).var(ddof=1) for base, head in logs])) / 2
    shared = float(np.mean([((base + head) / 2).var(ddof=1) for base, head in logs])) - own / 2
    log_ratio = float(np.var([(head - base).mean() for base, head in logs], ddof=1))
    process = log_ratio / 2 - own / turns
    between = float(np.var([(base.mean() + head.mean()) / 2 for base, head in logs], ddof=1))
    pair = between - max(0, shared) / turns - max(0, process) / 2 - own / (2 * turns)
    turn = own - step / steps if within else own
    return Levels(math.sqrt(step), *(math.sqrt(max(0, each)) for each in (turn, shared, process, pair, log_ratio)))


def _of_rounds(centre: Callable[[Values], float]) -> Summary:
    """Compare each turn with the one beside it, by their median steps, and take the centre of the log-ratios."""
    return lambda pair: centre(np.array([math.log(median(head) / median(base)) for base, head in pair.rounds]))


def hodges_lehmann(values: Values) -> float:
    """The median of the means of all two of the values, each with itself too.

    Source: J. L. Hodges and E. L. Lehmann, Estimates of Location Based on Rank Tests, Ann. Math. Statist. 34 (1963).
    """
    first, second = np.triu_indices(values.size)
    return float(np.median((values[first] + values[second]) / 2))


SUMMARIES: dict[str, Summary] = {
    **METRICS,
    "rounds, trimmed mean": _of_rounds(lambda values: float(trim_mean(values, 0.25))),
    "rounds, Hodges-Lehmann": _of_rounds(hodges_lehmann),
}
"""What a pair can be summed up by: those that a guard knows, and other centres of the log-ratios of turns."""


def deviation(values: Sequence[float]) -> Interval:
    """The standard deviation, in the 95% interval that it has where the values are normal."""
    freedom = len(values) - 1
    sd = float(np.std(values, ddof=1))
    low, high = (sd * math.sqrt(freedom / float(chdtri(freedom, p))) for p in (0.025, 0.975))
    return Interval(sd, low, high)


def mean_of_cells(cells: Collection[Sequence[float]]) -> Interval:
    """The mean of the cells' means, in its 95% interval: t, with the degrees of freedom of the smallest cell."""
    means = [fmean(values) for values in cells]
    error = math.sqrt(sum(variance(values) / len(values) for values in cells)) / len(means)
    half = t_quantile(min(map(len, cells)), 0.975) * error
    mean = fmean(means)
    return Interval(mean, mean - half, mean + half)


def pairs_for_a_pass(sd: float, plan: Plan, threshold: float) -> int | None:
    """How many pairs of unchanged code, of that spread and with a mean of just zero, would pass. None: not so few."""
    for n, t in enumerate(critical_values(plan.alpha, plan.min_pairs, plan.max_pairs), plan.min_pairs):
        if t * sd / math.sqrt(n) < math.log1p(threshold):
            return n
    return None


def clopper_pearson(hits: int, trials: int) -> Interval:
    """A share in its exact 95% interval.

    Source: C. J. Clopper and E. S. Pearson, The Use of Confidence or Fiducial Limits Illustrated in the Case of the
    Binomial, Biometrika 26 (1934), 404-413.
    """
    low = float(betaincinv(hits, trials - hits + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 1, trials - hits, 0.975)) if hits < trials else 1.0
    return Interval(hits / trials, low, high)
