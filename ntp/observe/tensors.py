"""Tensor memory: what torch's allocator hands out during a step, when, and what for.

Every allocation and every free of one step is read from torch.profiler's events (those that its memory view is drawn
from), and laid over what the training holds between steps: parameters, buffers, gradients, optimizer state.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from ntp.case import PHASES
from ntp.core.step import Training
from ntp.core.torch_parts import part_of
from ntp.observe.profiler import SPAN_PREFIX, STEP_SPAN, phase_span
from ntp.records.observations import BETWEEN_PHASES, Denormals, LiveBytes, MemoryProfile, PhaseMemory, TensorBytes

MAX_POINTS = 400
"""The most points that a timeline has."""


def tensor_pass(training: Training) -> MemoryProfile:
    """Follow the tensor memory of one step.

    The step before it is watched too: the profiler reports the end of a block only where it saw its beginning, and
    ``zero_grad`` frees the gradients of the step before.

    What a block is for follows from who holds it after the step (parameters, gradients, optimizer state), or else from
    how long it lived: see :class:`~ntp.records.observations.TensorBytes`. Memory that is not from torch's CPU
    allocator is not counted: NumPy's behind a batch from a file, oneDNN's and the BLAS's own buffers.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        training.step()
        held_before = held_storages(training)
        with record_function(STEP_SPAN):
            training.step(phase_span)
        held_after = held_storages(training)
    tree = part_of(profiler, "profiler.kineto_results.experimental_event_tree", "torch.profiler.profile()")
    changes, spans = _read_events(tree())
    return _Replay(changes, spans, held_before, held_after).profile()


def denormals(training: Training) -> Denormals:
    """Count the denormal numbers in all that a training holds between steps."""
    parameters = list(training.model.parameters())
    held = [
        *parameters,
        *(parameter.grad for parameter in parameters if parameter.grad is not None),
        *_tensors_in(training.optimizer.state),
    ]
    numbers = small = 0
    with torch.no_grad():
        for tensor in held:
            if tensor.is_floating_point():
                magnitude = tensor.abs()
                small += int(((magnitude > 0) & (magnitude < torch.finfo(tensor.dtype).tiny)).sum())
                numbers += tensor.numel()
    return Denormals(share=small / numbers if numbers else 0.0)


@dataclass(frozen=True)
class Held:
    """A storage that outlives the step."""

    kind: str
    size_bytes: int


def held_storages(training: Training) -> dict[int, Held]:
    """What the training holds between steps, by address. Storage that tensors share (tied weights, views) is one."""
    model, optimizer = training.model, training.optimizer
    kinds: dict[str, Iterable[object]] = {
        "parameters": model.parameters(),
        "buffers": model.buffers(),
        "gradients": [parameter.grad for parameter in model.parameters()],
        "optimizer_state": optimizer.state.values(),
    }
    held: dict[int, Held] = {}
    for kind, values in kinds.items():
        for tensor in _tensors_in(values):
            storage = tensor.untyped_storage()
            held.setdefault(storage.data_ptr(), Held(kind, storage.nbytes()))
    return held


def _tensors_in(values: object) -> Iterator[Tensor]:
    """Yield the CPU tensors in nested dicts, lists and tuples that have a storage (sparse ones have none)."""
    if isinstance(values, Tensor):
        if values.layout is torch.strided and values.device.type == "cpu":
            yield values
    elif isinstance(values, dict):
        yield from _tensors_in(values.values())
    elif isinstance(values, Iterable) and not isinstance(values, str):
        for value in values:
            yield from _tensors_in(value)


@dataclass(frozen=True)
class _Change:
    """A block of memory begins (positive) or ends (negative)."""

    time_ns: int
    address: int
    size_bytes: int


@dataclass(frozen=True)
class _Span:
    start_ns: int
    end_ns: int


def _read_events(roots: Sequence[Any]) -> tuple[list[_Change], dict[str, _Span]]:
    """Read the changes in order of time, and our spans by name, from the profiler's tree of events."""
    allocation = part_of(torch, "_C._profiler._EventType.Allocation")
    changes: list[_Change] = []
    spans: dict[str, _Span] = {}
    unread = list(reversed(roots))
    while unread:
        event = unread.pop()
        unread.extend(reversed(event.children))
        kind, fields = event.typed
        if kind == allocation:
            if fields.device.type == "cpu" and fields.alloc_size:
                changes.append(_Change(event.start_time_ns, fields.ptr, fields.alloc_size))
        elif event.name.startswith(SPAN_PREFIX):
            spans[event.name.removeprefix(SPAN_PREFIX)] = _Span(event.start_time_ns, event.end_time_ns)
    changes.sort(key=lambda change: change.time_ns)
    return changes, spans


@dataclass
class _Block:
    """A block of memory, from its beginning to its end. None: outside of what was watched."""

    address: int
    size_bytes: int
    born_ns: int | None
    died_ns: int | None = None

    def alive_at(self, time_ns: int) -> bool:
        return (self.born_ns is None or self.born_ns < time_ns) and (self.died_ns is None or self.died_ns >= time_ns)


