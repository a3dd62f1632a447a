"""How the time of a step grows with its sizes: power laws fitted to the cases of a run."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ntp.case import Case
from ntp.judge.statistics import Interval, t_quantile

MIN_SIZES, MIN_SPAN = 4, 16
"""Fewer sizes, or sizes that span a smaller factor, say nothing about growth."""


class Growth(NamedTuple):
    """Cases of a run that differ only in one size."""

    what: str
    """The name of the size: tokens (batch size times sequence length), vocabulary, embedding or hidden layer."""
    smallest: Case
    sizes: tuple[int, ...]
    """Ascending."""
    times_ns: tuple[float, ...]
    exponent: Interval
    """The exponent of time = c size^exponent, by least squares of the logarithms, in its 95% interval of t. What makes
    it wide is how far the points are off a straight line; the noise of a point is small beside that."""
    last_exponent: float
    """The exponent of the two largest sizes alone: this is where it is heading."""


def growths(times_ns: Iterable[tuple[Case, float]]) -> tuple[Growth, ...]:
    """Find the growths in cases of whole steps, given with their times."""
    measured = list(times_ns)
    return tuple(growth for what, (size, same) in _SIZES.items() for growth in _of_size(what, measured, size, same))


_Size = tuple[Callable[[Case], int], Callable[[Case], Case]]


def _without(**fields: int) -> Callable[[Case], Case]:
    return lambda case: case.model_copy(update={"workload": case.workload.model_copy(update=fields)})


_SIZES: dict[str, _Size] = {
    "tokens": (lambda case: case.workload.tokens, _without(batch_size=1, seq_len=1)),
    "vocabulary": (lambda case: case.workload.vocab_size, _without(vocab_size=1)),
    "embedding": (lambda case: case.workload.embed_dim, _without(embed_dim=1)),
    "hidden layer": (lambda case: case.workload.hidden_dim, _without(hidden_dim=1)),
}
"""By name, the size of a case, and the case without it: cases of a series have that in common."""


def _of_size(
    what: str, measured: list[tuple[Case, float]], size: Callable[[Case], int], same: Callable[[Case], Case]
) -> Iterable[Growth]:
    series: dict[Case, dict[int, tuple[Case, float]]] = {}
    for case, time_ns in measured:
        series.setdefault(same(case), {})[size(case)] = (case, time_ns)
    for by_size in series.values():
        sizes = tuple(sorted(by_size))
        if len(sizes) >= MIN_SIZES and sizes[-1] >= MIN_SPAN * sizes[0]:
            times = tuple(by_size[number][1] for number in sizes)
            yield Growth(
                what, by_size[sizes[0]][0], sizes, times, _exponent(sizes, times), _slope(sizes[-2:], times[-2:])
            )


def _slope(sizes: tuple[int, ...], times_ns: tuple[float, ...]) -> float:
    return math.log(times_ns[-1] / times_ns[0]) / math.log(sizes[-1] / sizes[0])


def _exponent(sizes: tuple[int, ...], times_ns: tuple[float, ...]) -> Interval:
    """Fit the slope by ordinary least squares; its interval has two degrees of freedom fewer than there are points.

    Source: G. A. F. Seber and A. J. Lee, Linear Regression Analysis, 2nd ed. (2003), section 6.1.
    """
    x, y = np.log(sizes), np.log(times_ns)
    slope, intercept = np.polyfit(x, y, 1)
    residuals = y - (slope * x + intercept)
    error = math.sqrt(float(residuals @ residuals) / (len(x) - 2) / float(((x - x.mean()) ** 2).sum()))
    reach = t_quantile(len(x) - 2, 0.975) * error
    return Interval(float(slope), float(slope) - reach, float(slope) + reach)
