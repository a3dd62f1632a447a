"""The verdict on a run against a baseline, as text."""

import pytest

from ntp.case import Case
from ntp.judge.baseline import BaselineVerdict, CaseJudgement, TimeFinding
from ntp.judge.between_runs import DEFAULT_NOISE, RunNoise
from ntp.judge.counts import Change
from ntp.judge.statistics import Interval
from ntp.judge.verdict import gravest
from ntp.report import document
from ntp.report.baseline import report

SLOWER = TimeFinding("regression", Interval(1.083, 1.061, 1.104))
FASTER = TimeFinding("improvement", Interval(0.9, 0.88, 0.92))
SAME = TimeFinding("pass", Interval(1.004, 0.98, 1.03))
UNSURE = TimeFinding("inconclusive", Interval(1.04, 0.9, 1.2))
UNKNOWN_NOISE = TimeFinding("not comparable", reasons=("the noise is not known: calibrate",))
MORE = (Change("aten::copy_", 0, 2), Change("peak_tensor_bytes", 90 * 2**20, 106 * 2**20), Change("parameters", 1, 2))

LEARNED = RunNoise(0.012, 16, 7)


def case(times=SAME, number=1, **other):
    return CaseJudgement(Case.parse(f"simple-b8-s64-t{number}"), 10_000_000, 10_040_000, times, **other)


def verdict(*cases, only_head=(), noise=LEARNED):
    return BaselineVerdict(gravest([each.verdict for each in cases]), cases, only_head, 0.05, noise)


def terminal(found):
    return document.terminal(report(found))


def markdown(found):
    return document.markdown(report(found))


def sentences(text):
    """The notes, without the line breaks within them."""
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("cases", "answer"),
    [
        (
            [case(SLOWER), case(number=2)],
            "Regression: the head is up to 8.3% slower than the baseline in 1 of 2 cases.",
        ),
        (
            [case(changes=MORE, regressions=MORE)],
            "Regression: the head does more in a step (+2 aten::copy_ a step, +16 MiB peak tensor memory and 1 more) "
            "than the baseline in 1 of 1 case.",
        ),
        (
            [case(), case(UNKNOWN_NOISE, 2)],
            "Not comparable: the head cannot be compared with the baseline in 1 of 2 cases.",
        ),
        (
            [case(UNSURE)],
            "Inconclusive: the head may or may not be 5% slower than the baseline: 1 of 1 case could not be decided.",
        ),
        (
            [case(FASTER), case(number=2)],
            "Improvement: the head is more than 5% faster than the baseline in 1 of 2 cases, slower in none.",
        ),
        ([case(), case(number=2)], "Pass: the head is not 5% slower than the baseline in any of 2 cases."),
        ([], "Not comparable: the head was compared with a baseline that holds no case."),
    ],
)
def test_the_answer_comes_first(cases, answer):
    assert sentences(terminal(verdict(*cases))).startswith(answer)
    assert "ntp guard" in terminal(verdict(*cases)), "what detects smaller slowdowns is named with every verdict"


def test_a_row_a_case():
    text = terminal(verdict(case(SLOWER), case(UNKNOWN_NOISE, 2), case(number=3)._replace(head_ns=None)))
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("simple-")}
    assert rows["simple-b8-s64-t1"] == ["regression", "10.0", "ms", "10.0", "ms", "+8.3%", "+6.1%", "to", "+10.4%"]
    assert rows["simple-b8-s64-t2"] == ["not", "comparable", "10.0", "ms", "10.0", "ms", "-", "-"]
    assert rows["simple-b8-s64-t3"] == ["pass", "10.0", "ms", "-", "+0.4%", "-2.0%", "to", "+3.0%"]


def test_what_holds_for_several_cases_is_said_once():
    some = [case(UNKNOWN_NOISE, number) for number in range(1, 6)]
    assert "- all cases: the noise is not known: calibrate" in terminal(verdict(*some))
    text = sentences(terminal(verdict(*some, case(number=6))))
    ids = "simple-b8-s64-t1, simple-b8-s64-t2, simple-b8-s64-t3 and 2 more"
    assert f"- {ids}: the noise is not known: calibrate" in text
    assert "- simple-b8-s64-t1: the noise" in terminal(verdict(case(UNKNOWN_NOISE)))


def test_every_change_of_a_count_is_named():
    less = Change("flops", 1000, 10)
    text = sentences(terminal(verdict(case(changes=(*MORE, less), regressions=MORE[:1], not_counted=("operators",)))))
    assert "does more: +2 aten::copy_ a step" in text
    assert "does more, as allowed: +16 MiB peak tensor memory, +1 parameters" in text
    assert "does less: -990 FLOP a step" in text
    assert "not counted on both sides, so not compared: operators" in text


def test_cases_that_are_new_and_where_the_noise_is_from():
    text = sentences(terminal(verdict(case(), only_head=("simple-b9-s64-t1",))))
    assert "not in the baseline, and not judged: simple-b9-s64-t1" in text
    assert "the noise between runs (1.2%, learned from 7 runs of this machine)." in text
    assert "learned" not in terminal(verdict(case(), noise=DEFAULT_NOISE))
