"""The pytest side, with sweeps in a pytest of their own and workers that need no process."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

# A pytest within this process unloads what it has loaded, and numpy does not bear being loaded again.
import ntp.cli.gate
import ntp.report.html  # noqa: F401
from ntp.machine.cache import save_kept
from ntp.records.baselines import save_baseline
from ntp.records.calibration import CalibratedCase, CalibratedRun, Calibration, fingerprints
from ntp.records.run import Run
from ntp.records.sole_writer import sole_writer

pytest_plugins = ["pytester"]

BENCHMARK = """
import pytest

def bench_train_step(measure, case):
    measure(case)

@pytest.mark.ntp_case(largest=True, part=["forward"])
def bench_forward(measure, case):
    measure(case)

def test_ordinary():
    pass
"""

# Workers whose step takes as long as the case has tokens (in microseconds), and that say what they were asked.
CONFTEST = """
import signal
import pytest
import ntp.sweep as sweep
from ntp.case import PHASES
from ntp.worker.channel import Refused
from ntp.records.observations import (
    Denormals, LiveBytes, MemoryProfile, OperatorProfile, PhaseSamples, PhaseTimes, TensorBytes
)
from ntp.records.peaks import MachinePeaks
from ntp.errors import WorkerFailed
from ntp.records.environment import Process, Software
from ntp.records.run import KernelBurst
from ntp.worker.protocol import Loaded, Ran
from ntp.records.run import WarmUp

ASKED = []

class FakeWorker:
    def __init__(self, case, *, timeout_s):
        self.case = case
        self.step_time_ns = case.workload.tokens * 1000 // case.runtime.threads

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        ASKED.append("stop")

    def load(self):
        if self.case.id == {fails!r}:
            raise WorkerFailed(f"{{self.case.id}}: was killed", "the last words")
        if self.case.id == {interrupts!r}:
            signal.raise_signal(signal.{signal})
        ASKED.append("load")
        return Loaded(parameters=7, software=Software(), process=Process())

    def warm_up(self):
        ASKED.append("warm_up")
        return WarmUp(step_time_ns=(self.step_time_ns,), wall_time_ns=self.step_time_ns, steady=True)

    def run(self, steps, expected_s=0.0):
        ASKED.append(steps)
        return Ran(step_time_ns=tuple(self.step_time_ns + i for i in range(steps)), minor_page_faults=0,
                   major_page_faults=0, cpu_time_s=0.0, peak_rss_bytes=2**20)

    def calibration_kernel(self):
        ASKED.append("calibration_kernel")
        return KernelBurst(shape=(4, 4, 4), time_ns=(1000,), cpu_time_s=0)

    def ask(self, name, steps=0, trace=None):
        if name == "flops":
            raise Refused(f"{{self.case.id}}: RuntimeError: no formula")
        if name == "phases":
            ASKED.append(f"phases={{steps}}")
            samples = tuple(PhaseSamples(phase=phase, time_ns=(1,) * steps) for phase in PHASES)
            return PhaseTimes(phases=samples, instrumented_step_ns=(7,) * steps, bare_step_ns=(7,) * steps)
        if name == "memory":
            parts = TensorBytes(parameters=3)
            point = LiveBytes(time_ns=0, live_bytes=3)
            return MemoryProfile(baseline=parts, peak=parts, peak_phase="loss", phases=(), timeline=(point,))
        if name == "operators":
            ASKED.append(f"operators={{steps}}")
            return OperatorProfile(operators=(), largest_by_shape=(), profiled_step_ns=(7,), bare_step_ns=(7,))
        return Denormals(share=0)

@pytest.fixture(autouse=True, scope="session")
def fake_workers():
    patch = pytest.MonkeyPatch()
    patch.setattr(sweep, "PipeWorker", FakeWorker)
    patch.setattr(sweep, "measure_peaks", lambda threads, progress: MachinePeaks(machine="m", software="s"))
    yield
    patch.undo()

def pytest_sessionfinish(session):
    if {interrupts!r}:
        signal.raise_signal(signal.{signal})  # who presses Ctrl-C presses it again
    (session.config.rootpath / "asked.txt").write_text(" ".join(map(str, ASKED)))
