"""The noise between runs, as text."""

from ntp.case import Case
from ntp.judge.baseline import CaseNoise, Noises
from ntp.judge.between_runs import DEFAULT_NOISE, RunNoise
from ntp.judge.processes import Level
from ntp.report import document
from ntp.report.calibration import report

LEARNED = Noises(RunNoise(0.05, 14, 5), RunNoise(0.018, 14, 5), ())


def noise(case_id="simple-b8-s64-t1", runs=5, smallest=0.04):
    return CaseNoise(Case.parse(case_id), runs, Level(16.325, 0.005, 4), smallest)


def terminal(*cases, noises=LEARNED):
    return document.terminal(report(noises._replace(cases=cases)))


def cells(text, case_id):
    return next(line.split() for line in text.splitlines() if line.startswith(case_id))


def test_the_answer_comes_first_then_a_row_a_case():
    text = terminal(noise(), noise("simple-b8-s64-t2", smallest=0.22))
    first, *more = text.split("\n\n")[0].splitlines()
    assert first == "A run against a baseline of this machine detects slowdowns of at least 4.0% to 22%, in 2 cases."
    assert " ".join(more) == (
        "Noise between runs: 5.0% of step times, 1.8% of normalised ones, from 5 runs of identical code and "
        "from 5.0% and 1.6%, which are assumed beforehand and count as much as ten runs."
    )
    assert cells(text, "simple-b8-s64-t1") == ["simple-b8-s64-t1", "5", "12.3", "ms", "±1.4%", "4.0%"]
    assert cells(text, "simple-b8-s64-t2")[-1] == "22%"
    assert "ntp guard" in text


def test_one_case_and_none():
    assert "slowdowns of at least 4.0%, in 1 case." in terminal(noise())
    assert terminal() == "No run was finished: the noise between runs is not known.\n"


def test_one_run_tells_no_noise():
    once = terminal(noise(runs=1, smallest=None), noises=Noises(DEFAULT_NOISE, DEFAULT_NOISE, ()))
    assert once.startswith("Two runs are needed to tell the noise between them")
    assert cells(once, "simple-b8-s64-t1")[-1] == "-"
