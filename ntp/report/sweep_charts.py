"""Charts that compare the cases of a whole sweep. The charts of one case are in :mod:`ntp.report.charts`."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import altair as alt
from altair.typing import ChartType

from ntp.case import Case
from ntp.judge.bottleneck import step_point
from ntp.judge.compare import Comparison
from ntp.judge.statistics import Interval, quantile
from ntp.lines import shorten
from ntp.records.peaks import MachinePeaks, RooflinePoint
from ntp.records.run import Measurement, Run
from ntp.report.charts import peak_compositions, phase_shares, roofline
from ntp.report.drawing import (
    BARS_WIDTH,
    BLUE,
    GREY,
    INK,
    NAMES,
    PALETTE,
    VERMILLION,
    WIDTH,
    chart_of,
    finished,
    in_one_check,
    names,
    svg,
    tooltip,
    value_texts,
)
from ntp.report.tables import CaseRow, Tables, tables_of
from ntp.report.units import duration, ratio, share, significant

_SHOWN_RATIO = (0.8, 1.5)
"""The scale of samples relative to their case's median. What lies beyond is drawn at the edge."""

_LEGEND = alt.Legend(orient="bottom", columns=2, title=None, labelExpr=NAMES)


def family(case: Case) -> str:
    """The id of a case without its batch size, sequence length and threads."""
    return re.sub(r"-b\d+-s\d+-t\d+", "", case.id, count=1)


def _threads(case: Case) -> str:
    return f"{case.runtime.threads} thread{'s' if case.runtime.threads > 1 else ''}"


@in_one_check
def throughput(rows: Sequence[CaseRow]) -> ChartType:
    """A heat map of tokens/s over batch size and sequence length, one for each thread count."""
    rates = [row.tokens_per_s.value for row in rows]
    low, high = min(rates), max(rates)
    # Where one is ten times another, all others would have the colour of the slowest.
    scale: Literal["linear", "log"] = "linear" if high < 10 * low else "log"
    middle = (low + high) / 2 if scale == "linear" else math.sqrt(low * high)
    kinds = list(dict.fromkeys(family(row.case) for row in rows))
    rows = sorted(rows, key=lambda row: (kinds.index(family(row.case)), row.case.workload.batch_size))
    batches = names("batch").title("batch size" if len(kinds) == 1 else None)
    cells = chart_of(*(_cell(row, kind=len(kinds) > 1) for row in rows)).encode(
        alt.X("length:O").title("sequence length").axis(labelAngle=0), batches
    )
    fill = alt.Color("rate:Q").scale(scheme="viridis", type=scale).legend(title="tokens/s", format="~s")
    tips = tooltip("case", "tokens/s", "interval", "step time")
    # Viridis is dark at its low end and light at its high one.
    ink = alt.condition(f"datum.rate > {middle}", alt.value("black"), alt.value("white"))
    layers = alt.layer(
        cells.mark_rect(stroke="white").encode(fill, tooltip=tips), cells.mark_text().encode(text="label:N", color=ink)
    ).properties(width=alt.Step(110), height=alt.Step(40))
    best = max(rows, key=lambda row: row.tokens_per_s.value)
    return finished(
        layers.facet(column=alt.Column("threads:N").title(None).sort(None)),
        f"Up to {significant(high)} tokens/s, with {best.case.id}",
    )


def _cell(row: CaseRow, *, kind: bool) -> dict[str, Any]:
    rate, workload = row.tokens_per_s, row.case.workload
    return {
        "length": workload.seq_len,
        "batch": f"{family(row.case)}, batch {workload.batch_size}" if kind else str(workload.batch_size),
        "threads": _threads(row.case),
        "rate": rate.value,
        "label": significant(rate.value),
        "case": row.case.id,
        "tokens/s": significant(rate.value),
        "interval": f"{significant(rate.low)} to {significant(rate.high)}",
        "step time": duration(row.time_ns.value),
    }


