"""Runs side by side, as text."""

import csv as csv_format

import pytest

from ntp.judge.between_runs import RunNoise
from ntp.judge.compare import Column, columns_by, compare
from ntp.report.comparison import CSV_COLUMNS, csv, report
from ntp.report.document import terminal


def of(*runs, **options):
    names = ("base", "head", "third")
    return compare([Column.of(name, run) for name, run in zip(names, runs, strict=False)], **options)


def lines_of(*runs, **options):
    return terminal(report(of(*runs, **options))).splitlines()


def text_of(*runs, **options):
    """The report without its line breaks."""
    return " ".join(" ".join(lines_of(*runs, **options)).split())


@pytest.fixture
def run_of(make_measurement):
    """``run_of(ms, ms, ...)``: cases of one, two, ... threads, each in two processes that differ by 1%."""

    def run(*times_ms):
        return [
            make_measurement(f"simple-b8-s64-t{threads}", [round(ms * 1e6)] * 20, levels=(0.995, 1.005))
            for threads, ms in enumerate(times_ms, 1)
        ]

    return run


QUIET = RunNoise(0.002, 1e4)


def test_the_answer_comes_first_then_what_differs_then_what_measures_more_closely(run_of, make_measurement):
    base, head = run_of(10, 10, 10), run_of(15, 10.1, 5)
    other = make_measurement("simple-b9-s64-t1", levels=(1, 1))
    text = text_of(base, [*head, other], noise=QUIET)
    assert text.startswith(
        "In 1 of 3 cases no difference can be told; the smallest that could be told: 2.6%. "
        "head is slower in 1 case: simple-b8-s64-t1 +50.0% (+46."
    )
    assert "head is faster in 1 case: simple-b8-s64-t3 -50.0% (-51." in text
    assert "ntp guard measures two commits in pairs, and tells smaller differences." in text
    assert "simple-b8-s64-t1 10.0 ms * 15.0 ms 1.500 1.4" in text
    assert "simple-b8-s64-t2 10.0 ms 10.1 ms 1.010 0.9" in text, "neither is marked as the fastest"
    assert "- in head, but not in all: simple-b9-s64-t1" in text


def test_where_all_differ_nothing_else_is_pointed_to(run_of):
    text = text_of(run_of(10, 10), run_of(20, 20), noise=QUIET)
    assert text.startswith("The step times differ in all 2 cases. head is slower in 2 cases: ")
    assert "ntp guard" not in text
    assert text_of(run_of(10), run_of(20), noise=QUIET).startswith("The step times differ in the one case.")


def test_a_long_list_of_cases_is_cut(run_of):
    text = text_of(run_of(*[10] * 5), run_of(20, 21, 22, 23, 24), noise=QUIET)
    assert "head is slower in 5 cases: simple-b8-s64-t5 +140.0%" in text
    assert " and 2 more." in text


def test_what_is_compared_is_said_and_what_measures_settings_in_pairs(make_measurement):
    runs = [[make_measurement(f"simple-b8-s64-t{threads}", levels=(1, 1.01))] for threads in (1, 2, 4)]
    lines = lines_of(*runs)
    assert lines[0] == "threads: 1 -> 2 -> 4."
    assert lines[1].startswith("head against base: in 1 of 1 case no difference can be told; the smallest")
    assert lines[2].startswith("third against base: in 1 of 1 case no difference can be told; the smallest")
    assert lines[3] == "ntp tune measures settings in pairs, and tells smaller differences."
    assert not any(line.startswith("Most often the fastest") for line in lines)


def test_the_run_that_is_most_often_the_fastest(run_of):
    assert "Most often the fastest: third, in 1 of 2." in text_of(
        run_of(30, 5), run_of(20, 5), run_of(10, 5), noise=QUIET
    )


def test_single_processes_pretend_nothing(make_measurement):
    runs = [[make_measurement(step_time_ns=[ns] * 20)] for ns in (10_000_000, 99_000_000)]
    text = text_of(*runs)
    assert text.startswith("In 1 of 1 case no difference can be told: a single process has no interval.")
    assert "9.900 -" in text
    assert "a single process on a side, so that its ratio has no interval: simple-b8-s64-t1" in text
    assert "±" not in text


def test_how_far_a_time_holds_in_words(run_of):
    learned = text_of(run_of(10), run_of(10), noise=RunNoise(0.014, 15, 6))
    assert "their intervals include the noise between runs" in learned
    assert "a step time: ±6.6% in its run; another run: ±" in learned
    assert "(noise between runs: 1.4%, learned from 6 runs of this machine)" in learned
    assert "(noise between runs: 1.6%, assumed)" in text_of(run_of(10), run_of(10))


def test_within_one_run_the_noise_between_runs_is_left_out(run_of, make_run):
    run = make_run(*run_of(10, 5))
    lines = terminal(report(compare(columns_by(run, "threads"), "threads"))).splitlines()
    assert lines[0] == "threads: 1 -> 2."
    assert "their intervals leave out the noise between runs, which two cases of one run share" in " ".join(
        " ".join(lines).split()
    )


def test_nothing_in_common_is_said(make_measurement):
    assert lines_of([make_measurement()], [make_measurement("simple-b32-s64-t1")])[0].startswith(
        "These runs have no case in common"
    )


def test_csv_has_a_row_for_each_case_and_column(make_measurement):
    run, single = ([make_measurement(step_time_ns=[10] * 20, levels=levels)] for levels in ((1, 1), (1,)))
    rows = list(csv_format.DictReader(csv(of(run, run, single)).splitlines()))
    assert [tuple(row) for row in rows] == [CSV_COLUMNS] * 3
    assert [(row["column"], row["ratio"], row["processes"], row["best"]) for row in rows] == [
        ("base", "", "2", "False"),
        ("head", "1.0", "2", "False"),
        ("third", "1.0", "1", "False"),
    ]
    assert float(rows[1]["ratio_low"]) < 1 < float(rows[1]["ratio_high"])
    assert {row["step_time_low_ns"] for row in rows[:2]} == {rows[0]["step_time_ns"]}
    assert {rows[2][name] for name in ("step_time_low_ns", "step_time_high_ns", "ratio_low", "ratio_high")} == {""}
