"""The report of runs side by side, and its CSV."""

from collections.abc import Iterator
from typing import Any

from ntp.judge.compare import FEW_SAMPLES, ComparedRow, Comparison
from ntp.judge.statistics import Interval
from ntp.report.columns import Column, Table
from ntp.report.document import Report
from ntp.report.spreadsheet import csv_text
from ntp.report.units import duration
from ntp.report.verdicts import counted

BEST = "*"
"""Marks the fastest of a row."""


def report(comparison: Comparison) -> Report:
    table = Table(list(_columns(comparison)), comparison.rows)
    return Report(list(_answer(comparison)), [table], list(_notes(comparison)), tight=True)


def _columns(comparison: Comparison) -> Iterator[Column[ComparedRow]]:
    yield Column("case", lambda row: row.case.id, is_code=True)
    for number, name in enumerate(comparison.columns):
        yield from _columns_of(number, name, comparison.columns[0])


def _columns_of(number: int, name: str, first: str) -> Iterator[Column[ComparedRow]]:
    """Show the time of one run, and, but for the first, its ratio to the first."""

    def time(row: ComparedRow) -> str:
        return f"{duration(row.cells[number].time_ns.value)}{f' {BEST}' if number == row.best else ''}"

    def ratio(row: ComparedRow) -> Interval:
        return row.cells[number].ratio or Interval(1, 1, 1)

    yield Column(name, time, by=lambda row: row.cells[number].time_ns.value)
    if number:
        yield Column(f"/ {first}", lambda row: ratio(row).value, "{:.3f}".format)
        yield Column("95% interval", ratio, lambda interval: f"{interval.low:.3f} to {interval.high:.3f}")


CSV_COLUMNS = (
    *("case_id", "column", "step_time_median_ns", "step_time_low_ns", "step_time_high_ns", "tokens_per_s"),
    *("ratio", "ratio_low", "ratio_high", "samples", "best"),
)


def csv(comparison: Comparison) -> str:
    """Write a row for each case and column; the ratios of the first column are empty."""
    return csv_text(CSV_COLUMNS, (record for row in comparison.rows for record in _records(comparison, row)))


def _records(comparison: Comparison, row: ComparedRow) -> Iterator[dict[str, Any]]:
    for number, (name, cell) in enumerate(zip(comparison.columns, row.cells, strict=True)):
        values = (
            *(row.case.id, name, *cell.time_ns, cell.tokens_per_s),
            *(cell.ratio or ("", "", "")),
            *(cell.samples, number == row.best),
        )
        yield dict(zip(CSV_COLUMNS, values, strict=True))


def _answer(comparison: Comparison) -> Iterator[str]:
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
        yield f"In {counted(count, 'case')}, {name} takes {between} times as long per token as {first}."
    wins = [sum(row.best == number for row in comparison.rows) for number in range(len(comparison.columns))]
    if len(others) > 1:
        most = max(range(len(wins)), key=wins.__getitem__)
        yield f"Most often the fastest: {comparison.columns[most]}, in {wins[most]} of {count}."


def _notes(comparison: Comparison) -> Iterator[str]:
    for name, ids in comparison.alone:
        yield f"in {name}, but not in all: {', '.join(ids)}"
    for difference in comparison.differences:
        first = comparison.columns[0]
        yield f"{difference} (against {first}); this compares more than the code"
    if comparison.few:
        yield f"fewer than {FEW_SAMPLES} samples: {', '.join(comparison.few)}"
    if comparison.rows:
        yield f"{BEST} marks the fastest of its row. Ratios compare the time per token"
        yield "an interval covers the steps of these processes alone; other processes of the same code differ by more"
