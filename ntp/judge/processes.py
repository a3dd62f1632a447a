"""What the processes of a run say about its cases: levels, intervals, and where the noise is.

The process is the unit of evidence. Step times within one are correlated, and the process has a level of its own that
no number of steps tells: intervals are made of the processes' median times, on a logarithmic scale.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ntp.case import Case
from ntp.judge.statistics import Interval
from ntp.records.run import Measurement

CONFIDENCE = 0.95
"""The two-sided confidence of each interval."""


class Level(NamedTuple):
    """The level of one case: a mean on the scale of logarithms, and how far it may be off."""

    log_mean: float
    std_error: float
    """nan for a single process."""
    degrees: float
    """Degrees of freedom of the standard error."""

    @classmethod
    def of(cls, measurement: Measurement) -> "Level":
        logs = [math.log(median_ns) for median_ns in measurement.medians_ns]
        n, mean = len(logs), math.fsum(logs) / len(logs)
        variance = math.fsum((value - mean) ** 2 for value in logs) / (n - 1) if n > 1 else math.nan
        return cls(mean, math.sqrt(variance / n), n - 1)

    @property
    def half_width(self) -> float:
        """Half the width of the interval, as a fraction of the level. Infinite for a single process."""
        return math.expm1(self._reach)

    @property
    def interval(self) -> Interval:
        reach = self._reach if self.degrees else 0.0  # TODO a single process has no interval
        return Interval(*(math.exp(self.log_mean + reach) for reach in (0.0, -reach, reach)))

    @property
    def _reach(self) -> float:
        from scipy.special import stdtrit  # here, so that a report of single processes need not wait for scipy

        if not self.degrees:
            return math.inf
        return float(stdtrit(self.degrees, (1 + CONFIDENCE) / 2)) * self.std_error


def half_widths(measurements: Sequence[Measurement]) -> dict[Case, float]:
    """Return by how much the level of each case may be off within this run, as a fraction."""
    return {measurement.case: Level.of(measurement).half_width for measurement in measurements}