@in_one_check
def scaling(rows: Sequence[CaseRow]) -> ChartType:
    """Speed-up over one thread against the number of threads, with the line of perfect scaling."""
    compared = [row for row in rows if row.speed_up is not None]
    counts = sorted({row.case.runtime.threads for row in compared})
    points = chart_of(*(_speed_up(row) for row in compared)).encode(
        alt.X("threads:Q").title("threads").axis(values=counts, format="d").scale(domain=[1, counts[-1]], nice=False),
        alt.Y("speed-up:Q").title("speed-up over one thread").scale(zero=False),
        alt.Color("workload:N").sort(None).scale(range=list(PALETTE)).legend(_LEGEND),
    )
    ideal = chart_of(*({"threads": count, "speed-up": count} for count in (1, counts[-1])))
    best = max(compared, key=lambda row: row.speed_up or 0)
    return finished(
        alt.layer(
            ideal.mark_line(color=GREY, strokeDash=[5, 4]).encode(x="threads:Q", y="speed-up:Q"),
            points.mark_line(),
            points.mark_point(filled=True, size=70, opacity=1).encode(tooltip=tooltip("case", "times", "efficiency")),
        ).properties(width=WIDTH * 0.7, height=260),
        f"{_threads(best.case)} are up to {ratio(best.speed_up)} times as fast as one",
        "Dashed: perfect scaling",
    )


def _speed_up(row: CaseRow) -> dict[str, Any]:
    workload = row.case.workload
    return {
        "threads": row.case.runtime.threads,
        "speed-up": row.speed_up,
        "workload": f"{family(row.case)}, batch {workload.batch_size} x {workload.seq_len}",
        "case": row.case.id,
        "times": ratio(row.speed_up),
        "efficiency": share(row.efficiency),
    }


@in_one_check
def samples(measurements: Sequence[Measurement]) -> ChartType:
    """Every sample of every case, in order, relative to its case's median. This shows drift and several modes."""
    return finished(
        alt.vconcat(*map(_samples, measurements), spacing=6),
        "Every timed step, in order",
        "Relative to the median of its case. Steps beyond the scale are drawn at its edge",
    )


def _samples(measurement: Measurement) -> ChartType:
    middle_ns = max(1.0, quantile(measurement.step_time_ns, 0.5))
    low, high = _SHOWN_RATIO
    # As CSV: there are thousands, and each would repeat the names of its fields.
    lines = (f"{number},{sample / middle_ns:.3f}" for number, sample in enumerate(measurement.step_time_ns, 1))
    data = alt.InlineData(values="\n".join(["step,ratio", *lines]), format=alt.CsvDataFormat(type="csv"))
    count = len(measurement.step_time_ns)
    x = alt.X("step:Q").title(None).scale(domain=[0, count + 1], nice=False)
    y = alt.Y("ratio:Q").title(None).scale(domain=[low, high], nice=False, clamp=True)
    y = y.axis(values=[low, 1, high], format=".1f", labelOverlap=False)
    points = alt.Chart(data).encode(x.axis(labels=False, ticks=False, grid=False), y)
    middle = chart_of({"ratio": 1}).mark_rule(color=VERMILLION).encode(y)
    title = f"{shorten(measurement.case.id, 70)}: {count:,} steps of {duration(middle_ns)}"
    layers = alt.layer(middle, points.mark_point(filled=True, size=16, opacity=0.7, color=BLUE))
    return layers.properties(width=WIDTH, height=44, title=alt.TitleParams(title, fontSize=11, fontWeight="normal"))


@in_one_check
def page_faults(rows: Sequence[CaseRow]) -> ChartType:
    """Minor page faults a step: memory that the allocator hands back and the kernel maps again."""
    most = max(row.measurement.minor_page_faults_per_step for row in rows)
    bars = chart_of(
        *(
            {
                "case": row.case.id,
                "faults": row.measurement.minor_page_faults_per_step,
                "text": significant(row.measurement.minor_page_faults_per_step),
            }
            for row in rows
        )
    ).encode(names("case"), alt.X("faults:Q").title("minor page faults per step"))
    return finished(
        alt.layer(bars.mark_bar(color=BLUE), value_texts(bars, "faults")).properties(
            width=BARS_WIDTH, height=alt.Step(20)
        ),
        f"Up to {significant(most)} page faults per step",
    )


