"""What is counted of a step, compared exactly: no statistics, both directions."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ntp.measure.guard_records import Counts


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


def changes(base: Counts, head: Counts) -> tuple[Change, ...]:
    """All counts that differ: the sizes first, then the operators by name."""
    return tuple(change for change in _all(base, head) if change.base != change.head)


def _all(base: Counts, head: Counts) -> Iterator[Change]:
    for name in ("parameters", "flops", "peak_tensor_bytes", "allocated_bytes"):
        yield Change(name, getattr(base, name), getattr(head, name))
    base_calls, head_calls = dict(base.operators), dict(head.operators)
    for name in sorted({*base_calls, *head_calls}):
        yield Change(name, base_calls.get(name, 0), head_calls.get(name, 0))


def regressions(found: Sequence[Change], allowed: Sequence[str]) -> tuple[Change, ...]:
    """The changes for the worse that nobody has allowed by name."""
    return tuple(change for change in found if change.worse and change.name not in allowed)
