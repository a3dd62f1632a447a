"""Two runs side by side, as text."""

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ntp.judge.compare import compare
from ntp.report.comparison import markdown, terminal


def test_the_answer_comes_first(make_measurement, make_run):
    base = make_run(make_measurement(step_time_ns=[10_000_000] * 20))
    head = make_run(make_measurement(step_time_ns=[12_000_000] * 20), make_measurement("simple-b8-s64-t2"))
    lines = terminal(compare(base, head)).splitlines()
    assert lines[0] == "1 case in both runs: the head takes 1.200 to 1.200 times as long as the base."
    assert any(line.split()[:4] == ["simple-b8-s64-t1", "10.0", "ms", "12.0"] and "+20.0%" in line for line in lines)
    assert "- only in the head: simple-b8-s64-t2" in lines


def test_nothing_in_common_is_said(make_measurement, make_run):
    text = terminal(compare(make_run(make_measurement()), make_run(make_measurement("simple-b8-s64-t2"))))
    assert text.startswith("The two runs have no case in common")


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=150))
def test_lines_fit_and_tables_hold_whatever_a_case_is_called(make_measurement, make_run, name):
    case = make_measurement().case
    workload = case.workload.model_copy(update={"model": f"{name}.py:make"})
    run = make_run(make_measurement(case.model_copy(update={"workload": workload})))
    comparison = compare(run, run)
    assert max(map(len, terminal(comparison).splitlines())) <= 100
    table = MarkdownIt().enable("table").parse(markdown(comparison))
    assert sum(token.type == "td_open" for token in table) == 7
