"""The rounds of a sweep under pytest: in which order, and what becomes of them when something ends them early."""

import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

# A pytest within this process unloads what it has loaded, and numpy cannot be loaded twice.
import ntp.report.html  # noqa: F401

pytest_plugins = ["pytester"]

B8, B32, PART = "simple-b8-s64-t1", "simple-b32-s64-t1", "simple-b32-s64-t1-forward"
PLAIN = "simple-b32-s64-t1-glibc-free"
"""The largest case as a plain process."""

ALL = {B8, B32, PART, PLAIN}


def processes(run):
    return {measurement.case.id: len(measurement.processes) for measurement in run.measurements}


def test_each_round_measures_every_case_and_the_plain_process_once(sweep, told, load):
    sweep("--ntp-order-seed=1").assert_outcomes(passed=3, skipped=1)
    run, started = load(), told().started
    assert processes(run) == {B8: 5, B32: 5, PART: 5}
    assert [process.round for process in run.measurements[0].processes] == [1, 2, 3, 4, 5]
    assert (run.plain.case.id, len(run.plain.processes), run.plain_failure) == (PLAIN, 5, None)
    assert (run.rounds, run.order_seed, run.precision, run.budget_s) == (5, 1, None, None)
    rounds = [started[first : first + 4] for first in range(0, 20, 4)]
    assert all(set(of_round) == ALL for of_round in rounds)
    assert len({tuple(of_round) for of_round in rounds}) > 1, "in an order of its own"


def test_the_order_is_drawn_from_the_seed_and_the_seed_is_recorded(sweep, told, load):
    sweep()
    seed, started = load().order_seed, told().started
    sweep(f"--ntp-order-seed={seed}")
    assert (load().order_seed, told().started) == (seed, started)
    sweep()
    assert load().order_seed != seed


def test_a_single_round_is_reported_without_intervals(sweep, load):
    sweep("--ntp-rounds=1").assert_outcomes(passed=3, skipped=1)
    assert processes(load()) == {B8: 1, B32: 1, PART: 1}


def test_only_the_selected_cases_are_measured(sweep, told):
    sweep("-k", "b8", "--ntp-rounds=2").assert_outcomes(passed=1, deselected=3)
    assert set(told().started) == {B8, f"{B8}-glibc-free"}


def test_a_precision_that_is_reached_needs_no_more_rounds(sweep, told, load):
    result = sweep("--ntp-precision=1%", "--ntp-budget=1min")
    result.stdout.fnmatch_lines(["ntp: 3 cases in 5 rounds, about * s, up to 60 s for ±1.00%; *"])
    assert (load().precision, load().budget_s) == (0.01, 60.0)
    assert len(told().started) == 20


def test_a_budget_that_the_planned_rounds_use_up_leaves_no_others(sweep, told):
    result = sweep("--ntp-precision=0.01%", "--ntp-budget=1s")
    result.stdout.fnmatch_lines(["ntp: 3 cases in 5 rounds, about * s, and none more for ±0.01%: the budget is only *"])
    assert len(told().started) == 20


def test_ordinary_tests_among_benchmarks_run_where_they_stand(sweep, load):
    sweep(mode=None).assert_outcomes(passed=4)
    assert processes(load()) == {B8: 5, B32: 5, PART: 5}


def test_a_variable_that_a_fixture_of_the_users_sets_is_there_before_any_worker(sweep, told):
    setting = """
@pytest.fixture(autouse=True, scope="session")
def of_the_user():
    with pytest.MonkeyPatch().context() as patch:
        patch.setenv("OF_THE_USER", "set")
        yield
"""
    sweep(more=setting).assert_outcomes(passed=3, skipped=1)
    assert told().prepared_in == ["set"], "and the workers are prepared once"


def test_two_tests_of_one_case_have_one_measurement_of_it(sweep, told, load):
    sweep("-k", "b8", more="\ndef bench_twice(measure, case):\n    measure(case)\n").assert_outcomes(
        passed=2, deselected=4
    )
    assert told().started.count(B8) == 5
    one, other = load().measurements
    assert one == other


def test_a_case_that_the_session_did_not_know_has_rounds_of_its_own(sweep, told, load):
    more = """
def bench_own(measure):
    from ntp.case import Case
    measure(Case.parse("simple-b2-s4-t1"))
"""
    sweep(more=more).assert_outcomes(passed=4, skipped=1)
    assert told().started[20:] == ["simple-b2-s4-t1"] * 5
    assert processes(load()) == {B8: 5, B32: 5, PART: 5, "simple-b2-s4-t1": 5}
    assert load().missing == 0


