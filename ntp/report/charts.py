"""Charts of one case, made of its records, for SVG files and for web pages.

The same record gives the same chart, byte for byte. Nothing is downloaded to draw it.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt
from altair.typing import ChartType

from ntp.judge.processes import levels
from ntp.judge.statistics import quantile
from ntp.lines import one_line, shorten
from ntp.records.observations import BETWEEN_PHASES, OperatorProfile, PhaseTimes
from ntp.records.run import Measurement
from ntp.report.drawing import (
    BARS_WIDTH,
    BLUE,
    PHASE_COLOURS,
    VERMILLION,
    WIDTH,
    chart_of,
    finished,
    in_one_check,
    names,
    phase_colour,
    phase_name,
    svg,
    tooltip,
    value_texts,
)
from ntp.report.memory_charts import memory_timeline, peak_composition, peak_compositions
from ntp.report.process_charts import boundaries, medians, numbered, round_colour
from ntp.report.roofline_chart import roofline
from ntp.report.units import duration, share, significant

__all__ = [
    "memory_timeline",
    "operator_times",
    "peak_composition",
    "peak_compositions",
    "phase_shares",
    "roofline",
    "step_times",
    "svg",
]

_TIME_UNITS_NS = {"s": 1e9, "ms": 1e6, "µs": 1e3, "ns": 1.0}

_LABELLED_SHARE = 0.09
"""The least share of a step whose bar is wide enough for its own text."""


@in_one_check
def phase_shares(times: dict[str, PhaseTimes]) -> ChartType:
    """How each case's step divides into its phases: one bar a case, phases in the order of the step."""
    rows = [row for case_id, case_times in times.items() for row in _phases(case_id, case_times)]
    whole = [
        {"case": case_id, "text": f"{duration(_whole_ns(case_times) / len(case_times.instrumented_step_ns))} a step"}
        for case_id, case_times in times.items()
    ]
    base = chart_of(*rows).encode(names("case"), alt.Order("order:Q"))
    x = alt.X("value:Q").stack("zero").title("share of the step").axis(format="%", grid=False, tickCount=5)
    x = x.scale(domain=[0, 1], nice=False)
    middles = alt.X("value:Q").stack("zero").bandPosition(0.5)
    title, note = _largest_share(list(times.values()))
    return finished(
        alt.layer(
            base.mark_bar().encode(
                x, phase_colour(row["phase"] for row in rows), tooltip=tooltip("case", "phase", "share", "time")
            ),
            base.mark_text().encode(
                middles,
                alt.Detail("phase:N"),
                alt.Text("text:N"),
                color=alt.condition("datum.phase == 'forward'", alt.value("white"), alt.value("black")),
            ),
            chart_of(*whole).mark_text(align="left", dx=5).encode(names("case"), alt.Text("text:N"), x=alt.datum(1)),
        ).properties(width=BARS_WIDTH, height=alt.Step(26)),
        title,
        note,
    )


def _whole_ns(times: PhaseTimes) -> int:
    return sum(times.instrumented_step_ns)


def _phases(case_id: str, times: PhaseTimes) -> Iterator[dict[str, Any]]:
    """The phases of a case, and the time that lies in none."""
    shares = times.share
    rest = 1 - math.fsum(shares.values())
    if _whole_ns(times) and rest > 1e-3:
        shares = {**shares, BETWEEN_PHASES: rest}
    for order, (phase, value) in enumerate(shares.items()):
        yield {
            "case": case_id,
            "phase": phase_name(phase),
            "order": order,
            "value": value,
            "share": share(value),
            "text": share(value) if value >= _LABELLED_SHARE else "",
            "time": duration(value * _whole_ns(times) / len(times.instrumented_step_ns)),
        }


def _largest_share(cases: Sequence[PhaseTimes]) -> tuple[str, str]:
    """The title, and the note."""
    shares = [times.share for times in cases if _whole_ns(times)]
    if not shares:
        return "No phase took any measurable time", ""
    sums = Counter[str]()
    for shares_of_case in shares:
        sums.update(shares_of_case)
    largest = max(sums, key=lambda phase: sums[phase])
    values = sorted(shares_of_case.get(largest, 0.0) for shares_of_case in shares)
    ends = dict.fromkeys((share(values[0]), share(values[-1])))
    means = ", ".join(f"{phase} {share(total / len(shares))}" for phase, total in sums.items())
    return (
        f"The {largest} phase takes {' to '.join(ends)} of a step",
        means if len(shares) == 1 else f"On average: {means}",
    )


