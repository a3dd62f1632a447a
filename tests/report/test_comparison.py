"""Runs side by side, as text."""

import csv as csv_format

from ntp.judge.compare import Column, compare
from ntp.report.comparison import CSV_COLUMNS, csv, report
from ntp.report.document import terminal


def of(*runs):
    return compare([Column(name, tuple(run)) for name, run in zip(("base", "head", "third"), runs, strict=False)])


def report_of(*runs):
    return report(of(*runs))


def test_the_answer_comes_first(make_measurement):
    base = [make_measurement(step_time_ns=[10_000_000] * 20)]
    head = [make_measurement(step_time_ns=[12_000_000] * 20), make_measurement("simple-b8-s64-t2")]
    lines = terminal(report_of(base, head)).splitlines()
    assert lines[0] == "In 1 case, head takes 1.200 times as long per token as base."
    assert "simple-b8-s64-t1 10.0 ms * 12.0 ms 1.200 1.200 to 1.200" in [" ".join(line.split()) for line in lines]
    assert "- in head, but not in all: simple-b8-s64-t2" in lines


def test_what_is_compared_is_said(make_measurement):
    runs = [[make_measurement(f"simple-b8-s64-t{threads}")] for threads in (1, 2, 4)]
    lines = terminal(report_of(*runs)).splitlines()
    assert lines[0] == "threads: 1 -> 2 -> 4."
    assert any(line.startswith("Most often the fastest: ") for line in lines)


def test_nothing_in_common_is_said(make_measurement):
    text = terminal(report_of([make_measurement()], [make_measurement("simple-b32-s64-t1")]))
    assert text.startswith("These runs have no case in common")


def test_csv_has_a_row_for_each_case_and_column(make_measurement):
    run = [make_measurement(step_time_ns=[10] * 20)]
    rows = list(csv_format.DictReader(csv(of(run, run)).splitlines()))
    assert [tuple(row) for row in rows] == [CSV_COLUMNS] * 2
    assert [(row["column"], row["ratio"], row["best"]) for row in rows] == [
        ("base", "", "True"),
        ("head", "1.0", "False"),
    ]