"""

SWEEP = ("--benchmark-only", "--ntp-threads=1", "--ntp-batch-sizes=8,32", "--ntp-seq-lens=64", "--ntp-sample-time=0.02")


@pytest.fixture
def sweep(pytester):
    """A function that runs a sweep of three cases in a folder of its own."""

    def run(*options, fails=None, interrupts=None, by="SIGINT", benchmark=BENCHMARK, apart=False):
        # A Ctrl-C in a pytest of this process would end this one too.
        run_pytest = pytester.runpytest_subprocess if interrupts or apart else pytester.runpytest_inprocess
        pytester.makeini("[pytest]\npython_files=bench_*.py\npython_functions=bench_* test_*\n")
        pytester.makeconftest(CONFTEST.format(fails=fails, interrupts=interrupts, signal=by))
        pytester.path.joinpath("bench_it.py").write_text(benchmark)
        return run_pytest("-p", "no:cacheprovider", *options)

    return run


def load(pytester):
    return Run.load(pytester.path / "reports/latest/run.json")


def test_a_sweep_writes_a_run_and_its_reports(sweep, pytester):
    result = sweep(*SWEEP)
    result.assert_outcomes(passed=3, skipped=1)
    run = load(pytester)
    ids = ["simple-b8-s64-t1", "simple-b32-s64-t1", "simple-b32-s64-t1-forward"]
    assert [measurement.case.id for measurement in run.measurements] == ids
    assert (run.planned, run.missing, run.failures) == (3, 0, ())
    for name in ("report.md", "report.csv"):
        text = (pytester.path / "reports/latest" / name).read_text()
        assert all(case_id in text for case_id in ids)
    text = (pytester.path / "reports/latest/report.md").read_text()
    shown = set(re.findall(r"\]\((\w+\.svg)\)", text))
    assert shown == {path.name for path in (pytester.path / "reports/latest").glob("*.svg")}
    assert "throughput.svg" in shown
    result.stdout.fnmatch_lines(["*3 cases, about*", "*simple-b8-s64-t1*"])


def test_the_tests_are_named_as_the_cases(sweep):
    result = sweep(*SWEEP, "--collect-only", "-q")
    result.stdout.fnmatch_lines(
        [
            "bench_it.py::bench_train_step[[]simple-b8-s64-t1[]]",
            "bench_it.py::bench_train_step[[]simple-b32-s64-t1[]]",
            "bench_it.py::bench_forward[[]simple-b32-s64-t1-forward[]]",
        ]
    )


def test_a_worker_is_asked_for_the_samples_and_no_step_more(sweep, pytester):
    sweep(*SWEEP, "-k", "bench_train_step")
    # 20 ms of steps of 512 and of 2048 microseconds, and at least ten. Then the observers' own.
    asked = pytester.path.joinpath("asked.txt").read_text()
    # 40 steps and 10, in eight turns with the calibration kernel around each.
    turns = ("5 calibration_kernel " * 8, "".join(f"{steps} calibration_kernel " for steps in (1, 1, 1, 2, 1, 1, 1, 2)))
    assert asked == " ".join(f"load warm_up calibration_kernel {steps}phases=4 operators=3 stop" for steps in turns)


def test_an_observer_that_fails_costs_what_it_would_have_seen(sweep, pytester):
    sweep(*SWEEP, "-k", "b8").assert_outcomes(passed=1, deselected=3)
    (measurement,) = load(pytester).measurements
    assert measurement.observations.memory.peak_bytes == 3
    assert measurement.observations.flops is None
    assert measurement.observations.failures == ("flops: simple-b8-s64-t1: RuntimeError: no formula",)
    assert "not-observed" in (pytester.path / "reports/latest/report.md").read_text()


def test_the_pass_under_the_profiler_can_be_left_out(sweep, pytester):
    sweep(*SWEEP, "-k", "b8", "--ntp-no-profile")
    assert pytester.path.joinpath("asked.txt").read_text() == (
        f"load warm_up calibration_kernel {'5 calibration_kernel ' * 8}phases=4 stop"
    )
    assert load(pytester).measurements[0].observations.operators is None


def test_pytest_benchmark_sees_the_workers_times(sweep, pytester):
    sweep(*SWEEP, "-k", "bench_train_step", "--benchmark-json=own.json")
    own = json.loads(pytester.path.joinpath("own.json").read_text())
    first = own["benchmarks"][0]["stats"]
    assert first["rounds"] == 40
    assert first["data"] == pytest.approx([(512_000 + i) / 1e9 for _ in range(8) for i in range(5)])
    assert Run.from_document(own).measurements == load(pytester).measurements


def test_grouping_by_a_parameter_and_selecting_by_name(sweep):
    result = sweep(*SWEEP, "--benchmark-group-by=param:batch_size", "-k", "b8")
    result.assert_outcomes(passed=1, deselected=3)
    result.stdout.fnmatch_lines(["*benchmark 'batch_size=8': 1 tests*"])


def test_saved_runs_can_be_compared(sweep, pytester):
    sweep(*SWEEP, "--benchmark-save=first")
    result = sweep(*SWEEP, "--benchmark-compare=0001", "--benchmark-compare-fail=mean:5%")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["*(0001_first)*"])


def test_pytest_benchmark_compare_reads_our_file(sweep, pytester, monkeypatch):
    sweep(*SWEEP)
    # From another folder: it would import this one's conftest.py.
    (pytester.path / "elsewhere").mkdir()
    pytester.chdir()
    monkeypatch.chdir("elsewhere")
    result = pytester.run(sys.executable, "-m", "pytest_benchmark", "compare", "../reports/latest/run.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*bench_train_step*simple-b8-s64-t1*"])


def test_disabled_benchmarks_run_one_step_and_write_nothing(sweep, pytester):
    result = sweep("--benchmark-disable", *SWEEP[1:], "-k", "simple")
    result.assert_outcomes(passed=3, deselected=1)
    assert pytester.path.joinpath("asked.txt").read_text() == "load 1 stop load 1 stop load 1 stop"
    assert not (pytester.path / "reports").exists()


def test_disabling_beats_a_skip_in_the_project_file(sweep):
    sweep("--benchmark-disable", "--benchmark-skip", *SWEEP[1:]).assert_outcomes(passed=4)


def test_skipped_benchmarks_measure_nothing(sweep, pytester):
    sweep("--benchmark-skip", *SWEEP[1:]).assert_outcomes(passed=1, skipped=3)
    assert not (pytester.path / "reports").exists()


def test_a_failed_case_leaves_the_others_and_fails_the_sweep(sweep, pytester):
    result = sweep(*SWEEP, fails="simple-b8-s64-t1")
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    assert result.ret == 1
    run = load(pytester)
    assert len(run.measurements) == 2
    assert [(failure.case_id, failure.stderr_tail) for failure in run.failures] == [
        ("simple-b8-s64-t1", "the last words")
    ]
    assert "was killed" in (pytester.path / "reports/latest/report.md").read_text()
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*another exception*")


def test_a_sweep_in_which_all_fails_is_still_reported(sweep, pytester):
    sweep(*SWEEP, "-k", "b8", fails="simple-b8-s64-t1").assert_outcomes(failed=1, deselected=3)
    assert load(pytester).measurements == ()
    assert len(load(pytester).failures) == 1
    assert load(pytester).peaks is None


def test_who_does_not_wait_for_the_charts_has_all_else_and_no_earlier_ones(sweep, pytester):
    earlier = pytester.path / "reports/latest/report.html"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("of an earlier sweep")
    drawing = "import ntp.report.html, signal\nntp.report.html.page = lambda *_: signal.raise_signal(signal.SIGINT)\n"
    result = sweep(*SWEEP, benchmark=BENCHMARK + drawing, apart=True)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["Written: run.json, report.md, report.csv in reports/latest"])
    assert len(load(pytester).measurements) == 3
    assert not earlier.exists()


@pytest.mark.parametrize(("by", "status"), [("SIGINT", 2), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_an_interrupted_sweep_keeps_what_it_has(sweep, pytester, by, status):
    result = sweep(*SWEEP, interrupts="simple-b32-s64-t1", by=by)
    assert result.ret == status
    result.stdout.fnmatch_lines(["Incomplete: of 3 cases, 2 were never run*", "Written: run.json, report.html*"])
    assert result.stderr.str() == ""
    assert (pytester.path / "reports/latest/report.html").exists()
    run = load(pytester)
    assert [measurement.case.id for measurement in run.measurements] == ["simple-b8-s64-t1"]
    assert run.missing == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--ntp-threads=0", "*: expected positive integers*'0'*"),
        ("--ntp-threads=two", "*: expected positive integers*'two'*"),
        ("--ntp-threads=1,100000", "threads: 100000 asked for, but this process may use*"),
        ("--ntp-batch-sizes=8,-1", "*: expected positive integers*'8,-1'*"),
        ("--ntp-steps=magic", "no step is named 'magic': write 'eager', or levers*onednn*"),
        ("--ntp-precisions=fp7", "precision: Input should be 'fp32'*'fp7'*"),
        ("--ntp-model=nonsense", "model: expected 'simple'*'nonsense'*"),
        ("--ntp-data=nonsense", "data: expected 'uniform'*'nonsense'*"),
        ("--ntp-vocab-size=0", "vocab-size: Input should be greater than*"),
        ("--ntp-allocator=mine", "allocator: Input should be*'mine'*"),
        ("--ntp-sample-time=0", "sample-time: expected a duration*'0'*"),
        ("--ntp-sample-time=inf", "sample-time: expected a duration*'inf'*"),
        ("--ntp-timeout=nan", "timeout: expected a duration*'nan'*"),
        ("--ntp-timeout=soon", "timeout: expected a duration*'soon'*"),
        ("--ntp-seed=none", "seed: Input should be a valid integer*'none'*"),
        ("--ntp-report-dir=", "report-dir: expected the path of a folder (got '')*"),
        ("--ntp-report-dir=a\udcff", "report-dir: expected a path in UTF-8 (got *udcff')*"),
        ("--ntp-min-samples=0", "min-samples: Input should be greater than*"),
    ],
)
def test_wrong_options_are_refused_in_one_line(sweep, option, message):
    result = sweep("--benchmark-only", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}"])
    result.stderr.no_fnmatch_line("*Traceback*")


def test_a_users_own_benchmark_group_is_kept(sweep, pytester):
    benchmark = BENCHMARK.replace("def bench_train_step", "@pytest.mark.benchmark(group='mine')\ndef bench_train_step")
    sweep(*SWEEP, benchmark=benchmark)
    document = json.loads(Path(pytester.path / "reports/latest/run.json").read_text())
    assert {bench["group"] for bench in document["benchmarks"]} == {"mine", None}


def test_without_pytest_benchmark_the_plugin_keeps_quiet(pytester):
    pytester.makepyfile("def test_ordinary(): pass")
    pytester.runpytest_inprocess("-p", "no:benchmark").assert_outcomes(passed=1)


def test_without_pytest_benchmark_a_measurement_is_refused_in_one_line(pytester):
    pytester.makepyfile("def test_train_step(measure, case): measure(case)")
    result = pytester.runpytest_inprocess("-p", "no:benchmark")
    result.stdout.fnmatch_lines(["ntp measures through pytest-benchmark: leave out -p no:benchmark"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_project_without_settings_measures_what_it_names_a_test(pytester):
    pytester.makeconftest(CONFTEST.format(fails=None, interrupts=None, signal="SIGINT"))
    pytester.makepyfile("def test_train_step(measure, case): measure(case)")
    pytester.runpytest_inprocess(*SWEEP).assert_outcomes(passed=2)
    assert len(load(pytester).measurements) == 2


def test_a_fixture_around_ours_is_ours(pytester):
    pytester.makeconftest(CONFTEST.format(fails=None, interrupts=None, signal="SIGINT"))
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def measure(measure):
            return measure

        def test_train_step(measure, case):
            measure(case)
        """
    )
    pytester.runpytest_inprocess(*SWEEP).assert_outcomes(passed=2)
    assert len(load(pytester).measurements) == 2


