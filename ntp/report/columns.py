"""Tables, whichever format shows them: columns, each defined once, and rows."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from ntp.judge.statistics import Interval
from ntp.lines import one_line
from ntp.report.markup import code, prose
from ntp.report.units import UNKNOWN

Row = TypeVar("Row")
Format = Literal["terminal", "markdown", "html"]


class Column(NamedTuple, Generic[Row]):
    """What a column is called, which value of a row it shows, and how it writes that value."""

    title: str
    value: Callable[[Row], Any]
    """None if it is unknown."""
    text: Callable[[Any], str] = str
    is_code: bool = False
    """Whether its texts are code, as case ids are."""
    formats: Sequence[Format] = ("terminal", "markdown", "html")
    """Which formats show it."""
    short: str = ""
    """The title in a terminal, if it differs."""
    optional: bool = False
    """Whether it is left out if no row has a value."""
    by: Callable[[Row], Any] | None = None
    """What a web page sorts it by, if that is not the value."""

    def shown(self, row: Row) -> str:
        value = self.value(row)
        return UNKNOWN if value is None else one_line(self.text(value))

    def in_markdown(self, row: Row) -> str:
        return (code if self.is_code else prose)(self.shown(row))

    def sorted_by(self, row: Row) -> float | str:
        """What a web page sorts by: the value, the width of an interval, or nothing if it is unknown."""
        value = (self.by or self.value)(row)
        if isinstance(value, Interval):
            return value.high - value.low
        return value if isinstance(value, int | float | str) else ""


class Table(NamedTuple):
    """The first column, usually of case ids, is shortened where lines would be too long."""

    columns: Sequence[Column[Any]]
    rows: Sequence[Any]
    title: str = ""

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(one_line(column.title) for column in self.columns)

    def in_format(self, name: Format) -> "Table":
        """The table with the columns that this format shows."""
        columns = [column for column in self.columns if name in column.formats and self._is_wanted(column)]
        if name == "terminal":
            columns = [column._replace(title=column.short or column.title) for column in columns]
        return self._replace(columns=columns)

    def _is_wanted(self, column: Column[Any]) -> bool:
        return not column.optional or any(column.value(row) is not None for row in self.rows)
