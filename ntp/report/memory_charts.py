"""The tensor memory of a step: over time, and what it consists of at its peak."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from ntp.records.observations import BETWEEN_PHASES, MemoryProfile, TensorBytes
from ntp.report.drawing import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    LOOK,
    ORANGE,
    PHASE_COLOURS,
    PURPLE,
    SKY,
    VERMILLION,
    Axis,
    Plane,
    chart_of,
    finished,
    ink_on,
    raw_colour,
    tooltip,
)
from ntp.report.placing import WIDTH, Label, height_of, in_rows, printable, shortened, text_width_px
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
"""What bytes are for, in the order of the bar: what outlives the step comes first."""


def memory_timeline(memory: MemoryProfile) -> alt.LayerChart:
    """Live tensor bytes over one step, with its phases, its peak, and what training holds all the time."""
    ends_ns = [*(point.time_ns for point in memory.timeline), *(phase.end_ns or 0 for phase in memory.phases)]
    # A timeline of one point has no width of its own.
    end_ns = max(ends_ns) or 1e6
    x = Axis(0, end_ns / 1e6, WIDTH)
    bands = list(_phase_bands(memory))
    names = in_rows(
        Label(shortened(band["phase"]), x.px((band["x"] + band["x2"]) / 2), band["colour"]) for band in bands
    )
    # Above the highest point there is room for its own label and for the phases' names.
    head_px = height_of(names) + 28
    height_px = 240 + head_px
    plane = Plane(x, Axis(0, max(memory.peak_bytes, 1) / _MIB / (1 - head_px / height_px), height_px))
    layers = [
        *_drawn_bands(bands, plane),
        _live_bytes(memory, plane),
        *_kept_rule(memory.peak, plane),
        *_peak_mark(memory, plane),
        *plane.labels(names, height_px),
    ]
    begins = f"A step begins with {size(memory.baseline.total_bytes)}: {_parts_text(memory.baseline)}"
    return finished(
        layers,
        plane,
        f"Tensor memory peaks at {size(memory.peak_bytes)}{_in_phase(memory.peak_phase)}",
        begins if memory.baseline.total_bytes else "",
    )


def _in_phase(phase: str) -> str:
    return ", between two phases" if phase == BETWEEN_PHASES else f" in {phase}"


def _parts_text(parts: TensorBytes) -> str:
    largest = sorted(((kind, count) for kind, count in parts if count), key=lambda part: -part[1])
    return ", ".join(f"{_kind_name(kind)} {size(count)}" for kind, count in largest)


def _kind_name(kind: str) -> str:
    return kind.replace("_", " ")


def _phase_bands(memory: MemoryProfile) -> Iterator[dict[str, Any]]:
    """Of the phases whose times are known."""
    for phase in memory.phases:
        if phase.start_ns is not None and phase.end_ns is not None:
            yield {
                "x": phase.start_ns / 1e6,
                "x2": phase.end_ns / 1e6,
                "phase": phase.phase,
                "peak": size(phase.peak_bytes),
                "colour": PHASE_COLOURS.get(phase.phase, GREY),
            }


def _drawn_bands(bands: Sequence[dict[str, Any]], plane: Plane) -> Iterator[alt.Chart]:
    """A tint for each phase. The line where it begins is seen even where the band is too thin."""
    if bands:
        whole = [{**band, "y": 0, "y2": plane.y.high} for band in bands]
        starts = [{**band, "x2": band["x"]} for band in whole]
        tints = plane.marks(*whole, ends=True).mark_rect(opacity=0.13)
        yield tints.encode(color=raw_colour(), tooltip=tooltip("phase", "peak"))
        yield plane.marks(*starts, ends=True).mark_rule(opacity=0.6).encode(color=raw_colour())


def _live_bytes(memory: MemoryProfile, plane: Plane) -> alt.Chart:
    points = [{"x": point.time_ns / 1e6, "y": point.live_bytes / _MIB} for point in memory.timeline]
    points.append({"x": plane.x.high, "y": points[-1]["y"]})
    line = alt.MarkConfig(color=INK, strokeWidth=1.5)
    chart: alt.Chart = (
        plane.marks(*points)
        .mark_area(interpolate="step-after", color=FAINT, opacity=0.45, line=line)
        .encode(
            alt.X("x:Q").scale(plane.x.scale).title("time since the step began (ms)").axis(grid=False),
            alt.Y("y:Q").scale(plane.y.scale).title("live tensor memory (MiB)").axis(tickCount=6).stack(None),
        )
    )
    return chart


def _kept_rule(parts: TensorBytes, plane: Plane) -> Iterator[alt.Chart]:
    """What every moment of the step has to hold: a dashed line, its name beneath it where there is room."""
    names = [name for name in ("parameters", "buffers", "optimizer_state") if getattr(parts, name)]
    if not names:
        return
    kept = sum(getattr(parts, name) for name in names)
    ends = {"x": 0, "x2": plane.x.high, "y": kept / _MIB, "y2": kept / _MIB}
    yield plane.marks(ends, ends=True).mark_rule(strokeDash=[5, 4], color=INK)
    level_px = plane.y.px(kept / _MIB)
    text = f"{' + '.join(map(_kind_name, names))} {size(kept)}"
    yield from plane.texts(
        [plane.spot(6, level_px + (-8 if level_px > 18 else 8), text=text, colour=INK)], align="left"
    )


def _peak_mark(memory: MemoryProfile, plane: Plane) -> Iterator[alt.Chart]:
    summit = max(memory.timeline, key=lambda point: point.live_bytes)
    spot = {"x": summit.time_ns / 1e6, "y": summit.live_bytes / _MIB}
    yield plane.marks(spot).mark_point(filled=True, size=45, color=VERMILLION, opacity=1)
    (label,) = in_rows([Label(f"peak {size(memory.peak_bytes)}", plane.x.px(spot["x"]))])
    place = plane.spot(label.centre_px, plane.y.px(spot["y"]) + 12, text=label.text, colour=INK)
    yield from plane.texts([place], fontWeight="bold")


def peak_compositions(rows: Sequence[tuple[str, MemoryProfile]]) -> alt.Chart:
    """What the peak of each case (id, memory) consists of: one stacked bar a case."""
    kinds = [kind for kind in _KIND_COLOURS if any(dict(memory.peak).get(kind) for _, memory in rows)]
    bars = chart_of(
        *(
            {
                "case": case_id,
                "kind": _kind_name(kind),
                "order": kinds.index(kind),
                "MiB": count / _MIB,
                "size": size(count),
                "share": share(count / memory.peak_bytes),
            }
            for case_id, memory in rows
            for kind, count in memory.peak
            if count
        )
    ).mark_bar()
    colour = alt.Color("kind:N").scale(domain=[*map(_kind_name, kinds)], range=[_KIND_COLOURS[kind] for kind in kinds])
    most_id, most = max(rows, key=lambda row: row[1].peak_bytes)
    title = f"Tensors take up to {size(most.peak_bytes)}, in {most_id}"
    chart: alt.Chart = bars.encode(
        alt.X("MiB:Q").title("tensor memory at the peak (MiB)"),
        alt.Y("case:N").title(None).sort(None).axis(labelLimit=280),
        colour.legend(orient="bottom", direction="horizontal", title=None, columns=4),
        alt.Order("order:Q"),
        tooltip=tooltip("case", "kind", "size", "share"),
    ).properties(
        width=WIDTH * 0.6,
        height=alt.Step(24),
        title=alt.TitleParams(shortened(title, size_px=14), anchor="start"),
        description=printable(title) + ".",
    )
    chart.config = LOOK
    return chart


def peak_composition(memory: MemoryProfile) -> alt.LayerChart:
    """What the bytes of the peak are for: one bar, each part with its name and size, in it or else beneath it."""
    total = max(memory.peak_bytes, 1)
    x = Axis(0, total / _MIB, WIDTH)
    parts = {kind: count for kind in _KIND_COLOURS if (count := getattr(memory.peak, kind))}
    bars = list(_bars(parts, x))
    inside = [bar for bar in bars if bar["width_px"] > 8 + max(map(text_width_px, (bar["kind"], bar["size"])))]
    beneath = in_rows(
        Label(f"{bar['kind']} {bar['size']}", bar["centre_px"], bar["colour"]) for bar in bars if bar not in inside
    )
    foot_px = height_of(beneath) + (6 if beneath else 0)
    plane = Plane(x, Axis(0, foot_px + 44, foot_px + 44))
    # What is thin is drawn last, or its neighbour would hide the width that it is lent.
    drawn = [{**bar, "y": foot_px, "y2": plane.y.high} for bar in sorted(bars, key=lambda bar: -bar["width_px"])]
    rectangles = plane.marks(*drawn, ends=True).mark_rect(opacity=1)
    texts = [
        plane.spot(bar["centre_px"], foot_px + y_px, text=bar[field], colour=ink_on(bar["colour"]))
        for bar in inside
        for field, y_px in (("kind", 29), ("size", 15))
    ]
    largest = max(parts, key=lambda kind: parts[kind], default=None)
    title = f"{share(parts[largest] / total)} of the memory peak is {_kind_name(largest)}" if largest else ""
    return finished(
        [
            rectangles.encode(
                alt.X("x:Q").scale(x.scale).title("live tensor memory at the peak (MiB)").axis(grid=False),
                alt.Y("y:Q").scale(plane.y.scale).axis(None),
                color=raw_colour(),
                tooltip=tooltip("kind", "size", "share"),
            ),
            *plane.texts(texts),
            *plane.labels(beneath, foot_px - 6),
        ],
        plane,
        title or "No tensor memory at the peak",
        f"The peak: {size(memory.peak_bytes)}{_in_phase(memory.peak_phase)}",
        unseen=_parts_text(memory.peak),
    )


def _bars(parts: Mapping[str, int], x: Axis) -> Iterator[dict[str, Any]]:
    """Side by side. A bar too thin to be seen is drawn two pixels wide."""
    total, done = sum(parts.values()), 0
    for kind, count in parts.items():
        start, end = done / _MIB, (done + count) / _MIB
        done += count
        start_px, width_px = x.px(start), x.px(end) - x.px(start)
        if width_px < 2:
            start_px = min(start_px, WIDTH - 2)
            start, end = x.at(start_px), x.at(start_px + 2)
        yield {
            "x": start,
            "x2": end,
            "kind": _kind_name(kind),
            "size": size(count),
            "share": share(count / total),
            "colour": _KIND_COLOURS[kind],
            "width_px": width_px,
            "centre_px": start_px + width_px / 2,
        }
