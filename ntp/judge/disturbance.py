"""How much step times vary on a machine, and what is the loudest cause of it."""

from collections.abc import Sequence
from typing import NamedTuple

from ntp.judge.statistics import quantile
from ntp.judge.warnings import Kind, MeasurementWarning

_SEEN_NOW: tuple[Kind, ...] = ("high-steal", "throttled", "other-load")
"""Others that took the CPUs while the machine was looked at: the loudest causes there are."""

_OF_THE_MACHINE: tuple[Kind, ...] = ("quota", "changing-frequency", "virtual-machine", "smt")
"""What may take them at any time."""

_LOUDER = 1.5
"""How many times as much as in the quiet runtime steps must vary to be no accident: it is seconds of one process."""


class Spreads(NamedTuple):
    """By how much a small step varies, as :func:`spread` has it."""

    quiet: float
    """In the runtime of ntp's workers."""
    plain: float
    """Where allocator, affinity and wait policy are left as they come."""

    @property
    def plain_is_louder(self) -> bool:
        """Whether the runtime makes a difference that can be told."""
        return self.plain > _LOUDER * self.quiet


def spread(samples: Sequence[float]) -> float:
    """By how much the slowest step in twenty is slower than the typical: the 95th percentile over the median, less 1.

    Raises:
        ValueError: there are no samples.
    """
    return quantile(samples, 0.95) / max(1.0, quantile(samples, 0.5)) - 1


def likeliest(warnings: Sequence[MeasurementWarning]) -> MeasurementWarning | None:
    """The warning that tells of the loudest cause outside of this process; none where no warning tells of any."""
    by_kind = {warning.kind: warning for warning in warnings}
    return next((by_kind[kind] for kind in (*_SEEN_NOW, *_OF_THE_MACHINE) if kind in by_kind), None)
