"""A pass under torch.profiler: the operators that a step's time goes to, and a trace for ui.perfetto.dev."""

import contextlib
import functools
import gc
import math
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from ntp.case import PHASES
from ntp.core.step import Training
from ntp.core.torch_parts import part_of
from ntp.errors import RecordError
from ntp.files import try_to_write
from ntp.records.observations import BETWEEN_OPERATORS, BETWEEN_PHASES, Operator, OperatorProfile

SPAN_PREFIX = "ntp."
"""It tells our spans from a model's own."""

STEP_SPAN = SPAN_PREFIX + "step"
"""The span around the phases."""

_ELEMENT_BYTES = 4
_LARGEST = 20
_SHOWN_SHAPES = 4


def phase_span(phase: str) -> record_function:
    """Hook :meth:`ntp.core.step.Training.step`: a span of the trace is named after each phase."""
    return record_function(SPAN_PREFIX + phase)


def operator_pass(
    training: Training,
    steps: int,
    trace: Path | str | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> OperatorProfile:
    """Profile ``steps`` steps, each right after a bare one, which shows what the profiler costs.

    An operator belongs to the phase during which it began, whichever thread it ran on. Each step has a session of the
    profiler to itself. One more session comes first and does not count, as it pays for setting the profiler up.

    Args:
        training: a training that is warmed up.
        steps: how many steps are averaged.
        trace: the file for the last step's trace, in Chrome's JSON format; gzipped if the name ends in ``.gz``.
        clock_ns: times whole steps.

    Raises:
        ValueError: ``steps`` is less than 1.
        RecordError: the trace cannot be written; found before anything is run.
    """
    if steps < 1:
        raise ValueError(f"at least 1 step is profiled, not {steps}")
    trace_path = None if trace is None else Path(trace)
    if trace_path is not None:
        _make_writable(trace_path)
    bare_step_ns, profiled_step_ns = [], []
    calls: list[_Call] = []
    _profile_step(training, clock_ns)
    for step in range(steps):
        start_ns = clock_ns()
        training.step()
        bare_step_ns.append(clock_ns() - start_ns)
        step_ns, calls_of_step = _profile_step(training, clock_ns, trace_path if step == steps - 1 else None)
        profiled_step_ns.append(step_ns)
        calls += calls_of_step
    return OperatorProfile(
        operators=tuple(_added_up(calls, steps)),
        largest_by_shape=tuple(_added_up(calls, steps, by_shape=True))[:_LARGEST],
        profiled_step_ns=tuple(profiled_step_ns),
        bare_step_ns=tuple(bare_step_ns),
    )


def _make_writable(path: Path) -> None:
    """Refuse a path while that costs nothing: the profiler's own export prints a line and goes on."""
    try:
        try_to_write(path)
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error.strerror}): choose another path for the trace") from error


@dataclass(frozen=True)
class _Call:
    """One call of an operator within a step."""

    name: str
    phase: str
    input_shapes: str
    self_time_ns: float
    allocated_bytes: int
    moved_bytes: int
    flops: int


def _profile_step(
    training: Training, clock_ns: Callable[[], int], trace_path: Path | None = None
) -> tuple[int, list[_Call]]:
    """Run one step in a session of its own; return how long it took, and its calls.

    Until a session's events are gone, they keep a small piece of every tensor that was an input. Lying where large
    blocks were freed, these pieces keep the next large blocks from taking their place: in a longer session the heap
    grows step by step, and page faults in the new memory make whatever allocates look slow. The events refer to one
    another, so that only the collector frees them.
    """
    with profile(
        activities=[ProfilerActivity.CPU], record_shapes=True, profile_memory=True, with_flops=True
    ) as profiler:
        start_ns = clock_ns()
        with record_function(STEP_SPAN):
            training.step(phase_span)
        step_ns = clock_ns() - start_ns
    if trace_path is not None:
        _export(profiler, trace_path)
    calls = list(_calls_within_step(profiler.events() or ()))
    del profiler
    gc.collect()
    return step_ns, calls