def test_cases_of_its_own_are_measured_as_they_are(pytester):
    pytester.makeconftest(CONFTEST.format(fails=None, interrupts=None, signal="SIGINT"))
    pytester.makepyfile(
        """
        import pytest
        from ntp.case import Case

        @pytest.mark.parametrize("case", [Case.parse("simple-b2-s4-t1")], ids=["small"])
        def test_train_step(measure, case):
            measure(case)
        """
    )
    pytester.runpytest_inprocess(*SWEEP).assert_outcomes(passed=1)
    assert [each.case.id for each in load(pytester).measurements] == ["simple-b2-s4-t1"]


@pytest.fixture
def in_the_way(pytester):
    """Report folders that cannot be written, by what is wrong with them."""
    pytester.path.joinpath("file").write_text("")
    pytester.path.joinpath("taken/run.json").mkdir(parents=True)
    return {"a file": "file", "below a file": "file/reports", "no place for folders": "/proc/ntp", "a folder": "taken"}


@pytest.mark.parametrize("options", [(), ("--ntp-baseline=baselines",)], ids=["plain", "gated"])
@pytest.mark.parametrize("what", ["a file", "below a file", "no place for folders", "a folder"])
def test_reports_that_cannot_be_written_cost_no_sweep(
    sweep, pytester, in_the_way, make_run, make_measurement, what, options
):
    save_baseline(make_run(make_measurement()), pytester.path / "baselines")
    result = sweep(*SWEEP, f"--ntp-report-dir={in_the_way[what]}", *options, apart=True)
    assert result.ret == (2 if options else 4)
    said = [line for line in (*result.outlines, *result.errlines) if "run.json" in line]
    assert len(said) == 1
    assert re.search(r"cannot be written|is a folder: remove it", said[0])
    assert pytester.path.joinpath("asked.txt").read_text() == ""


