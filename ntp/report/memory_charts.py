"""The tensor memory of a step: over time, and what it consists of at its peak."""

from collections.abc import Iterator
from typing import Any

import altair as alt
from altair.typing import ChartType

from ntp.records.observations import BETWEEN_PHASES, MemoryProfile, TensorBytes
from ntp.report.drawing import (
    BARS_WIDTH,
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH,
    chart_of,
    colour_of,
    finished,
    in_one_check,
    names,
    phase_colour,
    phase_name,
    tooltip,
    value_texts,
)
from ntp.report.units import share, size

_MIB = 2**20
_KIND_COLOURS = {
    "parameters": BLUE,
    "optimizer_state": VERMILLION,
    "gradients": ORANGE,
    "buffers": FAINT,
    "inputs": PURPLE,
    "activations": GREEN,
    "temporaries": SKY,
    "other": GREY,
}
"""What bytes are for, in the order of the bars: what outlives the step comes first."""


@in_one_check
def memory_timeline(memory: MemoryProfile) -> ChartType:
    """Live tensor bytes over one step, with its phases, its peak, and what training holds all the time."""
    ends_ns = [*(point.time_ns for point in memory.timeline), *(phase.end_ns or 0 for phase in memory.phases)]
    # A timeline of one point has no width of its own.
    end_ms = (max(ends_ns) or 1e6) / 1e6
    kept = _kept(memory.peak)
    begins = f"A step begins with {size(memory.baseline.total_bytes)}: {_parts_text(memory.baseline)}"
    return finished(
        alt.layer(
            *_phase_bands(memory),
            _live_bytes(memory, end_ms),
            *([_kept_rule(kept)] if kept else []),
            _peak_mark(memory),
        ).properties(width=WIDTH, height=280),
        f"Tensor memory peaks at {size(memory.peak_bytes)}{_in_phase(memory.peak_phase)}",
        begins if memory.baseline.total_bytes else "",
        f"Dashed: {' + '.join(map(_kind_name, kept))} {size(sum(kept.values()))}, held all the time" if kept else "",
    )


def _in_phase(phase: str) -> str:
    return ", between two phases" if phase == BETWEEN_PHASES else f" in {phase}"


def _parts_text(parts: TensorBytes) -> str:
    largest = sorted(((kind, count) for kind, count in parts if count), key=lambda part: -part[1])
    return ", ".join(f"{_kind_name(kind)} {size(count)}" for kind, count in largest)


def _kind_name(kind: str) -> str:
    return kind.replace("_", " ")


def _phase_bands(memory: MemoryProfile) -> Iterator[alt.Chart]:
    """A tint for each phase whose times are known. The line where it begins shows even the shortest."""
    rows: list[dict[str, Any]] = [
        {
            "start": phase.start_ns / 1e6,
            "end": phase.end_ns / 1e6,
            "phase": phase_name(phase.phase),
            "peak": size(phase.peak_bytes),
        }
        for phase in memory.phases
        if phase.start_ns is not None and phase.end_ns is not None
    ]
    if rows:
        bands = chart_of(*rows).encode(alt.X("start:Q"), phase_colour(row["phase"] for row in rows))
        yield bands.mark_rect(opacity=0.15).encode(alt.X2("end:Q"), tooltip=tooltip("phase", "peak"))
        yield bands.mark_rule(opacity=0.6)


def _live_bytes(memory: MemoryProfile, end_ms: float) -> alt.Chart:
    points = [{"ms": point.time_ns / 1e6, "MiB": point.live_bytes / _MIB} for point in memory.timeline]
    points.append({"ms": end_ms, "MiB": points[-1]["MiB"]})
    line = alt.MarkConfig(color=INK, strokeWidth=1.5)
    x = alt.X("ms:Q").scale(domain=[0, end_ms], nice=False).title("time since the step began (ms)").axis(grid=False)
    y = alt.Y("MiB:Q").stack(None).title("live tensor memory (MiB)").axis(tickCount=6)
    area = chart_of(*points).mark_area(interpolate="step-after", color=FAINT, opacity=0.45, line=line)
    chart: alt.Chart = area.encode(x, y)
    return chart


