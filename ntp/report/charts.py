"""Records in, charts out: one Altair chart each, which serves as SVG, as PNG and within a web page.

The same record gives the same chart, byte for byte. Nothing is fetched from anywhere to draw it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from ntp.judge.statistics import quantile
from ntp.records.observations import BETWEEN_PHASES, OperatorProfile, PhaseTimes
from ntp.records.run import Measurement
from ntp.report.drawing import (
    BLUE,
    GREY,
    INK,
    PHASE_COLOURS,
    VERMILLION,
    Axis,
    Plane,
    finished,
    ink_on,
    png,
    raw_colour,
    svg,
    tooltip,
)
from ntp.report.memory_charts import memory_timeline, peak_composition, peak_compositions
from ntp.report.placing import WIDTH, printable, shortened, text_width_px
from ntp.report.roofline_chart import roofline
from ntp.report.units import duration, share, significant

__all__ = [
    "memory_timeline",
    "operator_times",
    "peak_composition",
    "peak_compositions",
    "phase_shares",
    "png",
    "roofline",
    "step_times",
    "svg",
]

_TIME_UNITS_NS = {"s": 1e9, "ms": 1e6, "µs": 1e3, "ns": 1.0}


def phase_shares(rows: Sequence[tuple[str, PhaseTimes]]) -> alt.LayerChart:
    """How each case's step divides into its phases: one bar a case (id, times), phases in the order of the step."""
    segments = [list(_segments(times)) for _, times in rows]
    ends = [1.0, *(segment["x2"] for each in segments for segment in each)]
    row_px = 46
    plane = Plane(Axis(0, max(ends), WIDTH), Axis(0, row_px * max(1, len(rows)), row_px * max(1, len(rows))))
    bars, texts, names = [], [], []
    for number, (case_id, times) in enumerate(rows):
        floor_px = plane.y.high - row_px * (number + 1) + 6
        step = f": {duration(_whole_ns(times) / len(times.instrumented_step_ns))} a step"
        name = shortened(case_id, WIDTH - text_width_px(step) - 10)
        names.append(plane.spot(0, floor_px + 30, text=name + step, colour=INK))
        for segment in segments[number]:
            bars.append({**segment, "y": floor_px, "y2": floor_px + 22, "case": case_id})
            start_px, end_px = plane.x.px(segment["x"]), plane.x.px(segment["x2"])
            if end_px - start_px > text_width_px(segment["share"]) + 6:
                ink = ink_on(segment["colour"])
                texts.append(plane.spot((start_px + end_px) / 2, floor_px + 11, text=segment["share"], colour=ink))
    title, note = _largest_share(rows)
    return finished(
        [
            _stacked(bars, plane, ("case", "phase", "share", "time"), "share of the step"),
            *plane.texts(texts),
            *plane.texts(names, align="left"),
        ],
        plane,
        title,
        note,
    )


def _whole_ns(times: PhaseTimes) -> int:
    return sum(times.instrumented_step_ns)


def _shares(times: PhaseTimes) -> dict[str, float]:
    """None where the clock saw no time pass."""
    return times.share if _whole_ns(times) else {}


def _segments(times: PhaseTimes) -> Iterator[dict[str, Any]]:
    """The phases side by side, and behind them what lies in none."""
    shares = _shares(times)
    rest = 1 - math.fsum(shares.values())
    done = 0.0
    for phase, value in [*shares.items(), *([(BETWEEN_PHASES, rest)] if shares and rest > 1e-3 else [])]:
        time_ns = value * _whole_ns(times) / len(times.instrumented_step_ns)
        yield {
            "x": done,
            "x2": done + value,
            "phase": phase,
            "share": share(value),
            "time": duration(time_ns),
            "colour": PHASE_COLOURS.get(phase, GREY),
        }
        done += value


