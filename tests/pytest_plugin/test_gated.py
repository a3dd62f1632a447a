"""Sweeps that are judged by stored baselines, with workers that need no process."""

import re

import pytest

# A pytest within this process unloads what it has loaded, and numpy cannot be loaded twice.
import ntp.cli.gate
import ntp.report.html  # noqa: F401
from ntp.machine.cache import load_kept, save_kept
from ntp.records.baselines import save_baseline
from ntp.records.calibration import Calibration, RememberedCase, RememberedRun, fingerprints

pytest_plugins = ["pytester"]

GATED = ("-k", "simple", "--ntp-baseline=baselines")


def often(measurement):
    """Twenty runs of a case that do not differ."""
    runs = (RememberedRun.of(measurement, f"2025-01-{day:02}", "abc") for day in range(1, 21))
    return RememberedCase(case=measurement.case, runs=tuple(runs))


def faster(measurement, factor):
    processes = (
        process.model_copy(update={"step_time_ns": tuple(round(ns / factor) for ns in process.step_time_ns)})
        for process in measurement.processes
    )
    return measurement.model_copy(update={"processes": tuple(processes)})


@pytest.fixture(scope="module")
def measured():
    """What a sweep of three cases has measured, once for all tests: the workers' times are always the same."""
    return []


@pytest.fixture
def gated(sweep, pytester, monkeypatch, load, measured):
    """``gated(*options, slowdown=1, calibrated=True, **how)``: a sweep judged by one that was that much faster."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    if not measured:
        sweep()
        measured.append(load())
    (run,) = measured
    machine, software = fingerprints(run.measurements[0])
    cases = tuple(map(often, run.measurements))
    calibration = Calibration(machine=machine, software=software, cases=cases)

    def held(*options, slowdown=1.0, calibrated=True, **how):
        if calibrated:
            save_kept(calibration, pytester.path / "cache/ntp")
        measurements = tuple(faster(measurement, slowdown) for measurement in run.measurements)
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
    result = gated(fails={"simple-b8-s64-t1": 1})
    assert result.ret == 5
    result.stdout.fnmatch_lines(["- simple-b8-s64-t1: the head has no such case: it failed*"])
    assert gated(slowdown=1.2, fails={"simple-b8-s64-t1": 1}).ret == 1
    broken = "def bench_simple(benchmark):\n    assert False\n"
    assert gated(more=broken, fails={"simple-b8-s64-t1": 1}).ret == 1


@pytest.mark.long
def test_an_interrupted_sweep_stays_interrupted(gated):
    assert gated(interrupts=("simple-b32-s64-t1", 3)).ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize("options", [("--collect-only",), ("--benchmark-disable",), ("--benchmark-skip",)])
def test_a_session_that_measures_nothing_by_intention_is_not_judged(sweep, pytester, options):
    (pytester.path / "baselines").mkdir()
    result = sweep("--ntp-baseline=baselines", *options, mode=None)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*ntp baseline*")


def test_a_sweep_whose_cases_were_all_skipped_does_not_pass(sweep, pytester):
    (pytester.path / "baselines").mkdir()
    skipped = "import pytest\n\ndef bench_train_step(measure, case):\n    pytest.skip('not today')\n"
    result = sweep("--ntp-baseline=baselines", benchmark=skipped)
    assert result.ret == 4
    assert not (pytester.path / "reports").exists()


@pytest.mark.long
def test_a_folder_of_baselines_that_is_wrong_costs_no_sweep(sweep, pytester, told):
    result = sweep("--ntp-baseline=none", apart=True)
    assert result.ret == 2
    result.stderr.fnmatch_lines(["*ntp: *none is not a folder of baselines: create it with ntp baseline *"])
    result.stderr.no_fnmatch_line("*Traceback*")
    assert not (pytester.path / "asked.json").exists()
    (pytester.path / "none").mkdir()
    result = sweep("--ntp-baseline=none", apart=True)
    assert result.ret == 4
    (said,) = (line for line in (*result.outlines, *result.errlines) if "holds no baseline" in line)
    assert re.search(
        r"Not comparable: .*none holds no baseline; run the sweep without --ntp-baseline, then store", said
    )
    assert told().started == []


def test_wrong_usage_of_a_gated_sweep_is_not_called_not_comparable(sweep, pytester):
    (pytester.path / "baselines").mkdir()
    for option in ("--ntp-threads=0", "--ntp-seed=none"):
        assert sweep(option, "--ntp-baseline=baselines", apart=True).ret == 2


def test_what_is_known_of_the_verdict_is_said_before_anything_is_measured(gated):
    gated(calibrated=False).stdout.fnmatch_lines(["ntp: the noise of this machine is not known, *--calibrate"])
    gated().stdout.no_fnmatch_line("ntp: *not*known*")


def test_a_complete_sweep_is_remembered_and_one_round_is_not(gated, pytester, load):
    def kept():
        return load_kept(Calibration, *fingerprints(load().measurements[0]), pytester.path / "cache/ntp")

    gated()
    assert {remembered.runs[-1].started for remembered in kept().cases} == {load().started}
    assert load().noise.remembered == 20, "those before it"
    before = kept()
    gated("--ntp-rounds=1", calibrated=False)
    assert kept() == before
