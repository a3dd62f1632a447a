"""A run for the terminal, in lines of at most :data:`WIDTH` characters."""

import textwrap

from tabulate import SEPARATING_LINE, tabulate

from ntp.lines import one_line, shorten
from ntp.records.run import Run
from ntp.report.columns import Table
from ntp.report.sentences import (
    NAMED,
    answer,
    failure_message,
    grouped,
    machine_lines,
    noise_line,
    plain_lines,
    time_line,
)
from ntp.report.sweep_columns import GROWTHS, PARTS, STEPS, WHY
from ntp.report.tables import Tables, tables_of

WIDTH = 100
"""No line of a report is longer."""

_ID_WIDTH = 60
"""Longer case ids are shortened where they stand in a sentence."""

_STEPS_NOTE = """\
Step time: mean over processes of their median steps, with its 95% interval within this run. Steps: processes x steps
of each; p95 is of all of them."""
_WHY_NOTE = """\
Of peak: share of the fastest fp32 product measured here with as many threads. Phases: shares of the step's time.
Tensors: their peak memory. Faults: minor page faults per step."""


def terminal(run: Run) -> str:
    """The answer first, then tables, failures and warnings."""
    tables = tables_of(run)
    sections = [
        "\n".join(wrapped(line) for line in answer(run, tables, lambda case_id: shorten(case_id, _ID_WIDTH))),
        _plain(run, tables),
        table_text(Table(STEPS, tables.steps), _STEPS_NOTE),
        wrapped(noise_line(tables)),
        table_text(Table(WHY, tables.why), _WHY_NOTE),
        table_text(Table(GROWTHS, tables.growths)),
        table_text(Table(PARTS, tables.parts)),
        _failures(run),
        _warnings(tables),
        "\n".join(wrapped(line) for line in machine_lines(run.peaks)),
        wrapped(time_line(tables.time)) if run.measurements else "",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _plain(run: Run, tables: Tables) -> str:
    sentence, lines = plain_lines(run, tables, lambda case_id: shorten(case_id, _ID_WIDTH))
    shown = [one_line(line) for line in lines]
    # A line that is too long is cut where a reader sees it; the reports have it whole.
    return "\n".join([wrapped(sentence), *(f"    {shorten(line, WIDTH - 4)}" for line in shown)])


def wrapped(text: str, indent: str = "", first: str = "", width: int = WIDTH) -> str:
    """Lines of ``width`` characters at most, indented: the first by ``first``, the others by ``indent``."""
    return textwrap.fill(one_line(text), width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)


def table_text(table: Table, note: str = "") -> str:
    """A table, if it has rows, and a note right below it. Its first column is shortened until the others fit."""
    if not table.rows:
        return ""
    table = table.in_format("terminal")
    titles, rows = table.titles, [[column.shown(row) for column in table.columns] for row in table.rows]
    others = sum(max(len(line[column]) for line in (titles, *rows)) + 2 for column in range(1, len(titles)))
    fitted = [(shorten(first, WIDTH - others), *cells) for first, *cells in rows]
    # The titles as a row: tabulate makes columns of proper headers two characters wider.
    alignment = ["left"] + ["right"] * (len(titles) - 1)
    text = tabulate([titles, SEPARATING_LINE, *fitted], tablefmt="simple", disable_numparse=True, colalign=alignment)
    return f"{text}\n{wrapped(note)}" if note else text


def _failures(run: Run) -> str:
    lines = [
        wrapped(f"- {shorten(failure.case_id, _ID_WIDTH)}: {failure_message(failure)}", "  ")
        for failure in run.failures
    ]
    return "\n".join(["Failed:", *lines]) if lines else ""


def _warnings(tables: Tables) -> str:
    lines = []
    for warning, messages in grouped(tables):
        lines.append(wrapped(f"- {warning.kind}: {warning.advice}", "  "))
        lines += [
            wrapped(f"{shorten(case_id, _ID_WIDTH)}: {message}", "      ", first="    ")
            for case_id, message in messages[:NAMED]
        ]
        if len(messages) > NAMED:
            lines.append(f"    and {len(messages) - NAMED} more")
    return "\n".join(["Warnings:", *lines]) if lines else ""
