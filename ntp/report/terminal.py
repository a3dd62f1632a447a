"""A run for the terminal: no line longer than :data:`WIDTH`."""

import textwrap
from collections.abc import Sequence

from tabulate import SEPARATING_LINE, tabulate

from ntp.judge.statistics import Interval
from ntp.lines import one_line, shorten
from ntp.records.run import Run
from ntp.report.sentences import (
    GROWTH_HEADERS,
    NAMED,
    WHY_PHASES,
    answer,
    failure_message,
    grouped,
    growth_rows,
    machine_lines,
    time_line,
    why_shares,
)
from ntp.report.tables import Tables, tables_of
from ntp.report.units import UNKNOWN, duration, ratio, share, significant, size

WIDTH = 100
"""Columns of the terminal that a report uses at most."""

_ID_WIDTH = 60
"""Of a case id in a sentence."""


def terminal(run: Run) -> str:
    """The answer, the tables, what failed, what casts doubt. Long case ids are shortened in the middle."""
    tables = tables_of(run)
    sections = [
        "\n".join(wrapped(line) for line in answer(run, tables, lambda case_id: shorten(case_id, _ID_WIDTH))),
        _steps(tables),
        _why(tables),
        _growths(tables),
        _parts(tables),
        _failures(run),
        _warnings(tables),
        "\n".join(wrapped(line) for line in machine_lines(run.peaks)),
        wrapped(time_line(tables.time)) if run.measurements else "",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def wrapped(text: str, indent: str = "", first: str = "", width: int = WIDTH) -> str:
    """Lines of ``width`` characters at most, indented: the first by ``first``, the others by ``indent``."""
    return textwrap.fill(one_line(text), width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)


def id_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column, of case ids, gives way until the others fit."""
    others = sum(max(len(row[column]) for row in (headers, *rows)) + 2 for column in range(1, len(headers)))
    fitted = [(shorten(case_id, WIDTH - others), *cells) for case_id, *cells in rows]
    # The headers as a row: tabulate makes columns of proper headers two characters wider.
    lines = [headers, SEPARATING_LINE, *fitted]
    return tabulate(lines, tablefmt="simple", disable_numparse=True, colalign=_alignment(headers))


def _alignment(headers: Sequence[str]) -> list[str]:
    return ["left"] + ["right"] * (len(headers) - 1)


def _growths(tables: Tables) -> str:
    rows = list(growth_rows(tables))
    return id_table(GROWTH_HEADERS, rows) if rows else ""


def _plus_minus(interval: Interval) -> str:
    farther = max(interval.high - interval.value, interval.value - interval.low)
    return f"±{share(farther / interval.value)}"


def _steps(tables: Tables) -> str:
    if not tables.steps:
        return ""
    headers = ("case", "step time", "±95%", "p95", "tokens/s", "speed-up", "effic.", "peak RSS", "steps")
    rows = [
        (
            row.case.id,
            duration(row.step_time_ns.value),
            _plus_minus(row.step_time_ns),
            duration(row.step_time_p95_ns),
            significant(row.tokens_per_s.value),
            ratio(row.speed_up),
            share(row.efficiency),
            size(row.peak_rss_bytes),
            f"{row.samples:,}",
        )
        for row in tables.steps
    ]
    note = "Step time: median over the steps of one process, with its 95% interval. Runs differ by more."
    return f"{id_table(headers, rows)}\n{wrapped(note)}"


def _why(tables: Tables) -> str:
    if not tables.why:
        return ""
    headers = ("why", "GFLOP/s", "of peak", *WHY_PHASES, "rest", "tensors", "faults")
    rows = [
        (
            row.case.id,
            UNKNOWN if row.achieved_flops_per_s is None else significant(row.achieved_flops_per_s / 1e9),
            share(row.share_of_peak),
            *map(share, why_shares(row)),
            UNKNOWN if row.peak_tensor_bytes is None else size(row.peak_tensor_bytes),
            significant(row.minor_page_faults_per_step),
        )
        for row in tables.why
    ]
    note = (
        "Of peak: of the fastest fp32 product measured here with as many threads. Phases: of the step's time. "
        "Tensors: their peak. Faults: minor page faults a step."
    )
    return f"{id_table(headers, rows)}\n{wrapped(note)}"


def _parts(tables: Tables) -> str:
    if not tables.parts:
        return ""
    headers = ("part of a step", "time", "±95%", "p95", "of the step", "steps")
    rows = [
        (
            row.case.id,
            duration(row.part_time_ns.value),
            _plus_minus(row.part_time_ns),
            duration(row.part_time_p95_ns),
            share(row.share_of_step),
            f"{row.samples:,}",
        )
        for row in tables.parts
    ]
    return id_table(headers, rows)


def _failures(run: Run) -> str:
    lines = [
        wrapped(f"- {shorten(failure.case_id, _ID_WIDTH)}: {failure_message(failure)}", "  ")
        for failure in run.failures
    ]
    return "\n".join(["Failed:", *lines]) if lines else ""


def _warnings(tables: Tables) -> str:
    lines = []
    for warning, seen in grouped(tables):
        lines.append(wrapped(f"- {warning.kind}: {warning.advice}", "  "))
        lines += [
            wrapped(f"{shorten(case_id, _ID_WIDTH)}: {message}", "      ", first="    ")
            for case_id, message in seen[:NAMED]
        ]
        if len(seen) > NAMED:
            lines.append(f"    and {len(seen) - NAMED} more")
    return "\n".join(["Warnings:", *lines]) if lines else ""
