"""Medians and quantiles of samples, with intervals that assume no distribution: a thin layer on numpy.

It does without scipy, for a report must start at once, and ``scipy.special`` alone takes longer to import than numpy.
The tests hold the limits against scipy's.
"""

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """An estimate between its confidence limits, all three in the unit of what was estimated."""

    value: float
    low: float
    high: float


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the sample median, and an interval that holds the true median with at least the given confidence.

    The limits are two of the samples, the r-th smallest and the r-th largest: how many of n independent samples lie
    below the median is binomial(n, 1/2), whatever their distribution. r is the largest rank for which each side is
    missed with a probability of at most (1 - confidence) / 2.

    Where there are too few samples for this confidence (n < 6 at 95%), the interval is the whole range of the samples,
    and holds the median only with probability 1 - 2^(1-n).

    Source: W. J. Conover, Practical Nonparametric Statistics, 3rd ed. (1999), section 3.2; the same limits as
    ``scipy.stats.quantile_test(samples).confidence_interval(confidence)``, which gives nan for too few samples.

    Raises:
        ValueError: there are no samples, or the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
    ordered = np.sort(_checked(samples))
    n = ordered.size
    # None of the n samples lies below the median with probability 2^-n, less than a float can hold; just k of them with
    # (n - k + 1) / k times the probability of k - 1; at most k with the sum of these.
    k = np.arange(1, n // 2)
    log_exactly = -n * np.log(2) + np.cumsum([0.0, *np.log((n - k + 1) / k)])
    at_most = np.cumsum(np.exp(log_exactly))
    r = max(1, int(np.searchsorted(at_most, (1 - confidence) / 2, side="right")))
    return Interval(float(np.median(ordered)), float(ordered[r - 1]), float(ordered[n - r]))


def quantile(samples: Sequence[float], q: float) -> float:
    """Return the q-quantile, 0 <= q <= 1, interpolated between the two nearest samples: numpy's default, and R's.

    Source: R. J. Hyndman and Y. Fan, Sample Quantiles in Statistical Packages, The American Statistician 50 (1996),
    pages 361-365, definition 7.

    Raises:
        ValueError: there are no samples, or q is not between 0 and 1.
    """
    return float(np.quantile(_checked(samples), q))


@cache
def t_quantile(degrees: float, probability: float) -> float:
    """Return the quantile of Student's t, for a probability of at least 1/2 and at least one degree of freedom.

    With t = sqrt(degrees) tan(angle), the density is proportional to cos(angle)^(degrees - 1): smooth up to the angle,
    so that a Gauss-Legendre sum is exact to rounding. The distribution function is concave above 0 and lies below the
    normal one: Newton's steps from the normal quantile rise to the solution, and never pass it.
    """
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi) / 2
    degrees = min(degrees, 1e6)  # from there on it is the normal one, and lgamma loses digits
    nodes, weights = np.polynomial.legendre.leggauss(64)
    t = NormalDist().inv_cdf(probability)
    for _ in range(60):
        angle = math.atan(t / math.sqrt(degrees))
        powers = (degrees - 1) * np.log(np.cos(angle * (nodes + 1) / 2))
        above_half = float(weights @ np.exp(log_scale + powers)) * angle / 2
        log_density = log_scale - math.log(degrees) / 2 - (degrees + 1) / 2 * math.log1p(t * t / degrees)
        step = (probability - 0.5 - above_half) * math.exp(-log_density)
        t += step
        if step <= 1e-12 * t:
            break
    return t


def _checked(samples: Sequence[float]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    if not len(samples):
        raise ValueError("no samples: a median or quantile needs at least one")
    return np.asarray(samples, dtype=np.float64)
