from ntp.judge.statistics import Interval
from ntp.report.columns import Column, Table

ROWS = [("a", 1.5, None), ("b", None, None)]
COLUMNS = (
    Column("case", lambda row: row[0]),
    Column("time taken", lambda row: row[1], short="time"),
    Column("notes", lambda row: "*", formats=["markdown"]),
    Column("bound by", lambda row: row[2], optional=True),
)


def test_each_format_has_its_own_columns_and_what_no_row_knows_may_be_left_out():
    table = Table(COLUMNS, ROWS)
    assert table.in_format("terminal").titles == ("case", "time")
    assert table.in_format("markdown").titles == ("case", "time taken", "notes")
    assert table.in_format("html").titles == ("case", "time taken")
    assert Table(COLUMNS, [*ROWS, ("d", 1.0, "compute")]).in_format("html").titles == ("case", "time taken", "bound by")


def test_an_interval_sorts_by_its_width():
    assert Column("interval", lambda row: Interval(*row)).sorted_by((2, 1, 5)) == 4
    assert Column("interval", lambda row: Interval(*row), by=lambda row: row[0]).sorted_by((2, 1, 5)) == 2
