"""Tables, code and prose in GitHub's Markdown, escaped so that no content can break them."""

import re
from collections.abc import Sequence

from tabulate import tabulate

from ntp.lines import one_line, printable


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are already Markdown. Pipes are escaped: they would end a cell even in a code span."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    alignment = ["left"] + ["right" if len(headers) > 2 else "left"] * (len(headers) - 1)
    return tabulate(escaped, headers, tablefmt="pipe", disable_numparse=True, colalign=alignment)


def prose(text: str) -> str:
    """Text, escaped so that Markdown shows it unchanged."""
    return re.sub(r"([\\`*_\[\]<>#~&$])", r"\\\1", one_line(text))


def code(text: str) -> str:
    """A code span, between more backticks than the text has in a row."""
    line = one_line(text)
    ticks = "`" * (1 + _longest_run(line))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def fenced(text: str) -> str:
    """A code block, between fences longer than any in the text."""
    ticks = "`" * max(3, 1 + _longest_run(text))
    lines = (printable(line) for line in text.strip("\n").splitlines())
    return "\n".join([f"{ticks}text", *lines, ticks])


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
