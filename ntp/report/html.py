"""Runs as web pages that need nothing else, no network, no server: the answer, then pictures, then tables."""

import shlex
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ntp.judge.compare import ComparedRow, Comparison
from ntp.judge.warnings import warnings_of
from ntp.records.run import Measurement, Run
from ntp.report import charts, sweep_charts
from ntp.report.comparison import BEST, headers, notes, ratio_cells
from ntp.report.comparison import answer as answer_of_comparison
from ntp.report.comparison import csv as comparison_csv
from ntp.report.facts import Fact, hardware_facts, process_facts, software_facts
from ntp.report.markdown import PICTURES
from ntp.report.sentences import WHY_PHASES, answer, failure_message, grouped, machine_lines, time_line, why_shares
from ntp.report.tables import StepRow, Tables, WhyRow, surroundings, tables_of
from ntp.report.text import csv
from ntp.report.units import UNKNOWN, duration, durations, ratio, share, significant, size
from ntp.report.web import Cell, Figure, figure, render


class CaseView(NamedTuple):
    """A case, opened: everything about it that the tables have no room for."""

    case_id: str
    cells: tuple[Cell, ...]
    figures: tuple[Figure, ...]
    flame: str
    """Its flame graph as a data URL; empty without one."""
    facts: tuple[Fact, ...]
    warnings: tuple[str, ...]


STEP_HEADERS = (
    *("step time", "95% interval", "p95", "tokens/s", "speed-up", "efficiency", "peak RSS", "steps"),
    *("GFLOP/s", "of peak", *WHY_PHASES, "rest", "peak tensors", "faults"),
)
PART_HEADERS = ("time", "95% interval", "p95", "of the step", "steps")


def page(run: Run, flames: Mapping[str, str] | None = None) -> str:
    """The whole page. The same run gives the same page.

    Args:
        run: what was measured.
        flames: flame graphs as SVG, by the names that the run has for them. Those it does not name are left out.
    """
    tables = tables_of(run)
    whole = [each for each in run.measurements if each.case.workload.part == "step"]
    parts = [each for each in run.measurements if each.case.workload.part != "step"]
    why = {row.case: row for row in tables.why}
    return render(
        "sweep.html",
        title=f"Training step times, {run.started}",
        answer=list(answer(run, tables, str)),
        warnings=grouped(tables),
        machine_lines=list(machine_lines(run.peaks)),
        figures=list(_figures(run, tables)),
        step_headers=STEP_HEADERS,
        steps=[
            _step_view(row, why.get(row.case), each, flames or {})
            for row, each in zip(tables.steps, whole, strict=True)
        ],
        part_headers=PART_HEADERS,
        parts=[_part_view(tables, index, each) for index, each in enumerate(parts)],
        failures=[(failure.case_id, failure_message(failure), failure.stderr_tail) for failure in run.failures],
        time=time_line(tables.time) if run.measurements else "",
        # Commits differ where the work tree changed during the sweep: the machine is described once all the same.
        surroundings=list(
            dict.fromkeys(
                (_known(hardware_facts(machine)), _known((*software_facts(software), ("Commit", git.commit))))
                for machine, software, git in surroundings(run)
            )
        ),
        command=shlex.join(run.command),
        csv=csv(run),
    )


def _figures(run: Run, tables: Tables) -> Iterator[Figure]:
    for name, chart in sweep_charts.charts_of(run, tables).items():
        yield figure(f"sweep-{name}", PICTURES[name], chart)


def _step_view(row: StepRow, why: WhyRow | None, measurement: Measurement, flames: Mapping[str, str]) -> CaseView:
    cells = (
        Cell(duration(row.step_time_ns.value), row.step_time_ns.value),
        Cell(durations(row.step_time_ns.low, row.step_time_ns.high), row.step_time_ns.high - row.step_time_ns.low),
        Cell(duration(row.step_time_p95_ns), row.step_time_p95_ns),
        Cell(significant(row.tokens_per_s.value), row.tokens_per_s.value),
        Cell(ratio(row.speed_up), _or_nothing(row.speed_up)),
        Cell(share(row.efficiency), _or_nothing(row.efficiency)),
        Cell(size(row.peak_rss_bytes), row.peak_rss_bytes),
        Cell(f"{row.samples:,}", row.samples),
        *_why_cells(row, why),
    )
    flame = measurement.observations.flame
    return _view(measurement, cells, flames.get(flame.svg or "", "") if flame else "")


