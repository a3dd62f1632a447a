"""Rows as CSV that a spreadsheet can open safely."""

import csv
from collections.abc import Iterable, Mapping, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet computes a text that begins with one of these. Source: OWASP, CSV Injection."""

_END = "\r\n"
"""Ends a line for the writer, which quotes cells that hold any of it: a spreadsheet would split them there."""


class _Lines(list[str]):
    """Collects what a CSV writer writes, a line at a time."""

    def write(self, line: str) -> None:
        self.append(f"{line.removesuffix(_END)}\n")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A line of headers, and one for each row. An apostrophe is put before a text that a spreadsheet would compute."""
    lines = _Lines()
    writer = csv.DictWriter(lines, columns, lineterminator=_END)
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return "".join(lines)


def _harmless(value: object) -> object:
    # Numbers stay numbers, negative ones too.
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
