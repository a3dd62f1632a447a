"""Runs as self-contained web pages, which need no network and no server: the answer, then charts, then tables."""

import shlex
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ntp.judge.compare import Comparison
from ntp.records.run import Measurement, Run, WarmUp
from ntp.report import charts, document, sweep_charts
from ntp.report import comparison as comparisons
from ntp.report.columns import Table
from ntp.report.facts import Fact, hardware_facts, process_facts, software_facts
from ntp.report.markdown import PICTURES
from ntp.report.sentences import (
    answer,
    failure_message,
    grouped,
    machine_lines,
    noise_line,
    plain_lines,
    time_line,
)
from ntp.report.sweep_columns import PARTS, STEPS, WHY
from ntp.report.tables import CaseRow, Tables, surroundings, tables_of
from ntp.report.text import csv
from ntp.report.units import duration
from ntp.report.web import Figure, figure, render


class CaseView(NamedTuple):
    """A row of a table, and what is shown below it when it is opened."""

    row: CaseRow
    figures: tuple[Figure, ...]
    flame: str
    """The flame graph as a data URL; empty if there is none."""
    facts: tuple[Fact, ...]


def page(run: Run, flames: Mapping[str, str] | None = None) -> str:
    """The whole page. The same run always gives the same page.

    Args:
        run: what was measured.
        flames: flame graphs as SVG, by the names that the run gives them. Others are left out.
    """
    tables = tables_of(run)
    plain, environment = plain_lines(run, tables, str)
    return render(
        "sweep.html",
        title=f"Training step times, {run.started}",
        answer=list(answer(run, tables, str)),
        plain=plain,
        environment="\n".join(environment),
        noise=noise_line(tables),
        warnings=grouped(tables),
        machine_lines=list(machine_lines(run.peaks)),
        figures=list(_figures(run, tables)),
        step_table=Table((*STEPS, *WHY[1:]), tables.steps).in_format("html"),
        steps=[_view(row, flames or {}) for row in tables.steps],
        part_table=Table(PARTS, tables.parts).in_format("html"),
        parts=[_view(row, {}) for row in tables.parts],
        failures=[(failure.case_id, failure_message(failure), failure.stderr_tail) for failure in run.failures],
        time=time_line(tables.time) if run.measurements else "",
        # Where the work tree changed during the sweep, commits differ; the machine is still described once.
        surroundings=list(
            dict.fromkeys(
                (_told(hardware_facts(machine)), _told((*software_facts(software), ("Commit", git.commit))))
                for machine, software, git in surroundings(run)
            )
        ),
        command=shlex.join(run.command),
        csv=csv(run),
    )


def _figures(run: Run, tables: Tables) -> Iterator[Figure]:
    for name, chart in sweep_charts.charts_of(run, tables).items():
        yield figure(f"sweep-{name}", PICTURES[name], chart)


def _view(row: CaseRow, flames: Mapping[str, str]) -> CaseView:
    flame = row.observations.flame
    svg = flames.get(flame.svg or "", "") if flame else ""
    return CaseView(
        row=row,
        figures=tuple(_case_figures(row.measurement)),
        # It is shown in a frame of its own: its script was written for a whole document.
        flame=f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}" if svg else "",
        facts=_told(_case_facts(row.measurement)),
    )


def _case_figures(measurement: Measurement) -> Iterator[Figure]:
    observations, name = measurement.observations, measurement.case.id
    yield figure(f"{name}-samples", "Samples", charts.step_times(measurement))
    if observations.operators:
        yield figure(f"{name}-operators", "Operators", charts.operator_times(observations.operators))
    if observations.memory:
        yield figure(f"{name}-memory", "Memory", charts.memory_timeline(observations.memory))


def _case_facts(measurement: Measurement) -> Iterator[Fact]:
    processes, usage = measurement.processes, measurement.usage
    yield "Parameters", " ".join((f"{measurement.parameters:,}", *measurement.parameter_dtypes))
    yield "Processes", ", ".join(f"{duration(process.median_ns)} (round {process.round})" for process in processes)
    yield "Warm-up", _warm_ups([process.warm_up for process in processes])
    if compiling_ns := [step_ns for process in processes for step_ns in process.warm_up.compiling_step_ns]:
        yield "Compiling", f"{duration(sum(compiling_ns) / len(processes))} in each process"
    yield "Page faults", f"{usage.minor_page_faults:,} minor, {usage.major_page_faults:,} major, in total"
    yield from process_facts(measurement.environment.process)


def _warm_ups(warm_ups: Sequence[WarmUp]) -> str:
    steps = [len(warm_up.step_time_ns) for warm_up in warm_ups]
    total_ns = sum(warm_up.wall_time_ns for warm_up in warm_ups)
    text = f"{_range(steps)} step{'s' if max(steps) > 1 else ''}, {duration(total_ns / len(warm_ups))} a process"
    unsteady = sum(not warm_up.steady for warm_up in warm_ups)
    return f"{text}; not steady in {unsteady} of {len(warm_ups)}" if unsteady else text


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _told(facts: Sequence[Fact] | Iterator[Fact]) -> tuple[Fact, ...]:
    return tuple((name, text) for name, text in facts if text)


def comparison_page(comparison: Comparison, command: Sequence[str]) -> str:
    """Runs side by side as one page."""
    figures = [figure("ratios", "Ratios", sweep_charts.ratios(comparison))] if comparison.rows else []
    title = " against ".join(comparison.columns)
    return document.html(comparisons.report(comparison), title, command, figures, comparisons.csv(comparison))
