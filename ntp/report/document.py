"""What a report says, as one value, and one renderer a format. Each says all of it, the answer first."""

import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ntp.report.columns import Table
from ntp.report.markdown import table_text as markdown_table
from ntp.report.markup import fenced, prose
from ntp.report.terminal import table_text as terminal_table
from ntp.report.terminal import wrapped

if TYPE_CHECKING:
    from ntp.report.web import Figure


class Listing(NamedTuple):
    """Lines to be copied as they are."""

    title: str
    text: str


class Report(NamedTuple):
    """A report in plain text: the renderers wrap it and escape it."""

    answer: Sequence[str]
    """Its sentences, each a line of its own."""
    sections: Sequence[Table | Listing] = ()
    """Tables without rows are not shown."""
    notes: Sequence[str] = ()
    legend: str = ""
    """What the columns mean."""
    heading: str = ""
    """What stands above the answer in Markdown."""
    tight: bool = False
    """Whether the notes follow without a blank line in a terminal."""


def terminal(report: Report) -> str:
    """No line is longer than the terminal is wide, but for listings."""
    answer = "\n".join(map(wrapped, report.answer))
    notes = "\n".join(wrapped(f"- {note}", "  ") for note in report.notes)
    body = _joined(answer, *map(_in_terminal, report.sections))
    noted = ("\n" if report.tight else "\n\n").join(filter(None, (body, notes)))
    return _joined(noted, wrapped(report.legend)) + "\n"


def _in_terminal(section: Table | Listing) -> str:
    return terminal_table(section) if isinstance(section, Table) else f"{section.title}:\n\n{section.text}"


def markdown(report: Report) -> str:
    """As GitHub renders it: for a pull request, a README, an archive."""
    answer = (f"**{prose(sentence)}**" for sentence in report.answer)
    notes = "\n".join(f"- {prose(note)}" for note in report.notes)
    heading = f"# {prose(report.heading)}" if report.heading else ""
    return _joined(heading, *answer, *map(_in_markdown, report.sections), notes, prose(report.legend)) + "\n"


def _in_markdown(section: Table | Listing) -> str:
    if isinstance(section, Table):
        return markdown_table(section)
    return f"## {prose(section.title)}\n\n{fenced(section.text)}"


FORMATS: dict[str, Callable[[Report], str]] = {"terminal": terminal, "markdown": markdown}
"""The formats of ``--format`` that need nothing but the report."""


def html(
    report: Report, title: str, command: Sequence[str] = (), figures: Sequence["Figure"] = (), csv: str = ""
) -> str:
    """A page that needs nothing else. Its tables can be sorted, and copied where there is CSV of them."""
    from ntp.report.web import render  # here, so that text need not wait for what draws

    sections = [section.in_format("html") if isinstance(section, Table) else section for section in report.sections]
    return render(
        "document.html", title=title, answer=report.answer, sections=sections, notes=report.notes,
        legend=report.legend, figures=figures, command=shlex.join(command), csv=csv,
    )  # fmt: skip


def _joined(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))
