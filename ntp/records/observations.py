"""What each observer saw of a case, as frozen records. Every observer has a pass of its own, and none times another.

This module needs no torch: reports read these records.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from ntp.case import Amount, Count, Frozen
from ntp.records.flame import Flame

BETWEEN_PHASES = "between"
"""Stands in place of a phase for what happens within a step but in none of its phases."""

BETWEEN_OPERATORS = "(between operators)"
"""Stands in place of an operator for the time between operators: Python, and torch between one and the next."""


def _median_ratio(times_ns: Sequence[int], bare_ns: Sequence[int]) -> float:
    """The median ratio of a step's time to its bare partner's, which counts as 1 ns where the clock read none."""
    return statistics.median(time_ns / max(1, bare) for time_ns, bare in zip(times_ns, bare_ns, strict=True))


class PhaseSamples(Frozen):
    """One phase in each of the instrumented steps."""

    phase: str
    time_ns: tuple[Count, ...] = Field(min_length=1)

    @property
    def median_ns(self) -> float:
        return statistics.median(self.time_ns)


class PhaseTimes(Frozen):
    """Steps with a clock around each phase, each paired with a bare step that ran right before or after it."""

    phases: tuple[PhaseSamples, ...] = Field(min_length=1)
    """In the order of the step."""
    instrumented_step_ns: tuple[Count, ...]
    """The duration of each step whose phases were timed."""
    bare_step_ns: tuple[Count, ...]
    """The duration of each step that was only timed as a whole; the n-th belongs to the n-th instrumented one."""

    @model_validator(mode="after")
    def _samples_belong_together(self) -> Self:
        counts = {len(samples) for samples in (self.bare_step_ns, *(phase.time_ns for phase in self.phases))}
        if counts != {len(self.instrumented_step_ns)}:
            raise ValueError("each pair of steps has one sample of every phase, one instrumented and one bare")
        return self

    @property
    def median_ns(self) -> dict[str, float]:
        return {samples.phase: samples.median_ns for samples in self.phases}

    @property
    def share(self) -> dict[str, float]:
        """Each phase's part of the instrumented steps' time. The shares add up to :attr:`coverage`."""
        whole_ns = sum(self.instrumented_step_ns) or 1  # a clock too coarse for the step
        return {samples.phase: sum(samples.time_ns) / whole_ns for samples in self.phases}

    @property
    def coverage(self) -> float:
        """The part of the instrumented steps' time that lies in some phase: 1 when the phases leave nothing out."""
        return math.fsum(self.share.values())

    @property
    def cost(self) -> float:
        """By how much an instrumented step is longer than its bare partner, median over pairs."""
        return _median_ratio(self.instrumented_step_ns, self.bare_step_ns) - 1


class Operator(Frozen):
    """What one operator did in one phase, averaged over the profiled steps."""

    name: str
    """torch's name (``aten::addmm``), or :data:`BETWEEN_OPERATORS`."""
    phase: str
    """One of ntp.case.PHASES, or :data:`BETWEEN_PHASES`."""
    input_shapes: str = ""
    """The shapes of its tensors, ``4096x256, 256x1024``; empty where calls of all shapes are added up."""
    calls_per_step: Amount
    self_time_ns_per_step: Amount
    """Wall time inside the operator, but in none that it called."""
    allocated_bytes_per_step: Amount
    """What its calls allocated and did not free before they returned, without the operators that it called."""
    moved_bytes_per_step: Amount
    """An estimate of what its calls read and wrote: four bytes for each element of the tensors they were given, and
    what they allocated. Zero where the result is a view, and where other operators did the work."""
    flops_per_step: Amount
    """By the profiler's formulas, which cover matrix products, convolutions, additions and multiplications."""