@in_one_check
def operator_times(profile: OperatorProfile, most: int = 12) -> ChartType:
    """The costliest operators, the self time of each divided into the phases where it was spent."""
    totals: dict[str, float] = {}
    for operator in profile.operators:
        totals[operator.name] = totals.get(operator.name, 0.0) + operator.self_time_ns_per_step
    ranked = sorted(totals, key=lambda name: -totals[name])
    whole_ns = math.fsum(totals.values())
    costliest, rest = ranked[:most], ranked[most:]
    order = [*PHASE_COLOURS]
    rows: list[dict[str, Any]] = [
        {
            "operator": operator.name,
            "phase": (phase := phase_name(operator.phase)),
            "order": order.index(phase) if phase in order else len(order),
            "ms": operator.self_time_ns_per_step / 1e6,
            "time": duration(operator.self_time_ns_per_step),
            "calls": f"{significant(operator.calls_per_step)} a step",
        }
        for operator in sorted(profile.operators, key=lambda operator: -totals[operator.name])
        if operator.name in costliest
    ]
    sums = [
        {
            "operator": name,
            "ms": totals[name] / 1e6,
            "text": f"{duration(totals[name])}, {_share(totals[name], whole_ns)}",
        }
        for name in costliest
    ]
    rest_ns = math.fsum(totals[name] for name in rest)
    return finished(
        alt.layer(
            chart_of(*rows)
            .mark_bar()
            .encode(
                names("operator"),
                alt.X("ms:Q").title("self time per step (ms)"),
                phase_colour(row["phase"] for row in rows),
                alt.Order("order:Q"),
                tooltip=tooltip("operator", "phase", "time", "calls"),
            ),
            value_texts(chart_of(*sums).encode(names("operator")), "ms"),
        ).properties(width=BARS_WIDTH, height=alt.Step(24)),
        f"{shorten(one_line(costliest[0]), 50)} takes {_share(totals[costliest[0]], whole_ns)} of the step"
        if costliest
        else "No operators",
        f"The other {len(rest)} together: {duration(rest_ns)}, {_share(rest_ns, whole_ns)}" if rest else "",
    )


def _share(part_ns: float, whole_ns: float) -> str:
    return share(part_ns / whole_ns if whole_ns else None)


@in_one_check
def step_times(measurement: Measurement) -> ChartType:
    """All samples in the order in which they were taken, and the median of each process.

    This shows drift, slow processes and several modes.
    """
    samples, part = measurement.step_time_ns, measurement.case.workload.part
    level_ns, p95_ns = levels([measurement])[measurement.case].value_ns, quantile(samples, 0.95)
    count = len(measurement.processes)
    unit = duration(level_ns).split()[1]
    unit_ns, most_ns = _TIME_UNITS_NS[unit], _most_shown_ns(samples)
    beyond = sum(sample > most_ns for sample in samples)
    points = chart_of(
        *(
            {
                "step": number,
                "value": sample / unit_ns,
                "time": duration(sample),
                "round": process.round,
                "beyond": sample > most_ns,
            }
            for number, sample, process in numbered(measurement)
        )
    ).mark_point(filled=True, size=40 if len(samples) <= 200 else 20, opacity=0.75)
    x = alt.X("step:Q").title("step number").axis(grid=False, tickMinStep=1, format=",d")
    x = x.scale(domain=[0, len(samples) + 1], nice=False)
    # What lies beyond the scale is drawn at its upper edge.
    y = alt.Y("value:Q").title(f"{part} time ({unit})").axis(tickCount=6)
    y = y.scale(zero=False, clamp=True, domainMax=most_ns / unit_ns) if beyond else y.scale(zero=False)
    mean = "median" if count == 1 else "mean"
    middle = chart_of({"value": level_ns / unit_ns, "text": f"{mean} {duration(level_ns)}"})
    colour = round_colour([process.round for process in measurement.processes], legend=count > 1)
    return finished(
        alt.layer(
            *boundaries(measurement, x),
            points.encode(
                x,
                y,
                alt.condition("datum.beyond", alt.ShapeValue("triangle-up"), alt.ShapeValue("circle")),
                color=alt.condition("datum.beyond", alt.value(VERMILLION), alt.value(BLUE)) if count == 1 else colour,
                tooltip=tooltip("round", "step", "time"),
            ),
            medians(measurement, unit_ns, x, y),
            middle.mark_text(align="left", dx=5).encode(y, alt.Text("text:N"), x=alt.value("width")),
        ).properties(width=WIDTH - 80, height=240),
        f"{'A step' if part == 'step' else f'The {part} part of a step'} takes {duration(level_ns)}",
        f"{len(samples):,} step{'s' if len(samples) > 1 else ''}{f' in {count} processes' if count > 1 else ''} "
        f"of {shorten(measurement.case.id, 90)}",
        f"Fastest {duration(min(samples))}, 95th percentile {duration(p95_ns)}, slowest {duration(max(samples))}"
        + (f". Triangles: {beyond:,} beyond the scale" if beyond else ""),
    )


def _most_shown_ns(samples: Sequence[int]) -> float:
    """The largest sample but for those so far out that the others would become a line on the scale of them all."""
    low_ns, high_ns = quantile(samples, 0.25), quantile(samples, 0.75)
    fence_ns = high_ns + 8 * (high_ns - low_ns) if high_ns > low_ns else math.inf
    return max(sample for sample in samples if sample <= fence_ns)
