"""Rows as CSV, as spreadsheets may open it."""

import csv
from collections.abc import Iterable, Mapping, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a text that a spreadsheet computes begins with. Source: OWASP, CSV Injection."""

_END = "\r\n"
"""Of a line, for the writer: it quotes a cell that holds any of it, and one that a spreadsheet would take for two."""


class _Lines(list[str]):
    """What a writer of CSV writes to, a line at a time."""

    def write(self, line: str) -> None:
        self.append(f"{line.removesuffix(_END)}\n")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A line of headers and a line a row. A text that a spreadsheet would compute has an apostrophe before it."""
    lines = _Lines()
    writer = csv.DictWriter(lines, columns, lineterminator=_END)
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return "".join(lines)


def _harmless(value: object) -> object:
    """The value of a cell. Numbers stay numbers, negative ones too."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