def test_what_the_system_refuses_a_sweep_is_one_line_and_no_regression(sweep):
    refusing = """
import ntp.sweep
def refuse(self):
    raise OSError(24, "Too many open files")
ntp.sweep.Sweep.run = refuse
"""
    result = sweep(*SWEEP, benchmark=BENCHMARK + refusing, apart=True)
    assert result.ret == 5
    said = [line for line in (*result.outlines, *result.errlines) if "Too many open files; raise the limit" in line]
    assert said
    assert "Traceback" not in f"{result.stdout}{result.stderr}"


def test_reports_are_not_looked_at_where_nothing_is_measured(sweep, pytester):
    pytester.path.joinpath("file").write_text("")
    assert sweep(*SWEEP, "--ntp-report-dir=file", "--collect-only").ret == 0
    assert sweep("--benchmark-disable", *SWEEP[1:], "--ntp-report-dir=file").ret == 0


def test_two_sweeps_into_one_folder_are_one_too_many(sweep, pytester):
    with sole_writer(pytester.path / "reports/latest/run.json"):
        result = sweep(*SWEEP, apart=True)
        assert result.ret == 4
        result.stderr.fnmatch_lines([f"ERROR: *run.json is being written by another process ({os.getpid()}): wait*"])
        assert pytester.path.joinpath("asked.txt").read_text() == ""
        sweep(*SWEEP, "--ntp-report-dir=reports/another").assert_outcomes(passed=3, skipped=1)
    sweep(*SWEEP).assert_outcomes(passed=3, skipped=1)
    assert not list(pytester.path.rglob(".*.lock"))