def _largest_share(rows: Sequence[tuple[str, PhaseTimes]]) -> tuple[str, str]:
    """The title, and the note."""
    shares = [each for _, times in rows if (each := _shares(times))]
    if not shares:
        return "No time was seen to pass in any phase", ""
    sums = Counter[str]()
    for each in shares:
        sums.update(each)
    largest = max(sums, key=lambda phase: sums[phase])
    values = sorted(each.get(largest, 0.0) for each in shares)
    between = (
        share(values[0]) if share(values[0]) == share(values[-1]) else f"{share(values[0])} to {share(values[-1])}"
    )
    means = ", ".join(f"{phase} {share(total / len(shares))}" for phase, total in sums.items())
    return f"The {largest} phase takes {between} of a step", means if len(shares) == 1 else f"On average: {means}"


def operator_times(profile: OperatorProfile, most: int = 12) -> alt.LayerChart:
    """The costliest operators, each one's self time divided into the phases where it was spent."""
    totals: dict[str, float] = {}
    for operator in profile.operators:
        totals[operator.name] = totals.get(operator.name, 0.0) + operator.self_time_ns_per_step
    ranked = sorted(totals, key=lambda name: -totals[name])
    whole_ns = math.fsum(totals.values())
    names = ranked[:most]
    texts = {name: f"{duration(totals[name])}, {_share_of(totals[name], whole_ns)}" for name in names}
    name_px = max((text_width_px(shortened(name, 240)) for name in names), default=0)
    text_px = max(map(text_width_px, texts.values()), default=0)
    longest_ms = max((totals[name] for name in names), default=0) / 1e6 or 1.0
    bar_px, height_px = WIDTH - name_px - text_px - 20, 24 * max(1, len(names))
    plane = Plane(Axis(0, longest_ms, bar_px), Axis(0, height_px, height_px))
    floors_px = {name: height_px - 24 * (rank + 1) + 4 for rank, name in enumerate(names)}
    labels = [plane.spot(-6, floors_px[name] + 8, text=shortened(name, 240), colour=INK) for name in names]
    values = [
        plane.spot(plane.x.px(totals[name] / 1e6) + 6, floors_px[name] + 8, text=texts[name], colour=INK)
        for name in names
    ]
    bars = list(_operator_bars(profile, floors_px))
    rest = ranked[most:]
    rest_ns = math.fsum(totals[name] for name in rest)
    return finished(
        [
            _stacked(bars, plane, ("operator", "phase", "time", "calls"), "self time per step (ms)", grid=True),
            *plane.texts(labels, align="right"),
            *plane.texts(values, align="left"),
        ],
        plane,
        f"{shortened(names[0], 320)} takes {_share_of(totals[names[0]], whole_ns)} of the step"
        if names
        else "No operators",
        f"The other {len(rest)} together: {duration(rest_ns)}, {_share_of(rest_ns, whole_ns)}" if rest else "",
    )


def _share_of(part_ns: float, whole_ns: float) -> str:
    return share(part_ns / whole_ns if whole_ns else None)


