"""What is counted of a step, compared exactly: no statistics, both directions."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from ntp.records.guard import Counts
from ntp.records.run import Measurement

SIZES = ("parameters", "flops", "peak_tensor_bytes", "allocated_bytes")
"""The counts that are one number."""


class SeenCounts(NamedTuple):
    """What the observers of a measurement counted of one step. None: nobody looked."""

    parameters: int
    flops: int | None
    operators: tuple[tuple[str, float], ...] | None
    """Calls a step by name, sorted by it."""
    allocated_bytes: float | None
    peak_tensor_bytes: int | None


class Change(NamedTuple):
    """A count that differs between base and head."""

    name: str
    """``parameters``, ``flops``, ``allocated_bytes``, ``peak_tensor_bytes``, or an operator's name."""
    base: float
    head: float

    @property
    def worse(self) -> bool:
        """Whether the head does more."""
        return self.head > self.base

    def __str__(self) -> str:
        """The change in words: ``+2 aten::copy_ a step``, ``+16 MiB peak tensor memory``."""
        difference = self.head - self.base
        if self.name.endswith("_bytes"):
            what = "peak tensor memory" if self.name.startswith("peak") else "allocated a step"
            return f"{_in(difference, 'MiB', 2**20, 'bytes')} {what}"
        if self.name == "flops":
            return f"{_in(difference, 'GFLOP', 1e9, 'FLOP')} a step"
        if self.name == "parameters":
            return f"{difference:+,.0f} parameters"
        return f"{difference:+g} {self.name} a step"


def _in(difference: float, unit: str, size: float, ones: str) -> str:
    """A signed difference in its unit, or in ones where little would be left of it."""
    scaled = difference / size
    if abs(scaled) < 0.01:
        return f"{difference:+,.0f} {ones}"
    return f"{scaled:+,.0f} {unit}" if abs(scaled) >= 100 else f"{scaled:+.3g} {unit}"


def seen_counts(measurement: Measurement) -> SeenCounts:
    """What was counted of a measured step: operators and allocated bytes where it was profiled, the rest as a rule."""
    seen = measurement.observations
    return SeenCounts(
        parameters=measurement.parameters,
        flops=seen.flops.total_flops if seen.flops else None,
        operators=tuple(seen.operators.calls_per_step.items()) if seen.operators else None,
        allocated_bytes=seen.operators.allocated_bytes_per_step if seen.operators else None,
        peak_tensor_bytes=seen.memory.peak_bytes if seen.memory else None,
    )


def not_counted(base: SeenCounts, head: SeenCounts) -> tuple[str, ...]:
    """The counts that one side lacks, or both: these are not compared."""
    return tuple(name for name in SeenCounts._fields if None in (getattr(base, name), getattr(head, name)))


def changes(base: Counts | SeenCounts, head: Counts | SeenCounts) -> tuple[Change, ...]:
    """All counts that differ: the sizes first, then the operators by name. What one side lacks does not differ."""
    return tuple(change for change in _all(base, head) if change.base != change.head)


def _all(base: Counts | SeenCounts, head: Counts | SeenCounts) -> Iterator[Change]:
    for name in SIZES:
        before, after = getattr(base, name), getattr(head, name)
        if before is not None and after is not None:
            yield Change(name, before, after)
    if base.operators is None or head.operators is None:
        return
    base_calls, head_calls = dict(base.operators), dict(head.operators)
    for name in sorted({*base_calls, *head_calls}):
        yield Change(name, base_calls.get(name, 0), head_calls.get(name, 0))


def regressions(found: Sequence[Change], allowed: Sequence[str]) -> tuple[Change, ...]:
    """The changes for the worse that nobody has allowed, by name or by a pattern such as ``aten::*``."""
    return tuple(
        change for change in found if change.worse and not any(fnmatchcase(change.name, each) for each in allowed)
    )