def test_the_table_comes_before_what_pytest_benchmark_fails_with(sweep, pytester):
    sweep(*SWEEP, "--benchmark-save=first")
    (saved,) = pytester.path.glob(".benchmarks/*/0001_first.json")
    document = json.loads(saved.read_text())
    for bench in document["benchmarks"]:
        bench["stats"]["mean"] /= 2
    saved.write_text(json.dumps(document))
    result = sweep(*SWEEP, "--benchmark-compare=0001", "--benchmark-compare-fail=mean:5%", apart=True)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*Fastest: *", "Written: run.json*"])
    result.stderr.fnmatch_lines(["*PerformanceRegression: Performance has regressed."])


GATED = (*SWEEP, "-k", "simple", "--ntp-baseline=baselines")


@pytest.fixture
def gated(sweep, pytester, monkeypatch):
    """``gated(slowdown=1, *options, known=True, **how)``: a sweep held against one so many times as fast."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    sweep(*SWEEP)
    run = load(pytester)
    machine, software = fingerprints(run.measurements[0])
    known = tuple(
        CalibratedCase(
            case=each.case,
            started="2025-01-02",
            runs=tuple(
                CalibratedRun(
                    step_time_ns=tuple(ns + i for ns in each.step_time_ns), calibration_kernel=each.calibration_kernel
                )
                for i in range(3)
            ),
        )
        for each in run.measurements
    )
    calibration = Calibration(machine=machine, software=software, cases=known)

    def faster(measurement, factor):
        return measurement.model_copy(
            update={"step_time_ns": tuple(round(each / factor) for each in measurement.step_time_ns)}
        )

    def held(*options, slowdown=1.0, calibrated=True, **how):
        if calibrated:
            save_kept(calibration, pytester.path / "cache/ntp")
        measurements = tuple(faster(each, slowdown) for each in run.measurements)
        save_baseline(run.model_copy(update={"measurements": measurements}), pytester.path / "baselines")
        return sweep(*GATED, *options, **how)

    return held


@pytest.mark.parametrize(
    ("slowdown", "status", "answer"),
    [(1.0, 0, "Pass: *any of 3 cases."), (1.2, 1, "Regression: *20.0% slower*"), (0.8, 0, "Improvement: *")],
)
def test_the_verdict_is_the_last_thing_said_and_the_exit_status(gated, slowdown, status, answer):
    result = gated(slowdown=slowdown)
    result.assert_outcomes(passed=3, deselected=1)
    assert result.ret == status
    result.stdout.fnmatch_lines(["*Written: run.json*", "*ntp baseline*", "Baseline: *.json", answer])


def test_without_the_noise_of_this_machine_times_are_not_comparable(gated):
    result = gated(calibrated=False)
    assert result.ret == 4
    result.stdout.fnmatch_lines(["Not comparable: *3 of 3 cases.", "- all cases: the noise *ntp doctor --calibrate*"])


def test_a_sweep_that_leaves_out_a_case_does_not_pass(gated):
    result = gated("-k", "b32")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["Not comparable: *1 of 3 cases.", "- simple-b8-s64-t1: the head has no such case"])


def test_a_lost_worker_is_no_regression_and_another_failure_is_pytests_own(gated, pytester):
    result = gated(fails="simple-b8-s64-t1")
    assert result.ret == 5
    result.stdout.fnmatch_lines(["- simple-b8-s64-t1: the head has no such case: it failed*"])
    assert gated(slowdown=1.2, fails="simple-b8-s64-t1").ret == 1
    broken = BENCHMARK + "def bench_simple(benchmark):\n    assert False\n"
    assert gated(benchmark=broken, fails="simple-b8-s64-t1").ret == 1


def test_an_interrupted_sweep_stays_interrupted(gated):
    assert gated(interrupts="simple-b32-s64-t1").ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize("options", [("--collect-only",), ("--benchmark-disable",), ("--benchmark-skip",)])
def test_a_session_that_measures_nothing_by_intention_is_not_judged(sweep, pytester, options):
    (pytester.path / "baselines").mkdir()
    result = sweep(*SWEEP[1:], "--ntp-baseline=baselines", *options)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*ntp baseline*")


def test_a_sweep_whose_cases_were_all_skipped_does_not_pass(sweep, pytester):
    (pytester.path / "baselines").mkdir()
    skipped = "import pytest\n\ndef bench_train_step(measure, case):\n    pytest.skip('not today')\n"
    result = sweep(*SWEEP, "--ntp-baseline=baselines", benchmark=skipped)
    assert result.ret == 4
    assert not (pytester.path / "reports").exists()


def test_a_folder_of_baselines_that_is_wrong_costs_no_sweep(sweep, pytester):
    result = sweep(*SWEEP, "--ntp-baseline=none", apart=True)
    assert result.ret == 2
    result.stderr.fnmatch_lines(["*ntp: *none is not a folder of baselines: create it with ntp baseline *"])
    result.stderr.no_fnmatch_line("*Traceback*")
    assert not (pytester.path / "asked.txt").exists()
    (pytester.path / "none").mkdir()
    result = sweep(*SWEEP, "--ntp-baseline=none", apart=True)
    assert result.ret == 4
    (said,) = (line for line in (*result.outlines, *result.errlines) if "holds no baseline" in line)
    assert re.search(
        r"Not comparable: .*none holds no baseline; run the sweep without --ntp-baseline, then store", said
    )
    assert pytester.path.joinpath("asked.txt").read_text() == ""


def test_wrong_usage_of_a_gated_sweep_is_not_called_not_comparable(sweep, pytester):
    (pytester.path / "baselines").mkdir()
    for option in ("--ntp-threads=0", "--ntp-seed=none"):
        assert sweep("--benchmark-only", option, "--ntp-baseline=baselines", apart=True).ret == 2


def test_what_is_known_of_the_verdict_is_said_before_anything_is_measured(gated):
    gated(calibrated=False).stdout.fnmatch_lines(["ntp: the noise of this machine is not known, *--calibrate"])
    gated().stdout.no_fnmatch_line("ntp: *not*known*")