@in_one_check
def ratios(comparison: Comparison) -> ChartType:
    """The ratio of every case to the first column, with its interval: a dot for each of the other columns."""
    first, *others = comparison.columns
    # A ratio without an interval is a dot without a bar.
    cells = [
        (row.case.id, name, *(cell.ratio.interval or Interval(*[cell.ratio.value] * 3)))
        for row in comparison.rows
        for name, cell in zip(comparison.columns, row.cells, strict=True)
        if cell.ratio
    ]
    rows = [
        {
            "case": case_id,
            "column": name,
            "ratio": value,
            "low": low,
            "high": high,
            "text": f"{value:.3f} ({low:.3f} to {high:.3f})" if low < high else f"{value:.3f}",
        }
        for case_id, name, value, low, high in cells
    ]
    ends = [
        min([1.0, *(low for *_, low, _ in cells)]) * 0.97,
        max([1.0, *(high for *_, high in cells)]) * 1.03,
    ]
    base = chart_of(*rows).encode(
        names("case"),
        alt.YOffset("column:N").sort(None),
        alt.Color("column:N").sort(None).scale(range=list(PALETTE)).legend(_LEGEND),
    )
    one = chart_of({"ratio": 1}).mark_rule(color=INK, strokeDash=[4, 3]).encode(x="ratio:Q")
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(
        alt.X("ratio:Q").title(f"time per token, relative to {first}").scale(type="log", domain=ends, nice=False),
        tooltip=tooltip("case", "column", "text"),
    )
    bars = base.mark_rule(strokeWidth=2).encode(alt.X("low:Q"), alt.X2("high:Q"))
    return finished(
        alt.layer(one, bars, dots).properties(width=BARS_WIDTH, height=alt.Step(22 if len(others) == 1 else 14)),
        f"{', '.join(others)} over {first}",
        f"Left of the dashed line: faster than {first}",
    )


def charts_of(run: Run, tables: Tables) -> dict[str, ChartType]:
    """The charts of a sweep by name, in the order of :data:`~ntp.report.markdown.PICTURES`, without empty ones."""
    rows = list({row.case: row for row in tables.steps}.values())  # a case that was measured twice is one mark
    whole = [measurement for measurement in run.measurements if measurement.case.workload.part == "step"]
    observations = {row.case.id: row.measurement.observations for row in rows}
    drawn: dict[str, ChartType] = {}
    if rows:
        drawn["throughput"] = throughput(rows)
        if any(row.case.runtime.threads > 1 and row.speed_up is not None for row in rows):
            drawn["scaling"] = scaling(rows)
        drawn["samples"] = samples(whole)
        if any(row.measurement.minor_page_faults_per_step for row in rows):
            drawn["faults"] = page_faults(rows)
    if phases := {case_id: passes.phases for case_id, passes in observations.items() if passes.phases}:
        drawn["phases"] = phase_shares(phases)
    if run.peaks and (points := list(_points(run.peaks, whole))):
        drawn["roofline"] = roofline(run.peaks, points)
    if memory := {case_id: passes.memory for case_id, passes in observations.items() if passes.memory}:
        drawn["memory"] = peak_compositions(memory)
    return drawn


def _points(peaks: MachinePeaks, whole: Sequence[Measurement]) -> Iterator[tuple[str, RooflinePoint]]:
    for measurement in whole:
        point = step_point(measurement, peaks.at(measurement.case.runtime.threads))
        if point and point.intensity_flops_per_byte is not None:
            yield measurement.case.id, point


def pictures(run: Run) -> dict[str, str]:
    """The charts of a sweep as SVG, by the names of their files."""
    return {f"{name}.svg": svg(chart) for name, chart in charts_of(run, tables_of(run)).items()}