def _why_cells(row: StepRow, why: WhyRow | None) -> Iterator[Cell]:
    """GFLOP/s, share of the peak, phases, memory, faults."""
    rate = why.achieved_flops_per_s if why else None
    yield Cell(UNKNOWN if rate is None else significant(rate / 1e9), _or_nothing(rate))
    yield Cell(share(why.share_of_peak if why else None), _or_nothing(why.share_of_peak if why else None))
    for part in why_shares(why) if why else [None] * (len(WHY_PHASES) + 1):
        yield Cell(share(part), _or_nothing(part))
    peak = why.peak_tensor_bytes if why else None
    yield Cell(UNKNOWN if peak is None else size(peak), _or_nothing(peak))
    yield Cell(significant(row.minor_page_faults_per_step), row.minor_page_faults_per_step)


def _part_view(tables: Tables, index: int, measurement: Measurement) -> CaseView:
    row = tables.parts[index]
    cells = (
        Cell(duration(row.part_time_ns.value), row.part_time_ns.value),
        Cell(durations(row.part_time_ns.low, row.part_time_ns.high), row.part_time_ns.high - row.part_time_ns.low),
        Cell(duration(row.part_time_p95_ns), row.part_time_p95_ns),
        Cell(share(row.share_of_step), _or_nothing(row.share_of_step)),
        Cell(f"{row.samples:,}", row.samples),
    )
    return _view(measurement, cells)


def _or_nothing(value: float | None) -> float | str:
    return "" if value is None else value


def _view(measurement: Measurement, cells: tuple[Cell, ...], flame: str = "") -> CaseView:
    return CaseView(
        case_id=measurement.case.id,
        cells=cells,
        figures=tuple(_case_figures(measurement)),
        # In a frame of its own, where its script finds the document that it was written for.
        flame=f"data:image/svg+xml;base64,{b64encode(flame.encode()).decode()}" if flame else "",
        facts=_known(_case_facts(measurement)),
        warnings=tuple(f"{each.kind}: {each.message}. {each.advice}" for each in warnings_of(measurement)),
    )


def _case_figures(measurement: Measurement) -> Iterator[Figure]:
    """What is drawn when a case is opened."""
    seen, name = measurement.observations, measurement.case.id
    yield figure(f"{name}-samples", "Samples", charts.step_times(measurement))
    if seen.operators:
        yield figure(f"{name}-operators", "Operators", charts.operator_times(seen.operators))
    if seen.memory:
        yield figure(f"{name}-memory", "Memory", charts.memory_timeline(seen.memory))


def _case_facts(measurement: Measurement) -> Iterator[Fact]:
    warm_up = measurement.warm_up
    steady = "steady" if warm_up.steady else "not steady when the cap was reached"
    yield "Parameters", " ".join((f"{measurement.parameters:,}", *measurement.parameter_dtypes))
    yield "Warm-up", f"{len(warm_up.step_time_ns)} steps, {steady}"
    if warm_up.compiling_step_ns:
        yield "Compiling", duration(sum(warm_up.compiling_step_ns))
    yield "Page faults", f"{measurement.minor_page_faults:,} minor, {measurement.major_page_faults:,} major, in all"
    yield from process_facts(measurement.environment.process)


def _known(facts: Sequence[Fact] | Iterator[Fact]) -> tuple[Fact, ...]:
    return tuple((name, text) for name, text in facts if text)


def comparison_page(comparison: Comparison, command: Sequence[str]) -> str:
    """Runs side by side as one page."""
    return render(
        "comparison.html",
        title=" against ".join(comparison.columns),
        answer=list(answer_of_comparison(comparison)),
        notes=list(notes(comparison)),
        headers=headers(comparison)[1:],
        rows=[(row.case.id, list(_compared_cells(row))) for row in comparison.rows],
        figures=[figure("ratios", "Ratios", sweep_charts.ratios(comparison))] if comparison.rows else [],
        command=shlex.join(command),
        csv=comparison_csv(comparison),
    )


def _compared_cells(row: ComparedRow) -> Iterator[Cell]:
    for number, cell in enumerate(row.cells):
        mark = f" {BEST}" if number == row.best else ""
        yield Cell(f"{duration(cell.time_ns.value)}{mark}", cell.time_ns.value)
        if cell.ratio:
            value, between = ratio_cells(cell.ratio)
            yield Cell(value, cell.ratio.value)
            yield Cell(between, cell.ratio.high - cell.ratio.low)
