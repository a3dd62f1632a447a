"""A run as text for the terminal, Markdown, CSV or JSON. The same run always gives the same bytes."""

import json as json_format
from collections.abc import Callable
from typing import Any

from ntp.judge.between_runs import RunNoise, another_run, noise_when_measured
from ntp.records.run import Run
from ntp.report.markdown import PICTURES, markdown
from ntp.report.sentences import plain_lines
from ntp.report.spreadsheet import csv_text
from ntp.report.sweep_columns import VALUES, record
from ntp.report.tables import CaseRow, Tables, surroundings, tables_of
from ntp.report.terminal import terminal

__all__ = ["FORMATS", "PICTURES", "csv", "json", "markdown", "terminal"]


def csv(run: Run) -> str:
    """A row for each measurement, in the columns of :data:`~ntp.report.sweep_columns.VALUES`; empty if unknown."""
    return csv_text(tuple(VALUES), map(record, tables_of(run).rows))


def json(run: Run) -> str:
    """The report for programs: the rows of the CSV, failures, warnings, the time spent, the machine."""
    tables = tables_of(run)
    document = {
        "started": run.started,
        "command": run.command,
        "planned": run.planned,
        "missing": run.missing,
        "rounds": run.rounds,
        "precision": run.precision,
        "budget_s": run.budget_s,
        "fastest": [
            {
                "case_id": fastest.row.case.id,
                "cannot_be_told_from": [rival.case.id for rival in fastest.rivals],
                "half_width": None if fastest.row.level.interval is None else fastest.row.level.half_width,
                "half_width_of_another_run": _of_another_run(fastest.row, noise_when_measured(run)),
            }
            for fastest in tables.fastest
        ],
        "plain": _plain(run, tables),
        "spreads": tables.spreads._asdict(),
        "measurements": [record(row) for row in tables.rows],
        "failures": [failure.model_dump(mode="json") for failure in run.failures],
        "warnings": [{"case_id": case_id, **warning.model_dump(mode="json")} for case_id, warning in tables.warnings],
        "time": tables.time._asdict(),
        "environments": [
            {
                "machine": {"fingerprint": machine.fingerprint, **machine.model_dump(mode="json")},
                "software": {"fingerprint": software.fingerprint, **software.model_dump(mode="json")},
                "git": git.model_dump(mode="json"),
            }
            for machine, software, git in surroundings(run)
        ],
    }
    return json_format.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _of_another_run(row: CaseRow, noise: RunNoise) -> float | None:
    another = another_run(row.level, noise)
    return None if another.interval is None else another.half_width


def _plain(run: Run, tables: Tables) -> dict[str, Any] | None:
    """The plain process against its case: the ratio of their times, and what gets the difference."""
    if run.plain_failure is not None:
        return {"failure": run.plain_failure.model_dump(mode="json")}
    if tables.plain is None:
        return None
    interval = tables.plain.ratio.interval
    return {
        "case_id": tables.plain.row.case.id,
        "step_time_ratio": tables.plain.ratio.value,
        "step_time_ratio_low": interval and interval.low,
        "step_time_ratio_high": interval and interval.high,
        "environment": plain_lines(run, tables, str)[1],
    }


FORMATS: dict[str, Callable[[Run], str]] = {"markdown": markdown, "csv": csv, "json": json}
"""The formats of ``ntp report --format``, besides web pages."""
