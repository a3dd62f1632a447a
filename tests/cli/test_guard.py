"""``ntp guard`` as its users meet it, with records made by hand."""

import json
import signal

import pytest

from ntp.errors import WorkerFailed
from ntp.interrupts import Terminated
from ntp.judge.guard import plan_of, summary, verdict_on
from ntp.records.guard import GuardedCase, GuardRecord
from ntp.records.pairs import Block, Counts, Pair, Side

COUNTS = Counts(parameters=7, flops=100, operators=(("aten::mm", 3.0),), allocated_bytes=64, peak_tensor_bytes=128)
NOISE = (0.001, -0.002, 0.0015, 0.0005, -0.001, 0.0, 0.002, -0.0015)
CASE_ID = "simple-b2-s4-t1"


def pair(slowdown):
    times_ns = {"base": (1_000_000,) * 8, "head": (round(1_000_000 * (1 + slowdown)),) * 8}
    blocks = tuple(Block(side=side, step_time_ns=ns, step_cpu_ns=ns) for side, ns in times_ns.items())
    return Pair(case_id=CASE_ID, seed=0, blocks=blocks)


def record(slowdown=0.0, pairs=8, **cell):
    values = {"base": COUNTS, "head": COUNTS, "pairs": tuple(pair(slowdown + noise) for noise in NOISE[:pairs])}
    return GuardRecord(
        started="2025-01-02T03:04:05+00:00",
        wall_time_s=80.0,
        command=("ntp", "guard"),
        base=Side(ref="main", commit="a" * 40),
        head=Side(ref="worktree", commit="b" * 40, dirty=True),
        plan=plan_of([CASE_ID], 0.01, 60),
        budget_s=60,
        seed=0,
        cases=(GuardedCase(case_id=CASE_ID, **(values | cell)),),
    )


MORE = COUNTS.model_copy(update={"operators": (("aten::copy_", 2.0), ("aten::mm", 3.0))})
VERDICTS = {
    "Pass": (record(), 0),
    "Regression": (record(0.05), 1),
    "Improvement": (record(-0.05), 0),
    "Inconclusive": (record(0.0, pairs=2), 3),
    "Not comparable": (record(base=None, pairs=0, base_failure="no such model"), 4),
    "Failed": (record(head=None, pairs=0, failure="simple: died"), 5),
}