def _blocks(changes: Iterable[_Change], held_before: dict[int, Held], step: _Span) -> list[_Block]:
    """All blocks that were alive at some time of the step."""
    alive: dict[int, _Block] = {}
    blocks: list[_Block] = []
    for change in changes:
        if change.size_bytes > 0:
            alive[change.address] = _Block(change.address, change.size_bytes, change.time_ns)
            blocks.append(alive[change.address])
        elif block := alive.pop(change.address, None):
            block.died_ns = change.time_ns
    watched = {block.address for block in blocks if block.alive_at(step.start_ns)}
    unwatched = (_Block(at, held.size_bytes, None) for at, held in held_before.items() if at not in watched)
    blocks += (block for block in unwatched if block.size_bytes)
    return [
        block
        for block in blocks
        if block.alive_at(step.start_ns) or (block.born_ns is not None and step.start_ns <= block.born_ns < step.end_ns)
    ]


class _Replay:
    """Goes through the step again, change by change, now that each block's kind is known."""

    def __init__(
        self,
        changes: Iterable[_Change],
        spans: dict[str, _Span],
        held_before: dict[int, Held],
        held_after: dict[int, Held],
    ) -> None:
        self._step = spans[STEP_SPAN.removeprefix(SPAN_PREFIX)]
        self._phases = {phase: spans[phase] for phase in PHASES}
        self._held_before, self._held_after = held_before, held_after
        self._blocks = _blocks(changes, held_before, self._step)

    def profile(self) -> MemoryProfile:
        start_ns = self._step.start_ns
        baseline = Counter[str]()
        changes: list[tuple[int, str, int]] = []
        for block in self._blocks:
            kind = self._kind(block)
            if block.alive_at(start_ns):
                baseline[kind] += block.size_bytes
            else:
                assert block.born_ns is not None
                changes.append((block.born_ns, kind, block.size_bytes))
            if block.died_ns is not None and block.died_ns <= self._step.end_ns:
                changes.append((block.died_ns, kind, -block.size_bytes))
        changes.sort(key=lambda change: change[0])
        times_ns = [start_ns, *(time_ns for time_ns, _, _ in changes)]
        live = list(accumulate((size for _, _, size in changes), initial=baseline.total()))
        summit = live.index(max(live))
        peak = baseline.copy()
        for _, kind, size in changes[:summit]:
            peak[kind] += size
        points = [*zip(times_ns, live, strict=True), (self._step.end_ns, live[-1])]
        return MemoryProfile(
            baseline=TensorBytes(**baseline),
            peak=TensorBytes(**peak),
            peak_phase=self._phase_at(times_ns[summit]),
            phases=tuple(_during(phase, span, points, start_ns) for phase, span in self._phases.items()),
            timeline=thinned_out(
                [LiveBytes(time_ns=time_ns - start_ns, live_bytes=size) for time_ns, size in points], MAX_POINTS
            ),
        )

    def _kind(self, block: _Block) -> str:
        """The field of TensorBytes that the block belongs to."""
        if block.alive_at(self._step.start_ns):
            return self._held_before[block.address].kind if block.address in self._held_before else "other"
        if block.alive_at(self._step.end_ns) and block.address in self._held_after:
            return self._held_after[block.address].kind
        assert block.born_ns is not None
        data, backward = self._phases["data"], self._phases["backward"]
        if not block.alive_at(backward.start_ns):
            return "temporaries"
        return "inputs" if block.born_ns <= data.end_ns else "activations"

    def _phase_at(self, time_ns: int) -> str:
        within = (phase for phase, span in self._phases.items() if span.start_ns <= time_ns <= span.end_ns)
        return next(within, BETWEEN_PHASES)


def _during(phase: str, span: _Span, points: Sequence[tuple[int, int]], step_start_ns: int) -> PhaseMemory:
    """The live bytes of a phase, from the level that it began with to the one that it ended with."""
    entered_with = [size for time_ns, size in points if time_ns <= span.start_ns][-1]
    within = [size for time_ns, size in points if span.start_ns < time_ns <= span.end_ns]
    levels = [entered_with, *within]
    return PhaseMemory(
        phase=phase,
        peak_bytes=max(levels),
        live_bytes=levels[-1],
        start_ns=span.start_ns - step_start_ns,
        end_ns=span.end_ns - step_start_ns,
    )


def thinned_out(points: Sequence[LiveBytes], most: int) -> tuple[LiveBytes, ...]:
    """At most ``most`` (4 or more) of the points, in order: the first, the last, and the highest and lowest of each
    stretch between them. The peak is always among them.
    """
    if len(points) <= most:
        return tuple(points)
    stretches = (most - 2) // 2
    inner = len(points) - 2
    kept = {0, len(points) - 1}
    for stretch in range(stretches):
        indices = range(1 + stretch * inner // stretches, 1 + (stretch + 1) * inner // stretches)
        kept.add(max(indices, key=lambda index: points[index].live_bytes))
        kept.add(min(indices, key=lambda index: points[index].live_bytes))
    return tuple(points[index] for index in sorted(kept))