class OperatorProfile(Frozen):
    """Where the time of a step goes, operator by operator, as torch.profiler sees it."""

    operators: tuple[Operator, ...]
    """One for each name and phase, the costliest first. Together they make up the whole step."""
    largest_by_shape: tuple[Operator, ...]
    """The costliest operators when calls with different input shapes are counted apart."""
    profiled_step_ns: tuple[Count, ...] = Field(min_length=1)
    bare_step_ns: tuple[Count, ...] = Field(min_length=1)
    """The duration of steps without the profiler; the n-th ran right before the n-th profiled one."""

    @model_validator(mode="after")
    def _steps_pair(self) -> Self:
        if len(self.profiled_step_ns) != len(self.bare_step_ns):
            raise ValueError("each profiled step has one bare step before it")
        return self

    @property
    def self_time_ns_per_step(self) -> float:
        """The self time of all operators: the profiled step by the profiler's own clock."""
        return math.fsum(operator.self_time_ns_per_step for operator in self.operators)

    @property
    def calls_per_step(self) -> dict[str, float]:
        """How often a step calls each of torch's own operators, over all phases, by name and sorted by it."""
        calls: dict[str, float] = {}
        for operator in sorted(self.operators, key=lambda operator: operator.name):
            if operator.name.startswith("aten::"):
                calls[operator.name] = calls.get(operator.name, 0) + operator.calls_per_step
        return calls

    @property
    def allocated_bytes_per_step(self) -> float:
        return sum(operator.allocated_bytes_per_step for operator in self.operators)

    @property
    def overhead(self) -> float:
        """By how much a profiled step is longer than the bare one before it, median over pairs."""
        return _median_ratio(self.profiled_step_ns, self.bare_step_ns) - 1

    def share(self, operator: Operator) -> float:
        """The operator's part of the self time. The shares of :attr:`operators` add up to 1."""
        return operator.self_time_ns_per_step / (self.self_time_ns_per_step or 1)


class FlopShare(Frozen):
    """The floating-point operations of one phase or one operator."""

    name: str
    flops: Count


class FlopCount(Frozen):
    """The floating-point operations of one step, a multiply-add counted as two. Only matrix products, convolutions and
    attention count.
    """

    phases: tuple[FlopShare, ...]
    """One for each phase, in the order of the step."""
    operators: tuple[FlopShare, ...]
    """One for each operator that has any, the largest first."""

    @property
    def total_flops(self) -> int:
        return sum(operator.flops for operator in self.operators)


class TensorBytes(Frozen):
    """Bytes of live tensor storage by purpose. Every byte is in exactly one field."""

    parameters: Count = 0
    buffers: Count = 0
    gradients: Count = 0
    """Storage that a parameter's ``grad`` holds, or will hold at the step's end."""
    optimizer_state: Count = 0
    inputs: Count = 0
    """The batch."""
    activations: Count = 0
    """Storage that forward or loss made and that is still alive when backward begins, whoever holds it."""
    temporaries: Count = 0
    """All other storage that the step made."""
    other: Count = 0
    """All other storage from earlier steps."""

    @property
    def total_bytes(self) -> int:
        return sum(size for _, size in self)


class Denormals(Frozen):
    """Numbers too small for their type's normal form. Arithmetic on them can take a CPU a hundred times as long."""

    share: float = Field(ge=0, le=1)
    """Their share of all numbers in parameters, gradients and optimizer state."""


class PhaseMemory(Frozen):
    """Live tensor bytes during one phase."""

    phase: str
    peak_bytes: Count
    live_bytes: Count
    """At the phase's end."""
    start_ns: Count | None = None
    """Since the step began; None where it is not known."""
    end_ns: Count | None = None


class LiveBytes(Frozen):
    """The tensor bytes that were live from this instant on."""

    time_ns: Count
    """Since the step began."""
    live_bytes: Count


class MemoryProfile(Frozen):
    """The tensor memory of one step of a training that has run for a while.

    Tensor memory is what torch's CPU allocator handed out and has not got back. It is less than the resident size: the
    interpreter, the libraries, and what the C library's allocator keeps for reuse are not in it.
    """

    baseline: TensorBytes
    """At the step's beginning."""
    peak: TensorBytes
    """At the first instant when the most was live."""
    peak_phase: str
    """One of ntp.case.PHASES, or :data:`BETWEEN_PHASES`."""
    phases: tuple[PhaseMemory, ...]
    """In the order of the step."""
    timeline: tuple[LiveBytes, ...] = Field(min_length=1)
    """From the step's beginning to its end. Points are left out, but never the peak."""

    @model_validator(mode="after")
    def _the_parts_make_up_the_peak(self) -> Self:
        if self.peak.total_bytes != max(point.live_bytes for point in self.timeline):
            raise ValueError("the parts of the peak must add up to the timeline's maximum")
        return self

    @property
    def peak_bytes(self) -> int:
        return self.peak.total_bytes


class Observations(Frozen):
    """What the observers saw after the last sample. Null: the observer did not look."""

    phases: PhaseTimes | None = None
    memory: MemoryProfile | None = None
    denormals: Denormals | None = None
    flops: FlopCount | None = None
    operators: OperatorProfile | None = None
    flame: Flame | None = None
    failures: tuple[str, ...] = ()
    """A line for each observer that could not handle this model or this machine. The samples are unaffected."""
    wall_time_s: Amount = 0.0
    """How long the observers took, flame graphs aside."""