class TestFailures:
    @pytest.mark.parametrize("process", [1, 2, 5])
    def test_a_failed_case_leaves_the_others_and_fails_the_sweep(self, sweep, pytester, told, load, process):
        result = sweep(fails={B8: process})
        result.assert_outcomes(passed=2, failed=1, skipped=1)
        assert result.ret == 1
        run = load()
        assert processes(run) == {B32: 5, PART: 5}, "its processes are dropped"
        assert [(failure.case_id, failure.stderr_tail) for failure in run.failures] == [(B8, "the last words")]
        assert told().started.count(B8) == process, "it is not measured again"
        assert "was killed" in (pytester.path / "reports/latest/report.md").read_text()
        result.stdout.no_fnmatch_line("*Traceback*")
        result.stdout.no_fnmatch_line("*another exception*")

    def test_the_plain_process_is_no_case_of_the_sweep(self, sweep, load):
        result = sweep(fails={PLAIN: 3})
        result.assert_outcomes(passed=3, skipped=1)
        assert result.ret == 0
        run = load()
        assert (run.plain, run.failures, run.missing) == (None, (), 0)
        assert run.plain_failure.message == f"{PLAIN}: was killed"

    def test_a_sweep_in_which_all_fails_is_still_reported(self, sweep, load):
        sweep("-k", "b8", fails={B8: 1}).assert_outcomes(failed=1, deselected=3)
        assert load().measurements == ()
        assert len(load().failures) == 1
        assert load().peaks is None

    def test_the_first_failure_ends_the_rounds_if_it_is_to_end_the_session(self, sweep, told, load):
        result = sweep("-x", "-rs", "--ntp-order-seed=1", fails={B32: 2})
        result.assert_outcomes(failed=1, skipped=0, passed=1)
        assert told().started.count(B32) == 2
        assert told().started.count(B8) in (1, 2)
        result.stdout.fnmatch_lines(
            [
                f"The sweep ended in round 2 of 5: {B32} failed, and the session ends with it. *",
                "*stopping after 1 fail*",
            ]
        )

    def test_as_many_failures_as_are_allowed_end_the_rounds(self, sweep, told):
        result = sweep("--maxfail=2", "-rs", fails={B32: 1, PART: 1})
        result.assert_outcomes(failed=2, skipped=1)
        assert len(told().started) <= 4, "within the first round"
        result.stdout.fnmatch_lines(
            ["SKIPPED * the sweep ended before there was a result: simple-b* failed, and the session ends with it"]
        )

    def test_failures_of_other_tests_count(self, sweep, told):
        benchmark = """
def test_ordinary():
    assert False

def bench_train_step(measure, case):
    measure(case)
"""
        sweep("--maxfail=2", mode=None, benchmark=benchmark, fails={B8: 1}).assert_outcomes(failed=2)
        assert len(told().started) <= 3

    def test_what_failed_last_is_measured_alone(self, sweep, told):
        sweep("--ntp-rounds=1", cached=True, fails={B8: 1}).assert_outcomes(failed=1, passed=2, skipped=1)
        sweep("--ntp-rounds=1", "--lf", cached=True).assert_outcomes(passed=1)
        assert set(told().started) == {B8, f"{B8}-glibc-free"}

    def test_a_disk_that_fills_up_ends_the_sweep_and_is_no_regression(self, sweep, load):
        full = """
import ntp.sweep_files as files
from ntp.errors import RecordError
kept = []
def save(run, path, really=files.save_run):
    if len(kept) == 2:
        raise RecordError("run.json cannot be written (No space left on device): free disk space")
    kept.append(really(run, path))
files.save_run = save
"""
        result = sweep(more=full, apart=True)
        assert result.ret == 5
        said = [line for line in (*result.outlines, *result.errlines) if "No space left on device" in line]
        assert said
        assert "Traceback" not in f"{result.stdout}{result.stderr}"
        assert processes(load()) == {B8: 2, B32: 2, PART: 2}


