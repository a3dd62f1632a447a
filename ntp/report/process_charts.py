"""Charts that show the processes of the cases of a sweep: where the noise is."""

from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import altair as alt
from altair.typing import ChartType

from ntp.judge.processes import Spreads, levels
from ntp.lines import shorten
from ntp.records.run import MeasuredProcess, Measurement
from ntp.report.drawing import (
    BARS_WIDTH,
    FAINT,
    GREY,
    INK,
    VERMILLION,
    WIDTH,
    chart_of,
    finished,
    in_one_check,
    names,
    tooltip,
)
from ntp.report.tables import CaseRow
from ntp.report.units import duration, share

_SHOWN_RATIO = (0.7, 1.5)
"""The scale of samples relative to the level of their case. What lies beyond is drawn at the edge."""

_WIDEST = (0.5, 2.0)
"""The widest scale of processes relative to the level of their case."""

_MANY_ROUNDS = 8
"""A legend of more rounds than that names some of them."""


def round_colour(rounds: Collection[int], *, legend: bool = True) -> alt.Color:
    """The colour of each round, from dark to light in their order."""
    numbers = sorted(set(rounds))
    shown = numbers if len(numbers) <= _MANY_ROUNDS else [numbers[0], numbers[len(numbers) // 2], numbers[-1]]
    key = alt.Legend(orient="bottom", title="round", symbolType="circle", values=shown)
    # Not to the light end of the scheme: yellow is too pale on white.
    scheme = alt.SchemeParams(name="viridis", extent=[0, 0.88])
    return alt.Color("round:O").scale(scheme=scheme, domain=numbers).legend(key if legend else None)


@in_one_check
def processes(rows: Sequence[CaseRow], spreads: Spreads) -> ChartType:
    """The median of each process relative to the level of its case, by round: this shows where the noise is."""
    dots = [dot for row in rows for dot in _dots(row)]
    limits = [_limits(row) for row in rows]
    ratios = [*(dot["ratio"] for dot in dots), *(end[name] for end in limits for name in ("low", "high"))]
    low, high = min(ratios), max(ratios)
    margin = max(0.01, (high - low) * 0.03)
    scale = alt.Scale(domain=[max(_WIDEST[0], low - margin), min(_WIDEST[1], high + margin)], nice=False, clamp=True)
    x = alt.X("ratio:Q", scale=scale).title("median step of a process, relative to its case")
    one = chart_of({"ratio": 1}).mark_rule(color=INK, strokeDash=[4, 3]).encode(x)
    bars = chart_of(*limits).mark_bar(color=GREY, opacity=0.4, height=14).encode(
        names("case"), alt.X("low:Q", scale=scale), alt.X2("high:Q")
    )  # fmt: skip
    points = chart_of(*dots).mark_point(filled=True, size=55, opacity=1, stroke="white", strokeWidth=0.6)
    return finished(
        alt.layer(
            bars,
            one,
            points.encode(
                names("case"), x, round_colour([dot["round"] for dot in dots]),
                tooltip=tooltip("case", "round", "time", "steps"),
            ),
        ).properties(width=BARS_WIDTH, height=alt.Step(24)),
        _noise(spreads),
        "Standard deviations. Dots: the processes of a case. Grey: its 95% interval within this run",
    )  # fmt: skip


def _noise(spreads: Spreads) -> str:
    parts = (("steps", spreads.steps), ("processes", spreads.processes), ("rounds", spreads.rounds))
    return f"Noise: {', '.join(f'{what} {share(value)}' for what, value in parts if value is not None)}"


def _dots(row: CaseRow) -> Iterator[dict[str, Any]]:
    for process in row.measurement.processes:
        yield {
            "case": row.case.id,
            "round": process.round,
            "ratio": process.median_ns / row.time_ns,
            "time": duration(process.median_ns),
            "steps": f"{len(process.step_time_ns):,}",
        }


def _limits(row: CaseRow) -> dict[str, Any]:
    """The interval relative to the level. Without one, the row has no bar, but its place in the order."""
    interval = row.level.interval
    return {
        "case": row.case.id,
        "low": interval.low / row.time_ns if interval else 1.0,
        "high": interval.high / row.time_ns if interval else 1.0,
    }


@in_one_check
def samples(measurements: Sequence[Measurement]) -> ChartType:
    """Every sample of every case, in order, relative to the case's level.

    Each process has a part of its own, in the colour of its round: this shows drift, slow processes and several modes.
    """
    several = any(len(measurement.processes) > 1 for measurement in measurements)
    rounds = {process.round for measurement in measurements for process in measurement.processes}
    return finished(
        alt.vconcat(*(_samples(measurement, rounds) for measurement in measurements), spacing=6),
        "Every timed step, in order",
        "Relative to its case. Steps beyond the scale are drawn at its edge"
        + (". Each process has the colour of its round, and its median as a red line" if several else ""),
    )


def _samples(measurement: Measurement, rounds: Collection[int]) -> ChartType:
    middle_ns = levels([measurement])[measurement.case].value_ns
    low, high = _SHOWN_RATIO
    # As CSV: there are thousands, and each would repeat the names of its fields.
    lines = (f"{number},{sample / middle_ns:.3f},{process.round}" for number, sample, process in numbered(measurement))
    numbers = {"step": "number", "ratio": "number", "round": "number"}
    text = "\n".join([",".join(numbers), *lines])
    data = alt.InlineData(values=text, format=alt.CsvDataFormat(type="csv", parse=numbers))
    count = len(measurement.step_time_ns)
    x = alt.X("step:Q").title(None).scale(domain=[0.5, count + 0.5], nice=False)
    x = x.axis(labels=False, ticks=False, grid=False)
    y = alt.Y("ratio:Q").title(None).scale(domain=[low, high], nice=False, clamp=True)
    y = y.axis(values=[low, 1, high], format=".1f", labelOverlap=False)
    points = alt.Chart(data).mark_point(filled=True, size=16, opacity=0.8)
    colour = round_colour(rounds, legend=False)
    title = f"{shorten(measurement.case.id, 70)}: {count:,} steps of {duration(middle_ns)}"
    layers = alt.layer(*boundaries(measurement, x), points.encode(x, y, colour), medians(measurement, middle_ns, x, y))
    return layers.properties(width=WIDTH, height=44, title=alt.TitleParams(title, fontSize=11, fontWeight="normal"))


def numbered(measurement: Measurement) -> Iterator[tuple[int, int, MeasuredProcess]]:
    """Each sample of a case with its number, from 1 on over all processes, and its process."""
    samples = ((sample, process) for process in measurement.processes for sample in process.step_time_ns)
    for number, (sample, process) in enumerate(samples, 1):
        yield number, sample, process


def _ends(measurement: Measurement) -> list[int]:
    """How many samples there are up to the start of each process, and to the end of the last."""
    return list(accumulate((len(process.step_time_ns) for process in measurement.processes), initial=0))


def boundaries(measurement: Measurement, x: alt.X) -> list[ChartType]:
    """A line between each two processes."""
    inner = [{"step": end + 0.5} for end in _ends(measurement)[1:-1]]
    return [chart_of(*inner).mark_rule(color=FAINT).encode(x)] if inner else []


def medians(measurement: Measurement, unit_ns: float, x: alt.X, y: alt.Y) -> ChartType:
    """The median of each process as a line over its samples. The axes' fields are those of the samples."""
    lines = [
        {"step": start + 0.5, "end": end + 0.5, y.shorthand.removesuffix(":Q"): process.median_ns / unit_ns}
        for (start, end), process in zip(pairwise(_ends(measurement)), measurement.processes, strict=True)
    ]
    drawn: ChartType = chart_of(*lines).mark_rule(color=VERMILLION, strokeWidth=1.5).encode(x, alt.X2("end:Q"), y)
    return drawn
