"""How much step times vary on a machine, and the most likely cause."""

from collections.abc import Sequence
from typing import NamedTuple

from ntp.judge.statistics import quantile
from ntp.judge.warnings import Kind, MeasurementWarning

_SEEN_NOW: tuple[Kind, ...] = ("high-steal", "throttled", "other-load")
"""Others took the CPUs while this was measured: these are the likeliest causes."""

_OF_THE_MACHINE: tuple[Kind, ...] = ("quota", "changing-frequency", "virtual-machine", "smt")
"""These may take the CPUs at any time."""

_LOUDER = 1.5
"""Steps that vary this many times as much as in the quiet runtime do not by chance: each is seconds of one process."""


class Spreads(NamedTuple):
    """The :func:`spread` of a small step."""

    quiet: float
    """The spread in the runtime of ntp's workers."""
    plain: float
    """The spread where allocator, affinity and wait policy are left as they come."""

    @property
    def plain_is_louder(self) -> bool:
        """Whether the runtime makes a noticeable difference."""
        return self.plain > _LOUDER * self.quiet


def spread(samples: Sequence[float]) -> float:
    """Return how much slower the slowest step in twenty is than the typical: 95th percentile over median, less 1.

    Raises:
        ValueError: there are no samples.
    """
    return quantile(samples, 0.95) / max(1.0, quantile(samples, 0.5)) - 1


def likeliest(warnings: Sequence[MeasurementWarning]) -> MeasurementWarning | None:
    """Return the warning of the likeliest cause outside of this process, if there is one."""
    by_kind = {warning.kind: warning for warning in warnings}
    return next((by_kind[kind] for kind in (*_SEEN_NOW, *_OF_THE_MACHINE) if kind in by_kind), None)
