"""The noise between runs, as text."""

from hypothesis import strategies as st

from ntp.case import Case
from ntp.judge.baseline import Noise
from ntp.report import document
from ntp.report.calibration import report

SPREADS = st.none() | st.floats(0, 1e3)


def noise(case_id="simple-b8-s64-t1", runs=5, raw=0.03, normalised=0.01):
    return Noise(Case.parse(case_id), runs, 12_300_000.0, raw, normalised)


def terminal(noises):
    return document.terminal(report(noises))


def cells(text, case_id):
    return next(line.split() for line in text.splitlines() if line.startswith(case_id))


def test_the_answer_comes_first_then_a_row_a_case():
    text = terminal([noise(), noise("simple-b8-s64-t2", normalised=0.05)])
    assert text.startswith(
        "A single run against a baseline of this machine detects slowdowns of at least 4.0% to 22%, in 2\ncases."
    )
    assert cells(text, "simple-b8-s64-t1") == ["simple-b8-s64-t1", "5", "12.3", "ms", "3.0%", "1.0%", "4.0%"]
    assert cells(text, "simple-b8-s64-t2")[-1] == "22%"
    assert "ntp guard" in text


def test_one_case_and_none():
    assert "slowdowns of at least 4.0%, in 1 case." in terminal([noise()])
    assert terminal([]) == "No case was run twice: the noise between runs is not known.\n"
    once = terminal([noise(runs=1, raw=None, normalised=None)])
    assert once.startswith("No case was run twice")
    assert cells(once, "simple-b8-s64-t1") == ["simple-b8-s64-t1", "1", "12.3", "ms", "-", "-", "-"]