def _export(profiler: profile, path: Path) -> None:
    """Write the trace. torch takes only paths that are UTF-8: to another folder, Linux has a way around."""
    with contextlib.suppress(UnicodeEncodeError):
        str(path).encode()
        profiler.export_chrome_trace(str(path))
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        profiler.export_chrome_trace(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _calls_within_step(events: Iterable[FunctionEvent]) -> Iterator[_Call]:
    """The calls within the step, each with the phase during which it began."""
    events = list(events)
    step = _Spans(event for event in events if event.name == STEP_SPAN)
    ours = {SPAN_PREFIX + phase for phase in PHASES}
    phases = _Spans(event for event in events if event.name in ours)
    for event in events:
        start_us = event.time_range.start
        if event.is_async or not step.at(start_us):
            continue
        yield _Call(
            name=BETWEEN_OPERATORS if event.name == STEP_SPAN or event.name in ours else event.name,
            phase=phases.at(start_us).removeprefix(SPAN_PREFIX) or BETWEEN_PHASES,
            input_shapes=shapes_text(event.input_shapes),
            self_time_ns=max(0.0, event.self_cpu_time_total * 1000),
            allocated_bytes=_allocated_bytes(event),
            moved_bytes=_moved_bytes(event),
            flops=event.flops or 0,
        )


def _allocated_bytes(event: FunctionEvent) -> int:
    """An event counts what it allocated less what it freed. Where it freed more, it allocated nothing."""
    return max(0, int(event.self_cpu_memory_usage))


def _moved_bytes(event: FunctionEvent) -> int:
    """Estimate what an operator read and wrote from its shapes: see :class:`~ntp.records.observations.Operator`."""
    name = event.name
    if not name.startswith("aten::") or name.startswith(("aten::empty", "aten::resize_")) or _gives_a_view(name):
        return 0
    elements = sum(math.prod(shape) for shape in _tensor_shapes(event.input_shapes or ()))
    moved = _ELEMENT_BYTES * elements + _allocated_bytes(event)
    # An operator that lets others do the work moves nothing itself. Products copy and convert for themselves.
    by_others = sum(_moved_bytes(child) for child in event.cpu_children)
    return moved if event.flops or 2 * by_others < moved else 0


@functools.cache
def _gives_a_view(operator: str) -> bool:
    """Whether an operator's schema says that its result is a view of its input: then no byte moves."""
    schemas = part_of(torch, "_C._jit_get_schemas_for_operator")(operator)
    results = [result.alias_info for schema in schemas for result in schema.returns]
    return any(alias is not None and not alias.is_write for alias in results)


class _Spans:
    """Spans that do not overlap, and which of them an instant lies in."""

    def __init__(self, events: Iterable[FunctionEvent]) -> None:
        self._spans = sorted((event.time_range.start, event.time_range.end, event.name) for event in events)
        self._starts_us = [start_us for start_us, _, _ in self._spans]

    def at(self, time_us: float) -> str:
        """The name of the span, or nothing."""
        index = bisect_right(self._starts_us, time_us) - 1
        if index < 0:
            return ""
        _, end_us, name = self._spans[index]
        return name if time_us <= end_us else ""


def _added_up(calls: Iterable[_Call], steps: int, *, by_shape: bool = False) -> list[Operator]:
    """Add calls up to one operator for each name and phase (and shapes, if asked), the costliest first."""
    groups: dict[tuple[str, str, str], list[_Call]] = {}
    for call in calls:
        groups.setdefault((call.name, call.phase, call.input_shapes if by_shape else ""), []).append(call)
    operators = (
        Operator(
            name=name,
            phase=phase,
            input_shapes=input_shapes,
            calls_per_step=len(group) / steps,
            self_time_ns_per_step=math.fsum(call.self_time_ns for call in group) / steps,
            allocated_bytes_per_step=sum(call.allocated_bytes for call in group) / steps,
            moved_bytes_per_step=sum(call.moved_bytes for call in group) / steps,
            flops_per_step=sum(call.flops for call in group) / steps,
        )
        for (name, phase, input_shapes), group in groups.items()
    )
    return sorted(operators, key=lambda operator: -operator.self_time_ns_per_step)


def shapes_text(shapes: Any) -> str:
    """Format ``[[4096, 256], [], [256, 1024]]`` as ``4096x256, 256x1024``. What is no tensor has no shape."""
    tensors = list(_tensor_shapes(shapes or ()))
    more = ", ..." if len(tensors) > _SHOWN_SHAPES else ""
    return ", ".join("x".join(map(str, shape)) for shape in tensors[:_SHOWN_SHAPES]) + more


def _tensor_shapes(shapes: Iterable[Any]) -> Iterator[list[int]]:
    """Yield the shapes in nested lists: an operator may take lists of tensors."""
    for shape in shapes:
        if shape and all(isinstance(size, int) for size in shape):
            yield shape
        else:
            yield from _tensor_shapes(shape)
