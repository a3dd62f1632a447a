"""The pytest side, with sweeps in a pytest of their own and workers that need no process."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

# A pytest within this process unloads what it has loaded, and numpy cannot be loaded twice.
import ntp.cli.gate
import ntp.report.html  # noqa: F401
from ntp.records.baselines import save_baseline
from ntp.records.run import Run
from ntp.records.sole_writer import sole_writer
from ntp.worker.driver import Observing

pytest_plugins = ["pytester"]

PHASE_PAIRS = Observing().phase_pairs
PLAIN = "simple-b32-s64-t1-glibc-free"
"""The largest case as a plain process."""


def test_a_sweep_writes_a_run_and_its_reports(sweep, pytester, load):
    result = sweep(charts=True)
    result.assert_outcomes(passed=3, skipped=1)
    run = load()
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
    result.stdout.fnmatch_lines(
        ["ntp: 3 cases in 5 rounds, about * s; reports go to reports/latest", "*simple-b8-s64-t1*"]
    )


def test_the_tests_are_named_as_the_cases(sweep):
    result = sweep("--collect-only", "-q")
    result.stdout.fnmatch_lines(
        [
            "bench_it.py::bench_train_step[[]simple-b8-s64-t1[]]",
            "bench_it.py::bench_train_step[[]simple-b32-s64-t1[]]",
            "bench_it.py::bench_forward[[]simple-b32-s64-t1-forward[]]",
        ]
    )


def test_a_worker_is_asked_for_the_samples_and_no_step_more(sweep, told):
    sweep("-k", "bench_train_step", "--ntp-rounds=2")
    # 20 ms of steps of 512 and of 2048 microseconds: 40 and 10 of them, in eight blocks with the calibration kernel
    # around each.
    for case_id, blocks in (("simple-b8-s64-t1", [5] * 8), ("simple-b32-s64-t1", [1, 1, 1, 2, 1, 1, 1, 2])):
        timed = [asked for steps in blocks for asked in (steps, "kernel")]
        process = ["load", "warm_up", "kernel", *timed]
        # The observers look at the last process.
        assert told().asked[case_id] == [*process, "stop", *process, f"phases={PHASE_PAIRS}", "operators=2", "stop"]
        if case_id.startswith("simple-b32"):
            assert told().asked[PLAIN] == [*process, "stop"] * 2


def test_an_observer_that_fails_costs_what_it_would_have_seen(sweep, pytester, load):
    sweep("-k", "b8").assert_outcomes(passed=1, deselected=3)
    (measurement,) = load().measurements
    assert measurement.observations.memory.peak_bytes == 3
    assert measurement.observations.flops is None
    assert measurement.observations.failures == ("flops: simple-b8-s64-t1: RuntimeError: no formula",)
    assert "not-observed" in (pytester.path / "reports/latest/report.md").read_text()


def test_the_pass_under_the_profiler_can_be_left_out(sweep, told, load):
    sweep("-k", "b8", "--ntp-no-profile", "--ntp-rounds=1")
    assert told().asked["simple-b8-s64-t1"][-2:] == [f"phases={PHASE_PAIRS}", "stop"]
    assert load().measurements[0].observations.operators is None


def test_pytest_benchmark_sees_the_workers_times(sweep, pytester, load):
    sweep("-k", "bench_train_step", "--benchmark-json=own.json")
    own = json.loads(pytester.path.joinpath("own.json").read_text())
    first = own["benchmarks"][0]["stats"]
    assert first["rounds"] == 5 * 40, "of all processes"
    assert first["data"] == pytest.approx([(512_000 + i) / 1e9 for _ in range(5 * 8) for i in range(5)])
    assert Run.from_document(own).measurements == load().measurements


def test_grouping_by_a_parameter_and_selecting_by_name(sweep):
    result = sweep("--benchmark-group-by=param:batch_size", "-k", "b8")
    result.assert_outcomes(passed=1, deselected=3)
    result.stdout.fnmatch_lines(["*benchmark 'batch_size=8': 1 tests*"])


def test_saved_runs_can_be_compared(sweep, pytester):
    sweep("--benchmark-save=first")
    result = sweep("--benchmark-compare=0001", "--benchmark-compare-fail=mean:5%")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["*(0001_first)*"])


def test_pytest_benchmark_compare_reads_our_file(sweep, pytester, monkeypatch):
    sweep()
    # From another folder: it would import this one's conftest.py.
    (pytester.path / "elsewhere").mkdir()
    pytester.chdir()
    monkeypatch.chdir("elsewhere")
    result = pytester.run(sys.executable, "-m", "pytest_benchmark", "compare", "../reports/latest/run.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*bench_train_step*simple-b8-s64-t1*"])


def test_disabled_benchmarks_run_one_step_and_write_nothing(sweep, pytester, told):
    result = sweep("-k", "simple", mode="--benchmark-disable")
    result.assert_outcomes(passed=3, deselected=1)
    assert list(told().asked.values()) == [["load", 1, "stop"]] * 3
    assert not (pytester.path / "reports").exists()


def test_disabling_beats_a_skip_in_the_project_file(sweep):
    sweep("--benchmark-skip", mode="--benchmark-disable").assert_outcomes(passed=4)


def test_skipped_benchmarks_measure_nothing(sweep, pytester):
    sweep(mode="--benchmark-skip").assert_outcomes(passed=1, skipped=3)
    assert not (pytester.path / "reports").exists()


def test_who_does_not_wait_for_the_charts_has_all_else_and_no_earlier_ones(sweep, pytester, load):
    earlier = pytester.path / "reports/latest/report.html"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("of an earlier sweep")
    drawing = "import ntp.report.html, signal\nntp.report.html.page = lambda *_: signal.raise_signal(signal.SIGINT)\n"
    result = sweep(more=drawing, apart=True, charts=True)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["Written: run.json, report.md, report.csv in reports/latest"])
    assert len(load().measurements) == 3
    assert not earlier.exists()


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
        ("--ntp-rounds=0", "rounds: Input should be greater than*'0'*"),
        ("--ntp-rounds=many", "rounds: Input should be a valid integer*'many'*"),
        ("--ntp-order-seed=-1", "order-seed: Input should be greater than*"),
        ("--ntp-precision=0", "precision: expected more than 0% and less than 100%*'0'*"),
        ("--ntp-precision=100%", "precision: expected more than 0% and less than 100%*'100%'*"),
        (
            "--ntp-budget=1min",
            "*: --ntp-budget limits the search for a precision, *: add --ntp-precision 1%, or leave*",
        ),
    ],
)
def test_wrong_options_are_refused_in_one_line(sweep, option, message):
    result = sweep(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}"])
    result.stderr.no_fnmatch_line("*Traceback*")


def test_a_users_own_benchmark_group_is_kept(sweep, pytester):
    mine = "\n@pytest.mark.benchmark(group='mine')\ndef bench_mine(measure, case):\n    measure(case)\n"
    sweep(more=mine)
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


def test_a_project_without_settings_measures_what_it_names_a_test(sweep_of, load):
    sweep_of("def test_train_step(measure, case): measure(case)").assert_outcomes(passed=2)
    assert len(load().measurements) == 2


def test_a_fixture_around_ours_is_ours(sweep_of, load):
    sweep_of(
        """
        import pytest

        @pytest.fixture
        def measure(measure):
            return measure

        def test_train_step(measure, case):
            measure(case)
        """
    ).assert_outcomes(passed=2)
    assert len(load().measurements) == 2


def test_cases_of_its_own_are_measured_as_they_are(sweep_of, load):
    sweep_of(
        """
        import pytest
        from ntp.case import Case

        @pytest.mark.parametrize("case", [Case.parse("simple-b2-s4-t1")], ids=["small"])
        def test_train_step(measure, case):
            measure(case)
        """
    ).assert_outcomes(passed=1)
    assert [measurement.case.id for measurement in load().measurements] == ["simple-b2-s4-t1"]


@pytest.fixture
def in_the_way(pytester):
    """Report folders that cannot be written, by what is wrong with them."""
    pytester.path.joinpath("file").write_text("")
    pytester.path.joinpath("taken/run.json").mkdir(parents=True)
    return {"a file": "file", "below a file": "file/reports", "no place for folders": "/proc/ntp", "a folder": "taken"}


@pytest.mark.parametrize(
    ("what", "options"),
    [
        *[(what, ()) for what in ("a file", "below a file", "no place for folders", "a folder")],
        ("a file", ("--ntp-baseline=baselines",)),
    ],
)
def test_reports_that_cannot_be_written_cost_no_sweep(
    sweep, pytester, told, in_the_way, make_run, make_measurement, what, options
):
    save_baseline(make_run(make_measurement()), pytester.path / "baselines")
    result = sweep(f"--ntp-report-dir={in_the_way[what]}", *options)
    assert result.ret == (2 if options else 4)
    said = [line for line in (*result.outlines, *result.errlines) if "run.json" in line]
    assert len(said) == 1
    assert re.search(r"cannot be written|is a folder: remove it", said[0])
    assert told().started == []


def test_what_the_system_refuses_a_sweep_is_one_line_and_no_regression(sweep):
    refusing = """
