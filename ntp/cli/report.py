"""``ntp report``: a run as text, table or page."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ntp.cli.console import show
from ntp.cli.options import refuse_onto_input


class ReportFormat(StrEnum):
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN.json", help="Run file written by a sweep.")],
    format_: Annotated[ReportFormat, typer.Option("--format", help="Output format.")] = ReportFormat.MARKDOWN,
) -> None:
    """Write the report of a run again, in any format.

    Markdown, CSV and HTML are what the sweep itself has written.

    For example:

      ntp report reports/latest/run.json

      ntp report reports/latest/run.json --format csv > run.csv

      ntp report reports/latest/run.json --format html > run.html
    """
    from ntp.records.run import Run

    refuse_onto_input(run)
    loaded = Run.load(run)
    if format_ is ReportFormat.HTML:  # here, so that text need not wait for the charts
        from ntp.records.flame import drawings
        from ntp.report.html import page

        flames = drawings((measurement.observations.flame for measurement in loaded.measurements), run.parent)
        show(page(loaded, flames))
        return
    from ntp.report.text import FORMATS, markdown

    if format_ is ReportFormat.MARKDOWN:
        show(markdown(loaded, [path.name for path in run.parent.glob("*.svg")]))
    else:
        show(FORMATS[format_.value](loaded))
