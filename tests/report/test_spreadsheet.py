"""Rows that a spreadsheet may open."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.compare import Column, compare
from ntp.report import comparison, text
from ntp.report.spreadsheet import csv_text


def read(written):
    return list(csv.DictReader(io.StringIO(written, newline="")))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_text_that_a_spreadsheet_would_compute_is_one_to_it(start):
    written = csv_text(("name",), [{"name": f"{start}1+1"}])
    assert read(written) == [{"name": f"'{start}1+1"}]


@pytest.mark.parametrize("value", [-1.5, -3, 0, 1e-9, 2.0, True])
def test_a_number_stays_one(value):
    assert csv_text(("value",), [{"value": value}]) == f"value\n{value}\n"


def test_what_is_unknown_is_empty():
    assert csv_text(("one", "two"), [{"one": None, "two": ""}]) == "one,two\n,\n"


@given(st.text())
def test_no_cell_begins_as_a_formula_and_none_loses_anything(value):
    (row,) = read(csv_text(("value", "last"), [{"value": value, "last": 1}]))
    assert row["value"].removeprefix("'") == value.removeprefix("'")
    assert not row["value"].startswith(("=", "+", "-", "@", "\t", "\r"))


def test_every_csv_of_the_reports_is_harmless(make_measurement, make_run):
    case = make_measurement().case
    formula = case.model_copy(update={"workload": case.workload.model_copy(update={"model": '=cmd|"/c calc"!A1:make'})})
    run = make_run(make_measurement(formula))
    compared = compare([Column.of("-2+3", run.measurements), Column.of("@SUM(1)", run.measurements)])
    rows = read(text.csv(run)) + read(comparison.csv(compared))
    cells = [cell for row in rows for cell in row.values()]
    assert {'\'=cmd|"/c calc"!A1:make', "'-2+3", "'@SUM(1)"} <= set(cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