def _kept(parts: TensorBytes) -> dict[str, int]:
    """What every moment of the step has to hold."""
    return {kind: count for kind in ("parameters", "buffers", "optimizer_state") if (count := getattr(parts, kind))}


def _kept_rule(kept: dict[str, int]) -> alt.Chart:
    rule = chart_of({"MiB": sum(kept.values()) / _MIB}).encode(alt.Y("MiB:Q"))
    chart: alt.Chart = rule.mark_rule(strokeDash=[5, 4], color=INK)
    return chart


def _peak_mark(memory: MemoryProfile) -> alt.Chart:
    summit = max(memory.timeline, key=lambda point: point.live_bytes)
    row = {"ms": summit.time_ns / 1e6, "MiB": summit.live_bytes / _MIB, "peak": size(memory.peak_bytes)}
    mark = chart_of(row).mark_point(filled=True, size=60, color=VERMILLION, opacity=1)
    chart: alt.Chart = mark.encode(alt.X("ms:Q"), alt.Y("MiB:Q"), tooltip=tooltip("peak"))
    return chart


@in_one_check
def peak_compositions(memories: dict[str, MemoryProfile]) -> ChartType:
    """What the peak of each case consists of: one stacked bar a case."""
    rows = [row for case_id, memory in memories.items() for row in _parts(case_id, memory)]
    kinds = {_kind_name(kind): colour for kind, colour in _KIND_COLOURS.items()}
    present = {row["kind"] for row in rows}
    bars = chart_of(*rows).encode(names("case"))
    sums = chart_of(
        *(
            {"case": case_id, "MiB": memory.peak_bytes / _MIB, "text": size(memory.peak_bytes)}
            for case_id, memory in memories.items()
        )
    ).encode(names("case"))
    most_id = max(memories, key=lambda case_id: memories[case_id].peak_bytes)
    return finished(
        alt.layer(
            bars.mark_bar().encode(
                alt.X("MiB:Q").title("tensor memory at the peak (MiB)"),
                colour_of("kind", {kind: colour for kind, colour in kinds.items() if kind in present}),
                alt.Order("order:Q"),
                tooltip=tooltip("case", "kind", "size", "share"),
            ),
            value_texts(sums, "MiB"),
        ).properties(width=BARS_WIDTH, height=alt.Step(24)),
        f"Tensors take up to {size(memories[most_id].peak_bytes)}, in {most_id}",
    )


def _parts(case_id: str, memory: MemoryProfile) -> Iterator[dict[str, Any]]:
    """The parts of the peak that hold any bytes."""
    for order, kind in enumerate(_KIND_COLOURS):
        if count := getattr(memory.peak, kind):
            yield {
                "case": case_id,
                "kind": _kind_name(kind),
                "order": order,
                "MiB": count / _MIB,
                "size": size(count),
                "share": share(count / memory.peak_bytes),
                "text": f"{size(count)}, {share(count / memory.peak_bytes)}",
            }


@in_one_check
def peak_composition(memory: MemoryProfile) -> ChartType:
    """What the bytes of the peak are for: one bar a part, with its size and share."""
    rows = list(_parts("", memory))
    bars = chart_of(*rows).encode(names("kind"), alt.X("MiB:Q").title("live tensor memory at the peak (MiB)"))
    largest = max(rows, key=lambda row: row["MiB"], default=None)
    colours = {_kind_name(kind): colour for kind, colour in _KIND_COLOURS.items()}
    return finished(
        alt.layer(
            bars.mark_bar().encode(colour_of("kind", colours).legend(None), tooltip=tooltip("kind", "size", "share")),
            value_texts(bars, "MiB"),
        ).properties(width=BARS_WIDTH, height=alt.Step(24)),
        f"{largest['share']} of the memory peak is {largest['kind']}" if largest else "No tensor memory at the peak",
        f"The peak: {size(memory.peak_bytes)}{_in_phase(memory.peak_phase)}",
    )
