"""Runs side by side: for the terminal, as Markdown, CSV and a web page."""

from collections.abc import Callable, Iterator
from typing import Any

from ntp.judge.compare import FEW_SAMPLES, ComparedRow, Comparison
from ntp.judge.statistics import Interval
from ntp.report.markup import code, prose, table
from ntp.report.spreadsheet import csv_text
from ntp.report.terminal import id_table, wrapped
from ntp.report.units import duration

BEST = "*"
"""Marks the fastest of a row."""


def terminal(comparison: Comparison) -> str:
    """The answer, the table, what is missing and what differs."""
    lines = [wrapped(line) for line in answer(comparison)]
    if comparison.rows:
        lines += ["", id_table(headers(comparison), list(_rows(comparison)))]
    return "\n".join([*lines, *(wrapped(f"- {note}", "  ") for note in notes(comparison))]) + "\n"


def markdown(comparison: Comparison) -> str:
    """The same as Markdown."""
    parts = [f"**{prose(line)}**" for line in answer(comparison)]
    if comparison.rows:
        rows = [(code(case_id), *map(prose, cells)) for case_id, *cells in _rows(comparison)]
        parts.append(table(tuple(map(prose, headers(comparison))), rows))
    parts.append("\n".join(f"- {prose(note)}" for note in notes(comparison)))
    return "\n\n".join(filter(None, parts)) + "\n"


CSV_COLUMNS = (
    *("case_id", "column", "step_time_median_ns", "step_time_low_ns", "step_time_high_ns", "tokens_per_s"),
    *("ratio", "ratio_low", "ratio_high", "samples", "best"),
)


def csv(comparison: Comparison) -> str:
    """A row for each case and column; the ratios of the first column are empty."""
    return csv_text(CSV_COLUMNS, (record for row in comparison.rows for record in _records(comparison, row)))


def _records(comparison: Comparison, row: ComparedRow) -> Iterator[dict[str, Any]]:
    for number, (name, cell) in enumerate(zip(comparison.columns, row.cells, strict=True)):
        values = (
            *(row.case.id, name, *cell.time_ns, cell.tokens_per_s),
            *(cell.ratio or ("", "", "")),
            *(cell.samples, number == row.best),
        )
        yield dict(zip(CSV_COLUMNS, values, strict=True))


FORMATS: dict[str, Callable[[Comparison], str]] = {"terminal": terminal, "markdown": markdown, "csv": csv}
"""What ``ntp compare --format`` can write, but for the web page."""


def headers(comparison: Comparison) -> tuple[str, ...]:
    """Of the table: time and ratio of every column, the first one's ratio excepted."""
    first, *others = comparison.columns
    return ("case", first, *(header for name in others for header in (name, f"/ {first}", "95% interval")))


def _rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    for row in comparison.rows:
        cells = []
        for number, cell in enumerate(row.cells):
            cells.append(f"{duration(cell.time_ns.value)}{f' {BEST}' if number == row.best else ''}")
            cells += ratio_cells(cell.ratio) if cell.ratio else ()
        yield (row.case.id, *cells)


def ratio_cells(ratio: Interval) -> tuple[str, str]:
    """A ratio, and its interval."""
    return f"{ratio.value:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}"


def answer(comparison: Comparison) -> Iterator[str]:
    """What is compared, and how far it differs."""
    first, *others = comparison.columns
    if not comparison.rows:
        yield "These runs have no case in common: nothing can be compared."
        return
    for setting in comparison.settings:
        yield f"{setting.field.replace('_', ' ')}: {' -> '.join(setting.values)}."
    count = len(comparison.rows)
    for number, name in enumerate(others, 1):
        ratios = sorted(row.cells[number].ratio or Interval(1, 1, 1) for row in comparison.rows)
        low, high = ratios[0].value, ratios[-1].value
        between = f"{low:.3f} to {high:.3f}" if count > 1 else f"{low:.3f}"
        yield f"In {count} case{'s' if count > 1 else ''}, {name} takes {between} times as long a token as {first}."
    wins = [sum(row.best == number for row in comparison.rows) for number in range(len(comparison.columns))]
    if len(others) > 1:
        most = max(range(len(wins)), key=wins.__getitem__)
        yield f"Most often the fastest: {comparison.columns[most]}, in {wins[most]} of {count}."


def notes(comparison: Comparison) -> Iterator[str]:
    """What is missing, and what casts doubt."""
    for name, ids in comparison.alone:
        yield f"in {name}, but not in all: {', '.join(ids)}"
    for difference in comparison.differences:
        first = comparison.columns[0]
        yield f"not the {difference} (against {first}). This compares them, and not the code alone"
    if comparison.few:
        yield f"fewer than {FEW_SAMPLES} samples: {', '.join(comparison.few)}"
    if comparison.rows:
        yield f"{BEST} the fastest of its row. Ratios are of the time a token takes"
        yield "an interval speaks of the steps of these processes; others of the same code differ by more"