import ntp.sweep
def refuse(self):
    raise OSError(24, "Too many open files")
ntp.sweep.Sweep.run = refuse
"""
    result = sweep(more=refusing, apart=True)
    assert result.ret == 5
    said = [line for line in (*result.outlines, *result.errlines) if "Too many open files; raise the limit" in line]
    assert said
    assert "Traceback" not in f"{result.stdout}{result.stderr}"


def test_reports_are_not_looked_at_where_nothing_is_measured(sweep, pytester):
    pytester.path.joinpath("file").write_text("")
    assert sweep("--ntp-report-dir=file", "--collect-only").ret == 0
    assert sweep("--ntp-report-dir=file", mode="--benchmark-disable").ret == 0


def test_two_sweeps_into_one_folder_are_one_too_many(sweep, pytester, told):
    with sole_writer(pytester.path / "reports/latest/run.json"):
        result = sweep(apart=True)
        assert result.ret == 4
        result.stderr.fnmatch_lines([f"ERROR: *run.json is being written by another process ({os.getpid()}): wait*"])
        assert told().started == []
        sweep("--ntp-report-dir=reports/another").assert_outcomes(passed=3, skipped=1)
    sweep().assert_outcomes(passed=3, skipped=1)
    assert not list(pytester.path.rglob(".*.lock"))


def test_the_table_comes_before_what_pytest_benchmark_fails_with(sweep, pytester):
    sweep("--benchmark-save=first")
    (saved,) = pytester.path.glob(".benchmarks/*/0001_first.json")
    document = json.loads(saved.read_text())
    for bench in document["benchmarks"]:
        bench["stats"]["mean"] /= 2
    saved.write_text(json.dumps(document))
    result = sweep("--benchmark-compare=0001", "--benchmark-compare-fail=mean:5%", apart=True)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*Fastest: *", "Written: run.json*"])
    result.stderr.fnmatch_lines(["*PerformanceRegression: Performance has regressed."])
