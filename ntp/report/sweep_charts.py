"""Charts that compare the cases of a whole sweep. The charts of one case are in :mod:`ntp.report.charts`."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt
from altair.typing import ChartType

from ntp.case import Case
from ntp.judge.bottleneck import step_point
from ntp.judge.compare import Comparison
from ntp.judge.statistics import Interval
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
    WIDTH,
    chart_of,
    finished,
    in_one_check,
    names,
    svg,
    tooltip,
    value_texts,
)
from ntp.report.process_charts import processes, samples
from ntp.report.tables import CaseRow, Tables, tables_of
from ntp.report.units import duration, ratio, share, significant

_LEGEND = alt.Legend(orient="bottom", columns=2, title=None, labelExpr=NAMES)


def family(case: Case) -> str:
    """The id of a case without its batch size, sequence length and threads."""
    return re.sub(r"-b\d+-s\d+-t\d+", "", case.id, count=1)


def _threads(case: Case) -> str:
    return f"{case.runtime.threads} thread{'s' if case.runtime.threads > 1 else ''}"


@in_one_check
def throughput(rows: Sequence[CaseRow]) -> ChartType:
    """Tokens/s of every case, with its interval: a row for each size, a colour for each number of threads."""
    threads = list(dict.fromkeys(_threads(row.case) for row in sorted(rows, key=lambda row: row.case.runtime.threads)))
    sizes = list(dict.fromkeys(_size(row.case) for row in rows))
    base = chart_of(*(_rate(row) for row in sorted(rows, key=lambda row: sizes.index(_size(row.case))))).encode(
        names("size"),
        alt.YOffset("threads:N").sort(threads),
        alt.Color("threads:N").scale(domain=threads, range=list(PALETTE)).legend(_LEGEND),
    )
    x = alt.X("rate:Q").title("tokens/s").axis(format="~s").scale(zero=False)
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(
        x, tooltip=tooltip("case", "tokens/s", "interval", "step time")
    )
    best = max(rows, key=lambda row: row.tokens_per_s)
    return finished(
        alt.layer(_bars(base), dots).properties(
            width=BARS_WIDTH, height=alt.Step(max(22, 14 * len(threads)), **{"for": "position"})
        ),
        f"Up to {significant(best.tokens_per_s)} tokens/s, with {best.case.id}",
        _INTERVALS if any(row.level.interval for row in rows) else "",
    )


_INTERVALS = "Bars: 95% intervals over processes, within this run"


def _bars(base: alt.Chart) -> alt.Chart:
    """The interval of each row that has one, in the fields ``low`` and ``high``."""
    bars: alt.Chart = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
    return bars.encode(alt.X("low:Q"), alt.X2("high:Q"))


def _size(case: Case) -> str:
    return f"{family(case)}, {_batch(case)}"


def _batch(case: Case) -> str:
    return f"batch {case.workload.batch_size} x {case.workload.seq_len}"


def _rate(row: CaseRow) -> dict[str, Any]:
    rate = row.tokens_per_s_interval
    return {
        "size": _size(row.case),
        "threads": _threads(row.case),
        "rate": row.tokens_per_s,
        "low": rate and rate.low,
        "high": rate and rate.high,
        "case": row.case.id,
        "tokens/s": significant(row.tokens_per_s),
        "interval": f"{significant(rate.low)} to {significant(rate.high)}" if rate else "unknown",
        "step time": duration(row.time_ns),
    }


@in_one_check
def scaling(rows: Sequence[CaseRow]) -> ChartType:
    """Speed-up over one thread against the number of threads, with its interval and the line of perfect scaling."""
    compared = [row for row in rows if row.speed_up is not None]
    counts = sorted({row.case.runtime.threads for row in compared})
    workloads = list(dict.fromkeys(_size(row.case) for row in compared))
    # Intervals at the same place would hide each other: those of each workload are a little aside.
    apart = (counts[-1] - 1) / max(60, 10 * len(workloads))
    points = chart_of(
        *(
            _speed_up(row, aside=apart * (workloads.index(_size(row.case)) - (len(workloads) - 1) / 2))
            for row in compared
        )
    ).encode(
        alt.Color("workload:N").sort(None).scale(range=list(PALETTE)).legend(_LEGEND),
    )
    x = alt.X("at:Q").title("threads").axis(values=counts, format="d")
    x = x.scale(domain=[1, counts[-1]], nice=False, padding=24)
    y = alt.Y("speed-up:Q").title("speed-up over one thread").scale(zero=False)
    ideal = chart_of(*({"at": count, "speed-up": count} for count in (1, counts[-1])))
    best = max(compared, key=lambda row: row.speed_up.value if row.speed_up else 0)
    bars = points.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
    return finished(
        alt.layer(
            ideal.mark_line(color=GREY, strokeDash=[5, 4]).encode(x, y),
            points.mark_line(opacity=0.4).encode(x, y),
            bars.encode(x, alt.Y("low:Q"), alt.Y2("high:Q")),
            points.mark_point(filled=True, size=70, opacity=1).encode(
                x, y, tooltip=tooltip("case", "times", "efficiency")
            ),
        ).properties(width=WIDTH * 0.7, height=260),
        f"{_threads(best.case)} are up to {ratio(best.speed_up and best.speed_up.value)} times as fast as one",
        "Dashed: perfect scaling. " + (_INTERVALS if any(row.level.interval for row in compared) else ""),
    )


def _speed_up(row: CaseRow, aside: float) -> dict[str, Any]:
    assert row.speed_up is not None
    interval = row.speed_up.interval
    between = f" ({ratio(interval.low)} to {ratio(interval.high)})" if interval else ""
    return {
        "at": row.case.runtime.threads + aside,
        "speed-up": row.speed_up.value,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "workload": _size(row.case),
        "case": row.case.id,
        "times": f"{ratio(row.speed_up.value)}{between}",
        "efficiency": share(row.efficiency),
    }


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
        if any(len(row.measurement.processes) > 1 for row in rows):
            drawn["processes"] = processes(rows, tables.spreads)
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