@pytest.fixture
def run(call, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return lambda *arguments: call("guard", *arguments)


@pytest.fixture
def kept(tmp_path):
    def keep(what):
        path = tmp_path / "guard.json"
        path.write_text(what.text(summary(verdict_on(what))))
        return path

    return keep


@pytest.mark.parametrize("name", VERDICTS)
def test_a_replay_says_the_verdict_and_ends_with_its_status(run, kept, name):
    what, status = VERDICTS[name]
    result = run("--replay", kept(what))
    assert result.status == status
    assert result.out.startswith(f"{name}: the work tree (bbbbbbbbbbbb, with uncommitted changes) ")
    assert max(map(len, result.out.splitlines())) <= 100
    assert result.err == ""


def test_the_file_holds_the_verdict_for_others_to_read(kept):
    document = json.loads(kept(record(0.05)).read_text())
    assert document["verdict"]["verdict"] == "regression"
    [case] = document["verdict"]["cases"]
    assert case["case"] == CASE_ID
    assert case["metrics"][0]["ratio"] == pytest.approx(1.05, rel=0.01)
    assert case["metrics"][0]["interval"][0] > 1.01


def test_whoever_pins_can_fail_on_an_improvement(run, kept):
    assert run("--replay", kept(record(-0.05)), "--fail-on", "improvement").status == 1
    assert run("--replay", kept(record()), "--fail-on", "improvement").status == 0


def test_what_several_workers_said_at_last_is_shown_once(run, kept):
    failed = record(head=None, pairs=0, failure="died")
    ids = ["simple-b2-s4-t1", "simple-b2-s4-t2", "simple-b8-s4-t1", "simple-b8-s4-t2"]
    tails = ["the same words", "other words", "the same words", ""]
    cells = tuple(
        failed.cases[0].model_copy(update={"case_id": case_id, "stderr_tail": tail})
        for case_id, tail in zip(ids, tails, strict=True)
    )
    result = run("--replay", kept(failed.model_copy(update={"cases": cells, "plan": plan_of(ids, 0.01, 60)})))
    assert result.status == 5
    assert result.err.splitlines() == [
        f"the last lines of the worker of {ids[0]}:", "the same words",
        f"the last lines of the worker of {ids[1]}:", "other words",
    ]  # fmt: skip


def test_a_count_that_rises_is_a_regression_and_named(run, kept):
    result = run("--replay", kept(record(head=MORE)))
    assert result.status == 1
    assert "+2 aten::copy_ a step" in result.out


def test_a_job_summary_is_added_to(run, kept, monkeypatch, tmp_path):
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    run("--replay", kept(record()))
    text = path.read_text()
    assert text.startswith("before\n**Pass: ")
    assert f"| `{CASE_ID}` |" in text


@pytest.mark.parametrize("where", ["nowhere/summary.md", ""])
def test_a_job_summary_that_cannot_be_written_is_one_line_and_the_verdict_stands(
    run, kept, monkeypatch, tmp_path, where
):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / where))
    result = run("--replay", kept(record()))
    assert (result.status, result.out.startswith("Pass: ")) == (0, True)
    assert result.err.count("\n") == 1
    assert "GITHUB_STEP_SUMMARY" in result.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--base REF"),
        (["--base", "HEAD", "--replay", "guard.json"], "--base REF"),
        (["--base", "HEAD", "--threshold", "0"], "1% or 0.01"),
        (["--base", "HEAD", "--threshold", "100%"], "1% or 0.01"),
        (["--base", "HEAD", "--threshold", "much"], "much"),
        (["--base", "HEAD", "--budget", "0s"], "5min"),
        (["--base", "HEAD", "--budget", "nan"], "nan"),
        (["--base", "HEAD", "--budget", "1e9"], "1e9"),
        (["--base", "HEAD", "--cases", "simple"], "not a case id"),
        (["--base", "HEAD", "--cases", "simple-b2-s4-t900"], "900"),
        (["--base", "HEAD", "--cases", CASE_ID, "--model", "model.py:make"], "give only one of the two"),
        (["--base", "HEAD", "--model", "/models/model.py:make"], "inside the repository"),
        (["--base", "no-such-branch"], "no-such-branch"),
        (["--base", "HEAD", "--head", "no-such-branch"], "no-such-branch"),
        (["--replay", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_wrong_usage_is_one_line(run, arguments, says):
    result = run(*arguments)
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
            yield record(pairs=6)
            raise stop
        finally:
            closed.append(True)

    monkeypatch.setattr("ntp.runners.guard.guard", interrupted)
    path = tmp_path / "guard.json"
    result = run("--base", "HEAD", "--cases", CASE_ID, "--out", path)
    assert result.status == (143 if isinstance(stop, Terminated) else 130)
    assert closed == [True]
    assert f"--replay {path}" in result.err
    assert len(GuardRecord.load(path).cases[0].pairs) == 6


def test_a_worker_that_cannot_be_started_is_a_failure(run, monkeypatch, tmp_path):
    def failing(*_arguments, **_options):
        raise WorkerFailed("the process that forks workers is gone", "ImportError: torch")
        yield

    monkeypatch.setattr("ntp.runners.guard.guard", failing)
    result = run("--base", "HEAD", "--cases", CASE_ID, "--out", tmp_path / "guard.json")
    assert result.status == 5
    assert result.err.startswith("ntp: error: the process that forks workers is gone (docs/")
    assert result.err.endswith("\nImportError: torch\n")