@pytest.mark.long
class TestInterruptions:
    @pytest.mark.parametrize(
        ("by", "status", "charts"), [("SIGINT", 2, True), ("SIGTERM", 143, False), ("SIGHUP", 129, False)]
    )
    def test_a_case_with_two_processes_is_reported(self, sweep, pytester, load, by, status, charts):
        result = sweep("--ntp-order-seed=1", mode=None, interrupts=(B32, 3), by=by, charts=charts)
        assert result.ret == status
        assert processes(load()).keys() == {B8, B32, PART}
        assert set(processes(load()).values()) <= {2, 3}
        result.stdout.fnmatch_lines(["Written: run.json, report.*"])
        assert result.stderr.str() == ""
        result.assert_outcomes(passed=3, skipped=1)
        assert (pytester.path / "reports/latest/report.html").exists() == charts

    def test_those_with_fewer_are_named(self, sweep, load):
        # In this order B8 comes before the interruption, PART after it.
        result = sweep("--ntp-order-seed=1", "-rs", interrupts=(B32, 2))
        assert result.ret == 2
        reported = processes(load())
        (line,) = (line for line in result.outlines if line.startswith("The sweep ended in round 2 of 5: it was inter"))
        assert B32 in line
        assert set(line.split("2 processes: ")[1].rstrip(".").split(", ")) == {B8, B32, PART} - reported.keys()
        assert load().missing == 3 - len(reported)
        result.stdout.fnmatch_lines(["SKIPPED * the sweep was interrupted"])

    def test_in_the_first_round_nothing_is_reported_and_that_is_said(self, sweep, pytester):
        earlier = pytester.path / "reports/latest/report.md"
        earlier.parent.mkdir(parents=True)
        earlier.write_text("of an earlier sweep")
        result = sweep(interrupts=(B32, 1))
        assert result.ret == 2
        said = [
            line for line in result.outlines if line.startswith("The sweep ended in round 1 of 5: it was interrupt")
        ]
        assert len(said) == 1
        assert said[0].endswith("Nothing is reported, because a result needs 2 processes and no case has as many yet.")
        assert earlier.read_text() == "of an earlier sweep"
        assert not earlier.with_name("run.json").exists()

    def test_a_sweep_of_one_round_reports_what_it_has(self, sweep, load):
        # In the order of this seed it is the last case.
        assert sweep("--ntp-rounds=1", "--ntp-order-seed=2", interrupts=(B32, 1)).ret == 2
        assert processes(load()) == {B8: 1, PART: 1}

    def test_who_presses_ctrl_c_while_results_are_taken_still_has_them(self, sweep, load):
        pressing = """
@pytest.fixture(autouse=True)
def again():
    yield
    import signal
    signal.raise_signal(signal.SIGINT)
"""
        result = sweep(interrupts=(B32, 3), more=pressing)
        assert result.ret == 2
        assert len(processes(load())) == 3

    def test_whoever_kills_it_finds_the_rounds_before(self, sweep, load):
        result = sweep(interrupts=(B32, 3), by="SIGKILL")
        assert result.ret == -signal.SIGKILL
        assert processes(load()) == {B8: 2, B32: 2, PART: 2}
        assert len(load().plain.processes) == 2

    def test_an_earlier_report_does_not_stand_beside_a_later_run(self, sweep, pytester):
        folder = pytester.path / "reports/latest"
        sweep(charts=True)
        assert {"report.md", "report.html", "throughput.svg"} <= set(os.listdir(folder))
        sweep(interrupts=(B32, 3), by="SIGKILL")
        assert [name for name in os.listdir(folder) if not name.startswith(".")] == ["run.json"]


@pytest.mark.long
class TestProgress:
    def test_a_terminal_sees_a_line_that_is_gone_in_the_end(self, sweep, pytester):
        shown = in_a_terminal(sweep, pytester)
        lines = re.findall(r"\r\x1b\[K(ntp: [^\r\n]*)", shown)
        assert lines[0] == "ntp: importing torch"
        assert len(lines) == 1 + 2 * 4
        assert re.fullmatch(r"ntp: round 1 of 2: simple-b\d+-s64-t1[a-z-]*, about \d+ s left", lines[1])
        assert lines[5].startswith("ntp: round 2 of 2: ")
        after = shown.rpartition(lines[-1])[2]
        assert after.startswith("\r\x1b[K"), "erased"
        assert re.search(r"bench_it.py .*\.", after), "and the results follow"

    def test_nothing_of_it_goes_into_a_pipe(self, sweep):
        result = sweep("--ntp-rounds=2", apart=True)
        assert "round 1" not in result.stdout.str() + result.stderr.str()


def in_a_terminal(sweep, pytester):
    """What a terminal shows of a sweep of two rounds."""
    sweep("--collect-only", "-q")  # writes its files
    options = ("--ntp-threads=1", "--ntp-batch-sizes=8,32", "--ntp-seq-lens=64", "--ntp-sample-time=0.02")
    command = [sys.executable, "-m", "pytest", "--benchmark-only", "-p", "no:cacheprovider", "--ntp-rounds=2", *options]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=pytester.path) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the end of a terminal
            while piece := os.read(ours, 4096):
                shown += piece
        os.close(ours)
    assert process.returncode == 0, shown.decode()
    return shown.decode()
