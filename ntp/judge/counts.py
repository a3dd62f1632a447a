"""The counts of a step, compared exactly, in both directions and without statistics."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from ntp.records.pairs import Counts
from ntp.records.run import Measurement

SIZES = ("parameters", "flops", "peak_tensor_bytes", "allocated_bytes")
"""The counts that are a single number."""


class Change(NamedTuple):
    """A count that differs between base and head."""

    name: str
    """``parameters``, ``flops``, ``allocated_bytes``, ``peak_tensor_bytes``, or an operator's name."""
    base: float
    head: float

    @property
    def worse(self) -> bool:
        return self.head > self.base

    def __str__(self) -> str:
        """Say it in words: ``+2 aten::copy_ a step``, ``+16 MiB peak tensor memory``."""
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
    """Write a signed difference in its unit, or in ones where it is a small part of the unit."""
    scaled = difference / size
    if abs(scaled) < 0.01:
        return f"{difference:+,.0f} {ones}"
    return f"{scaled:+,.0f} {unit}" if abs(scaled) >= 100 else f"{scaled:+.3g} {unit}"


def counts_of(measurement: Measurement) -> Counts:
    """Return what the observers of a measurement counted."""
    observations = measurement.observations
    flops, operators, memory = observations.flops, observations.operators, observations.memory
    return Counts.model_construct(  # each count of a file is within bounds, but not the sum of all operators'
        parameters=measurement.parameters,
        flops=flops.total_flops if flops else None,
        operators=tuple(operators.calls_per_step.items()) if operators else None,
        allocated_bytes=operators.allocated_bytes_per_step if operators else None,
        peak_tensor_bytes=memory.peak_bytes if memory else None,
    )


def not_counted(base: Counts, head: Counts) -> tuple[str, ...]:
    """Return the counts that one side lacks, or both: these are not compared."""
    return tuple(name for name in Counts.model_fields if name in {*base.missing, *head.missing})


def changes(base: Counts, head: Counts) -> tuple[Change, ...]:
    """Return the counts that both sides have and that differ: first the sizes, then the operators by name."""
    return tuple(change for change in _all(base, head) if change.base != change.head)


def _all(base: Counts, head: Counts) -> Iterator[Change]:
    for name in SIZES:
        before, after = getattr(base, name), getattr(head, name)
        if before is not None and after is not None:
            yield Change(name, before, after)
    if base.operators is None or head.operators is None:
        return
    base_calls, head_calls = dict(base.operators), dict(head.operators)
    for name in sorted({*base_calls, *head_calls}):
        yield Change(name, base_calls.get(name, 0), head_calls.get(name, 0))


def regressions(differing: Sequence[Change], allowed: Sequence[str]) -> tuple[Change, ...]:
    """Return the changes for the worse that nobody has allowed, by name or by a pattern such as ``aten::*``."""
    return tuple(
        change
        for change in differing
        if change.worse and not any(fnmatchcase(change.name, pattern) for pattern in allowed)
    )
