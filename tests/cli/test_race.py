"""``ntp race`` as typed: contestants, statuses, files, interrupts; and one real race."""

import json
import math
import signal

import pytest

from ntp.interrupts import Terminated
from ntp.judge.race import summary, verdict_on
from ntp.records.pairs import Block, Pair
from ntp.records.race import Contestant, Duel, RacePlan, RaceRecord

CASE_ID = "simple-b2-s4-t1"
NOISE = (0.001, -0.002, 0.0015, 0.0005, -0.001)
SMALL = ("--vocab-size", "50", "--embed-dim", "8", "--hidden-dim", "8", "--batch-size", "2", "--seq-len", "4")


def pair(log_ratio):
    times_ns = {"base": 10_000_000, "head": round(10_000_000 * math.exp(log_ratio))}
    blocks = tuple(Block(side=side, step_time_ns=(ns,)) for side, ns in times_ns.items())
    return Pair(case_id=CASE_ID, seed=0, blocks=blocks)


def record(log_ratio=0.1, pairs=5, scale=1.0, **failures):
    return RaceRecord(
        started="2025-01-02T03:04:05+00:00",
        wall_time_s=20.0,
        command=("ntp", "race"),
        plan=RacePlan(),
        budget_s=60,
        seed=0,
        contestants=tuple(
            Contestant(name=name, case_id=CASE_ID, failure=failures.get(name, ""), stderr_tail=failures.get(name, ""))
            for name in ("a", "b")
        ),
        duels=(Duel(base="a", head="b", pairs=tuple(pair(log_ratio + scale * noise) for noise in NOISE[:pairs])),)
        if pairs
        else (),
    )


@pytest.fixture
def run(call):
    return lambda *arguments: call("race", *arguments)


@pytest.fixture(autouse=True)
def _no_job(monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def kept(tmp_path):
    def keep(what):
        path = tmp_path / "race.json"
        path.write_text(what.text(summary(verdict_on(what))))
        return path

    return keep


@pytest.mark.parametrize(
    ("what", "expected", "status"),
    [
        (record(), "", 0),
        (record(), "fastest=a", 0),
        (record(), "fastest=b", 1),
        (record(-0.1), "fastest=a", 1),
        (record(0.0), "fastest=a", 1),  # they are equally fast, and that is decided
        (record(0.0, scale=20), "fastest=a", 3),
        (record(0.0, scale=20), "fastest=b", 3),
        (record(0.0, scale=20), "", 0),
        (record(pairs=0, b="died"), "", 5),
        (record(pairs=0, a="died", b="died"), "fastest=a", 5),
    ],
)
def test_the_status_says_whether_the_expected_one_wins(run, kept, what, expected, status):
    result = run("--replay", kept(what), *(["--expect", expected] if expected else []))
    assert result.status == status
    failed = [one.name for one in what.contestants if one.failure]
    assert result.err == (f"the last lines of the worker of {failed[0]}:\ndied\n" if failed else "")


@pytest.mark.parametrize(
    ("name", "begins"), [("terminal", "Fastest: a; "), ("markdown", "# The race"), ("html", "<!doctype html>")]
)
def test_each_format_is_written_to_standard_output(run, kept, name, begins):
    assert run("--replay", kept(record()), "--format", name).out.startswith(begins)


def test_a_job_has_the_race_in_its_summary(run, kept, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("before\n")
    assert run("--replay", kept(record()), "--expect", "fastest=a").status == 0
    assert (tmp_path / "summary.md").read_text().startswith("before\n# The race\n\n**Fastest: a; ")


def test_the_file_holds_the_verdict_for_others_to_read(kept):
    document = json.loads(kept(record()).read_text())
    assert document["verdict"]["winner"] == "a"
    assert document["verdict"]["places"][1]["ratio"] == pytest.approx(math.exp(0.1), rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name two contestants or more"),
        (["threads=1"], "a race has 2 to 8 contestants: name that many (got 1)"),
        ([f"seed={i}" for i in range(9)], "(got 9)"),
        (["threads=1", "--replay", "race.json"], "name two contestants or more"),
        (["threads=1", "threads=none"], "threads"),
        (["threads=1", "threads=900"], "900"),
        (["threads=1", "thread=2"], "'thread=2' in contestant 'thread=2' is no setting"),
        (["threads=1", "threads=2", "--precision", "0"], "1% or 0.01"),
        (["threads=1", "threads=2", "--budget", "nan"], "nan"),
        (["threads=1", "threads=1,seed=1", "--expect", "slowest=threads=1"], "write fastest=NAME"),
        (["threads=1", "threads=1,seed=1", "--expect", "fastest=threads=3"], "one of threads=1, threads=1,seed=1"),
        (["threads=1", "threads=1,seed=1", "--with", "transformers"], "leave it out"),
        (["threads=1", "commit=no-such-branch"], "no-such-branch"),
        (["threads=1", "python=no/such/python"], "cannot be run"),
        (["commit=HEAD", "threads=1", "--model", "/tmp/model.py:make"], "is the same file for every commit"),
        (["--replay", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_wrong_usage_is_one_line(run, tmp_path, arguments, says):
    result = run(*arguments, "--out", tmp_path / "race.json")
    assert result.status == 2
    assert says in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated(signal.SIGTERM)])
def test_what_was_measured_before_an_interrupt_is_kept(run, monkeypatch, tmp_path, stop):
    closed = []

    def interrupted(*_arguments, **_options):
        try:
            yield record(pairs=0)
            yield record(pairs=4)
            raise stop
        finally:
            closed.append(True)

    monkeypatch.setattr("ntp.runners.race.race", interrupted)
    path = tmp_path / "race.json"
    result = run("threads=1", "threads=1,seed=1", "--out", path)
    assert result.status == (143 if isinstance(stop, Terminated) else 130)
    assert closed == [True]
    assert f"ntp race --replay {path} judges it" in result.err
    assert len(RaceRecord.load(path).duels[0].pairs) == 4


@pytest.mark.long
@pytest.mark.usefixtures("forks")
def test_a_real_race_has_a_winner_and_can_be_judged_again(run, tmp_path):
    path = tmp_path / "race.json"
    # A step of forty times the tokens takes far from forty times as long where steps are this small.
    result = run("batch_size=2", "batch_size=80", *SMALL, "--threads", "1", "--budget", "20s", "--out", path)
    assert result.status == 0
    assert result.out.startswith("Fastest: batch_size=80; batch_size=2 takes ")
    raced = RaceRecord.load(path)
    assert all(one.counts for one in raced.contestants)
    replayed = run("--replay", path)
    assert replayed.out == result.out