def _operator_bars(profile: OperatorProfile, floors_px: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """An operator's phases side by side, in the order of the step."""
    order = list(PHASE_COLOURS)
    done = dict.fromkeys(floors_px, 0.0)
    for operator in sorted(profile.operators, key=lambda each: order.index(each.phase) if each.phase in order else 99):
        if operator.name in floors_px:
            start, floor_px = done[operator.name], floors_px[operator.name]
            done[operator.name] = end = start + operator.self_time_ns_per_step / 1e6
            yield {
                "x": start,
                "x2": end,
                "y": floor_px,
                "y2": floor_px + 16,
                "operator": operator.name,
                "phase": operator.phase,
                "time": duration(operator.self_time_ns_per_step),
                "calls": f"{significant(operator.calls_per_step)} a step",
            }


_PHASE_NAME = f"datum.label == '{BETWEEN_PHASES}' ? 'between phases' : datum.label"
"""What the legend calls a phase, as an expression of Vega's."""


def _stacked(
    bars: Sequence[dict[str, Any]], plane: Plane, fields: tuple[str, ...], title: str, *, grid: bool = False
) -> alt.Chart:
    """Horizontal bars, coloured by phase, with a legend."""
    seen = dict.fromkeys(printable(bar["phase"]) for bar in bars)
    phases = [
        *(phase for phase in PHASE_COLOURS if phase in seen),
        *(phase for phase in seen if phase not in PHASE_COLOURS),
    ]
    colour = alt.Color("phase:N").scale(domain=phases, range=[PHASE_COLOURS.get(phase, GREY) for phase in phases])
    legend = alt.Legend(orient="bottom", direction="horizontal", title=None, labelExpr=_PHASE_NAME)
    form = "%" if not grid else alt.Undefined
    chart: alt.Chart = (
        plane.marks(*bars, ends=True)
        .mark_rect(opacity=1)
        .encode(
            alt.X("x:Q").scale(plane.x.scale).title(title).axis(format=form, grid=grid, tickCount=10),
            alt.Y("y:Q").scale(plane.y.scale).axis(None),
            color=colour.legend(legend if phases else None),  # Vega finds no size for a legend of nothing
            tooltip=tooltip(*fields),
        )
    )
    return chart


def step_times(measurement: Measurement) -> alt.LayerChart:
    """All samples in the order in which they were taken, and their median: drift and two modes are seen at once."""
    samples, part = measurement.step_time_ns, measurement.case.workload.part
    middle_ns, p95_ns = quantile(samples, 0.5), quantile(samples, 0.95)
    unit = duration(middle_ns).split()[1]
    unit_ns, most_ns = _TIME_UNITS_NS[unit], _most_shown_ns(samples)
    text = f"median {duration(middle_ns)}"
    # Where all samples are alike there would be no scale to draw them on.
    margin = ((most_ns - min(samples)) * 0.08 or middle_ns * 0.05) / unit_ns or 1.0
    plane = Plane(
        Axis(0, len(samples) + 1, WIDTH - text_width_px(text) - 10),
        Axis(min(samples) / unit_ns - margin, most_ns / unit_ns + margin, 240),
    )
    middle = middle_ns / unit_ns
    rule = {"x": 0, "x2": plane.x.high, "y": middle, "y2": middle}
    ticks = alt.Axis(grid=False, tickCount=min(8, len(samples) + 1), format=",d")
    beyond = sum(sample > most_ns for sample in samples)
    return finished(
        [
            _sample_marks(samples, most_ns, unit_ns, plane).encode(
                alt.X("x:Q").scale(plane.x.scale).title("step, in order").axis(ticks),
                alt.Y("y:Q").scale(plane.y.scale).title(f"{part} time ({unit})").axis(tickCount=6),
            ),
            plane.marks(rule, ends=True).mark_rule(color=VERMILLION, strokeWidth=1.5),
            *plane.texts([plane.spot(plane.x.length_px + 6, plane.y.px(middle), text=text, colour=INK)], align="left"),
        ],
        plane,
        f"{'A step' if part == 'step' else f'The {part} part of a step'} takes {duration(middle_ns)}",
        f"{len(samples):,} step{'s' if len(samples) > 1 else ''} of {shortened(measurement.case.id)}",
        f"Fastest {duration(min(samples))}, 95th percentile {duration(p95_ns)}, slowest {duration(max(samples))}"
        + (f". Triangles: {beyond:,} beyond the scale" if beyond else ""),
    )


def _most_shown_ns(samples: Sequence[int]) -> float:
    """The largest sample but for those so far out that the others would become a line on the scale of them all."""
    low_ns, high_ns = quantile(samples, 0.25), quantile(samples, 0.75)
    fence_ns = high_ns + 8 * (high_ns - low_ns) if high_ns > low_ns else math.inf
    return max(sample for sample in samples if sample <= fence_ns)


def _sample_marks(samples: Sequence[int], most_ns: float, unit_ns: float, plane: Plane) -> alt.Chart:
    """Circles, and triangles at the upper edge for what lies beyond it."""
    points = [
        {"x": number, "y": min(sample / unit_ns, plane.y.high), "time": duration(sample)}
        | {"shape": "circle" if sample <= most_ns else "triangle-up"}
        | {"colour": BLUE if sample <= most_ns else VERMILLION}
        for number, sample in enumerate(samples, start=1)
    ]
    marks = plane.marks(*points).mark_point(filled=True, size=40 if len(samples) <= 200 else 20, opacity=0.65)
    shape = alt.Shape("shape:N").scale(None).legend(None)
    chart: alt.Chart = marks.encode(shape=shape, color=raw_colour(), tooltip=tooltip("x", "time"))
    return chart
