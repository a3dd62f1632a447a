"""How far a mean must lie from a threshold, in standard errors, if one looks again after every sample.

A group-sequential t-test: an error-spending function of Pocock's type says how much of the error may have been spent
by the n-th sample, the recursion for normal sums says which z spends it, and the t distribution of n - 1 degrees of
freedom stands in for the normal one at the same tail probability.

Because there is a look after *every* sample from the first to the last allowed, it does not matter why sampling stops
earlier, nor who chose what to sample next: stopping uses up less of the error, never more.

Sources:
    K. K. G. Lan and D. L. DeMets, Discrete Sequential Boundaries for Clinical Trials, Biometrika 70 (1983), 659-663:
    error spending, and the spending function of Pocock's type.
    P. Armitage, C. K. McPherson and B. C. Rowe, Repeated Significance Tests on Accumulating Data, J. R. Statist. Soc. A
    132 (1969), 235-244: the recursion.
    S. J. Pocock, Group Sequential Methods in the Design and Analysis of Clinical Trials, Biometrika 64 (1977), 191-199;
    C. Jennison and B. W. Turnbull, Group Sequential Methods (2000), section 3.8: from z to t by the tail probability.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ntp.judge.statistics import Interval

_Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

_T_EXCESS = 1.1
"""What the step from z to t spends too much, about: every level is divided by it. With it, simulated with looks at 5 to
20, levels of 5% to 0.3% are spent 1.00 to 1.04 times."""

_GRID = 401
_FAR = 8.0
"""Standard deviations below zero at which a normal sum's density is cut off."""


class Estimate(NamedTuple):
    """What independent values say about their true mean. ``std_error`` is nan for fewer than two values."""

    n: int
    mean: float
    std_error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Summarise at least one value."""
        n = len(values)
        mean = math.fsum(values) / n
        # fsum of equal values, divided, may miss them by a rounding: that is no spread.
        squares = 0.0 if min(values) == max(values) else math.fsum((value - mean) ** 2 for value in values)
        return cls(n, mean, math.sqrt(squares / (n - 1) / n) if n > 1 else math.nan)

    def interval(self, half_width: float) -> Interval:
        """Return the mean, with limits that many standard errors away."""
        return Interval(self.mean, self.mean - half_width * self.std_error, self.mean + half_width * self.std_error)


def t_quantile(n: int, probability: float) -> float:
    """Return the quantile of Student's t of n - 1 degrees of freedom."""
    from scipy.special import stdtrit  # here, as below: a report that judges nothing need not wait for scipy

    return float(stdtrit(n - 1, probability))


@cache
def critical_values(level: float, first: int, last: int) -> tuple[float, ...]:
    """Return the critical t after ``first``, ``first + 1``, ... ``last`` samples.

    Over all these looks together, the mean of normal samples, less their true mean, exceeds that many standard errors
    with probability ``level``: this is one-sided, as nearly as ``_T_EXCESS`` says, and twice that for both sides.

    It is never less than the t of a plain, non-sequential 95% interval: what is decided here is decided there, too.
    """
    tails = _tail_probabilities(level / _T_EXCESS, first, last)
    return tuple(max(-t_quantile(n, p), t_quantile(n, 0.975)) for n, p in enumerate(tails, first))


def _spent(fraction: float) -> float:
    """Return the share of the error that a fraction of the samples may spend: Pocock's type (Lan and DeMets 1983)."""
    return math.log(1 + (math.e - 1) * fraction)


def _tail_probabilities(level: float, first: int, last: int) -> list[float]:
    """Return the nominal one-sided normal tail probability of each look."""
    from scipy.special import ndtr, ndtri

    shares = [_spent(n / last) for n in range(first, last + 1)]
    tail = level * shares[0]
    tails = [tail]
    # The sum of the samples so far, of standard deviation 1 each, where no look has crossed its limit yet.
    sums = np.linspace(-_FAR * math.sqrt(first), -float(ndtri(tail)) * math.sqrt(first), _GRID)
    density = np.exp(-(sums**2) / (2 * first)) / math.sqrt(2 * math.pi * first)
    for n, (before, now) in enumerate(pairwise(shares), first + 1):
        weights = _trapezoid(sums, density)
        z = _z_that_spends(level * (now - before), sums, weights, math.sqrt(n))
        tails.append(float(ndtr(-z)))
        following = np.linspace(-_FAR * math.sqrt(n), z * math.sqrt(n), _GRID)
        density = np.exp(-((following[:, None] - sums) ** 2) / 2) @ weights / math.sqrt(2 * math.pi)
        sums = following
    return tails


def _trapezoid(points: _Floats, values: _Floats) -> _Floats:
    weights: _Floats = values * (points[1] - points[0])
    weights[[0, -1]] /= 2
    return weights


def _z_that_spends(share: float, sums: _Floats, weights: _Floats, root_n: float) -> float:
    """Find by bisection the z that the next sum exceeds with this probability, which falls as z grows."""
    from scipy.special import ndtr

    low, high = -_FAR, 2 * _FAR
    for _ in range(60):
        z = (low + high) / 2
        if float(weights @ ndtr(sums - z * root_n)) > share:
            low = z
        else:
            high = z
    return (low + high) / 2
