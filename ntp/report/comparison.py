"""The report of runs side by side, and its CSV."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ntp.judge.compare import Compared, ComparedRow, Comparison
from ntp.judge.processes import CONFIDENCE, Ratio
from ntp.report.columns import Column, Table
from ntp.report.document import Report
from ntp.report.sentences import NAMED
from ntp.report.spreadsheet import csv_text
from ntp.report.units import duration, share
from ntp.report.verdicts import change, change_range, counted

BEST = "*"
"""Marks the fastest of a row."""

UNCHANGED = Ratio(0.0, 0.0, 1)
"""The ratio of the first column to itself."""


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
        return f"{duration(row.cells[number].level.value_ns)}{f' {BEST}' if number == row.best else ''}"

    def ratio(row: ComparedRow) -> Ratio:
        return row.cells[number].ratio or UNCHANGED

    yield Column(name, time, by=lambda row: row.cells[number].level.value_ns)
    if number:
        yield Column(f"/ {first}", lambda row: ratio(row).value, "{:.3f}".format)
        interval = "{0.low:.3f} to {0.high:.3f}".format
        yield Column(f"{CONFIDENCE:.0%} interval", lambda row: ratio(row).interval, interval)


CSV_COLUMNS = (
    *("case_id", "column", "step_time_ns", "step_time_low_ns", "step_time_high_ns", "tokens_per_s"),
    *("ratio", "ratio_low", "ratio_high", "processes", "best"),
)


def csv(comparison: Comparison) -> str:
    """Write a row for each case and column; the ratios of the first column, and intervals that are unknown, are empty.

    The limits of a step time are those within its run, the limits of a ratio those that the table shows.
    """
    return csv_text(CSV_COLUMNS, (record for row in comparison.rows for record in _records(comparison, row)))


def _records(comparison: Comparison, row: ComparedRow) -> Iterator[dict[str, Any]]:
    for number, (name, cell) in enumerate(zip(comparison.columns, row.cells, strict=True)):
        ratio = cell.ratio
        values = (
            *(row.case.id, name),
            *(cell.level.value_ns, *(cell.level.interval or ("", "", ""))[1:], cell.tokens_per_s),
            *(ratio.value if ratio else "", *((ratio and ratio.interval) or ("", "", ""))[1:]),
            *(cell.processes, number == row.best),
        )
        yield dict(zip(CSV_COLUMNS, values, strict=True))


def _answer(comparison: Comparison) -> Iterator[str]:
    if not comparison.rows:
        yield "These runs have no case in common: nothing can be compared."
        return
    for setting in comparison.settings:
        yield f"{setting.field.replace('_', ' ')}: {' -> '.join(setting.values)}."
    first, *others = comparison.columns
    for number, name in enumerate(others, 1):
        cells = [(row.case.id, row.cells[number]) for row in comparison.rows]
        subject = f"{name} against {first}: " if len(others) > 1 else ""
        sentence = _untold([cell for _, cell in cells])
        yield f"{subject}{sentence}" if subject else f"{sentence[0].upper()}{sentence[1:]}"
        yield from _told(name, cells)
    count = len(comparison.rows)
    wins = [sum(row.best == number for row in comparison.rows) for number in range(len(comparison.columns))]
    if len(others) > 1 and any(wins):
        most = max(range(len(wins)), key=wins.__getitem__)
        yield f"Most often the fastest: {comparison.columns[most]}, in {wins[most]} of {count}."
    if any(not cell.differs for row in comparison.rows for cell in row.cells[1:]):
        yield _pointer(comparison)


def _untold(cells: Sequence[Compared]) -> str:
    """Say in how many cases no difference can be told, and how small a difference could have been."""
    same = [cell for cell in cells if not cell.differs]
    if not same:
        return f"the step times differ in {'the one case' if len(cells) == 1 else f'all {len(cells)} cases'}."
    of_all = f"in {len(same)} of {counted(len(cells), 'case')} no difference can be told"
    limits = [cell.ratio.half_width for cell in same if cell.ratio and cell.ratio.interval]
    if not limits:
        return f"{of_all}: a single process has no interval."
    low, high = share(min(limits)), share(max(limits))
    return f"{of_all}; the smallest that could be told: {low if low == high else f'{low} to {high}'}."


def _told(name: str, cells: Sequence[tuple[str, Compared]]) -> Iterator[str]:
    """Name the cases that differ, those that differ most first."""
    told = [(case_id, cell.ratio) for case_id, cell in cells if cell.differs and cell.ratio]
    told.sort(key=lambda case: -abs(case[1].log_mean))
    for direction, sign in (("slower", 1), ("faster", -1)):
        group = [(case_id, ratio) for case_id, ratio in told if sign * ratio.log_mean > 0]
        if group:
            named = (
                f"{case_id} {change(ratio.value, 1)} ({change_range(ratio.interval, 1)})"
                for case_id, ratio in group[:NAMED]
                if ratio.interval
            )
            more = f" and {len(group) - NAMED} more" if len(group) > NAMED else ""
            yield f"{name} is {direction} in {counted(len(group), 'case')}: {', '.join(named)}{more}."


def _pointer(comparison: Comparison) -> str:
    if comparison.settings:
        return "ntp tune measures settings in pairs, and tells smaller differences."
    return "ntp guard measures two commits in pairs, and tells smaller differences."


def _notes(comparison: Comparison) -> Iterator[str]:
    for name, ids in comparison.alone:
        yield f"in {name}, but not in all: {', '.join(ids)}"
    for difference in comparison.differences:
        first = comparison.columns[0]
        yield f"{difference} (against {first}); this compares more than the code"
    if comparison.single:
        yield f"a single process on a side, so that its ratio has no interval: {', '.join(comparison.single)}"
    if comparison.rows:
        if any(row.best is not None for row in comparison.rows):
            yield f"{BEST} marks the fastest of its row, where no other may be as fast"
        noise = "leave out the noise between runs, which two cases of one run share"
        noise = noise if comparison.one_run else "include the noise between runs"
        what = "the time per token"
        if comparison.normalised:
            what += " as if the machine had been equally fast in each run, by the calibration kernel"
        yield f"ratios compare {what}; their intervals {noise}; 1 in 20 misses the truth"
        yield from _reach(comparison)


def _reach(comparison: Comparison) -> Iterator[str]:
    """Say how far a time holds."""
    if math.isfinite(comparison.within):
        noise = comparison.noise
        learned = f"learned from {noise.remembered} runs of this machine" if noise.remembered else "assumed"
        within, another = (
            f"±{share(width)}".replace("±>", "more than ±") for width in (comparison.within, comparison.another_run)
        )
        other = "another run, with the machine as fast" if comparison.normalised else "another run"
        times = f"a step time: {within} in its run; {other}: {another}"
        yield f"{times} (noise between runs: {noise.spread:.1%}, {learned})"
