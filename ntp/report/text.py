"""A run as text for the terminal, Markdown, CSV or JSON. The same run always gives the same bytes."""

import json as json_format
from collections.abc import Callable

from ntp.records.run import Run
from ntp.report.markdown import PICTURES, markdown
from ntp.report.spreadsheet import csv_text
from ntp.report.sweep_columns import VALUES, record
from ntp.report.tables import surroundings, tables_of
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
        "fastest": [answer.row.case.id for answer in tables.fastest],
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


FORMATS: dict[str, Callable[[Run], str]] = {"markdown": markdown, "csv": csv, "json": json}
"""The formats of ``ntp report --format``, besides web pages."""
