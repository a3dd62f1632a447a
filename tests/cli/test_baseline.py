"""The command line around store baselines: baseline, compare --gate, doctor --calibrate."""

import pytest

from ntp.case import Case
from ntp.cli import exit_status
from ntp.errors import WorkerFailed
from ntp.judge.baseline import judge_run, noises_of
from ntp.judge.between_runs import run_noise
from ntp.machine.cache import save_kept
from ntp.machine.cpus import available_cpus
from ntp.records.baselines import save_baseline
from ntp.records.run import Failure, Run
from ntp.report import baseline as baseline_report
from ntp.report import calibration as calibration_report
from ntp.report.document import markdown, terminal


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/ntp"


class TestBaseline:
    def test_a_run_becomes_the_baseline_of_its_machine(self, call, measured, store, tmp_path):
        run = measured(10_000_000)
        status, out, err = call("baseline", store(run), "--out", tmp_path / "deep/baselines")
        (path,) = (tmp_path / "deep/baselines").iterdir()
        assert (status, err) == (0, "")
        assert out == f"Written: {path}, the baseline of 1 case on this machine and software\n"
        assert Run.load(path) == run

    def test_the_folder_is_the_one_that_the_readme_names(self, call, measured, store, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert call("baseline", store(measured(1)))[0] == 0
        assert len(list((tmp_path / "reports/baselines").iterdir())) == 1

    @pytest.mark.parametrize(
        "changes", [{"failures": (Failure(case_id="simple-b1-s1-t1", message="killed"),)}, {"planned": 2}]
    )
    def test_a_run_that_failed_is_refused_in_one_line(self, call, make_measurement, make_run, store, tmp_path, changes):
        status, out, err = call("baseline", store(make_run(make_measurement(), **changes)), "--out", tmp_path / "new")
        assert (status, out) == (exit_status.USAGE, "")
        assert err.startswith("ntp: error: ")
        assert err.count("\n") == 1
        assert not (tmp_path / "new").exists()


class TestGate:
    @pytest.mark.parametrize(
        ("head_ns", "spread_ns", "options", "status"),
        [
            (10_100_000, 1, (), 0),
            (9_000_000, 1, (), 0),
            (10_900_000, 1, (), exit_status.REGRESSION),
            (10_600_000, 1, ("--threshold", "10%"), 0),
            (10_600_000, 2_000_000, (), exit_status.INCONCLUSIVE),
        ],
    )
    def test_the_exit_status_is_the_verdict(
        self, call, cache, measured, store, head_ns, spread_ns, options, status, calibration_of
    ):
        base, head = measured(10_000_000), measured(head_ns)
        calibration = calibration_of(head.measurements[0], spread_ns)
        save_kept(calibration, cache)
        ended_with, out, err = call("compare", store(base), store(head), "--gate", *options)
        threshold = 0.1 if options else 0.05
        assert (ended_with, err) == (status, "")
        assert out == terminal(
            baseline_report.report(judge_run(base, head, run_noise(calibration, normalised=True), threshold))
        )

    def test_without_a_calibration_times_are_not_comparable_but_counts_are(self, call, measured, store):
        base, head = store(measured(10_000_000)), store(measured(99_000_000))
        status, out, _ = call("compare", "--gate", base, head)
        assert status == exit_status.NOT_COMPARABLE
        assert "ntp doctor --calibrate" in out
        more = store(measured(10_000_000, parameters=10**9))
        assert call("compare", "--gate", base, more)[0] == exit_status.REGRESSION
        assert call("compare", "--gate", base, more, "--allow", "flops, param*")[0] == exit_status.NOT_COMPARABLE

    def test_as_markdown(self, call, measured, store):
        base, head = measured(1), measured(2)
        _, out, _ = call("compare", "--gate", store(base), store(head), "--format", "markdown")
        assert out == markdown(baseline_report.report(judge_run(base, head)))

    def test_as_a_page_but_not_as_csv(self, call, measured, store):
        base, head = store(measured(1)), store(measured(2))
        _, out, _ = call("compare", "--gate", base, head, "--format", "html")
        assert out.startswith("<!doctype html>")
        assert "Not comparable: the head cannot be compared" in out
        status, _, err = call("compare", "--gate", base, head, "--format", "csv")
        assert status == exit_status.USAGE
        assert "--gate writes terminal, markdown or html (got 'csv')" in err

    def test_without_the_gate_nothing_is_judged(self, call, measured, store):
        status, out, _ = call("compare", store(measured(1_000)), store(measured(9_000, parameters=10**9)))
        assert status == 0
        assert "is slower in 1 case" in out

    def test_nothing_in_common_is_not_comparable(self, call, measured, store):
        other = measured(1, case="simple-b32-s64-t1")
        for options in ((), ("--gate",)):
            assert call("compare", store(measured(1)), store(other), *options)[0] == exit_status.NOT_COMPARABLE

    @pytest.mark.parametrize("options", [("--threshold", "5%"), ("--allow", "flops"), ("--gate", "--threshold", "0")])
    def test_options_that_make_no_sense_are_refused_in_one_line(self, call, measured, store, options):
        path = store(measured(1))
        status, out, err = call("compare", path, path, *options)
        assert (status, out) == (exit_status.USAGE, "")
        assert err.count("\n") == 1


class TestCalibrate:
    @pytest.fixture
    def calibrate(self, call, monkeypatch):
        """``calibrate(yields, *arguments)``: the command with a runner that gives these, and what it was asked."""

        def run(yields, *arguments):
            asked = []

            def runner(cases, runs, **_):
                asked.append(([case.id for case in cases], runs))
                yield from yields

            monkeypatch.setattr("ntp.runners.calibrate.calibrate", runner)
            return *call("doctor", "--calibrate", *arguments), asked

        return run

    def test_the_table_shows_the_last_of_what_was_measured(self, calibrate, make_measurement, calibration_of):
        calibrations = [calibration_of(make_measurement(), spread_ns) for spread_ns in (1, 10_000)]
        status, out, err, asked = calibrate(calibrations, "--runs", 3, "--cases", "simple-b8-s64-t1")
        assert (status, err, asked) == (0, "", [(["simple-b8-s64-t1"], 3)])
        assert out == terminal(calibration_report.report(noises_of(calibrations[-1])))

    def test_without_options_the_steps_of_a_sweep_five_times(self, calibrate, make_measurement, calibration_of):
        *_, asked = calibrate([calibration_of(make_measurement())])
        threads = dict.fromkeys((1, available_cpus().max_threads))
        assert asked == [([f"simple-b{b}-s{s}-t{t}" for t in threads for b in (8, 32) for s in (64, 128)], 5)]

    def test_the_cases_of_a_run_without_repeats(self, calibrate, make_measurement, make_run, store, calibration_of):
        run = make_run(make_measurement("simple-b8-s64-t1"), make_measurement("simple-b4-s64-t1"))
        *_, asked = calibrate([calibration_of(make_measurement())], "--cases", f"simple-b4-s64-t1,{store(run)}")
        assert asked == [(["simple-b4-s64-t1", "simple-b8-s64-t1"], 5)]

    @pytest.mark.parametrize(
        ("error", "status", "words"),
        [
            (KeyboardInterrupt(), exit_status.INTERRUPTED, "interrupted"),
            (WorkerFailed("was killed"), exit_status.TOOL_FAILED, "was killed"),
        ],
    )
    def test_what_was_finished_is_shown_when_it_ends_early(
        self, calibrate, make_measurement, error, status, words, calibration_of
    ):
        calibration = calibration_of(make_measurement())

        def ends_early():
            yield calibration
            raise error

        ended_with, out, err, _ = calibrate(ends_early())
        assert ended_with == status
        assert words in err
        assert out == terminal(calibration_report.report(noises_of(calibration)))

    def test_nothing_is_shown_when_nothing_was_finished(self, calibrate):
        def ends_at_once():
            raise KeyboardInterrupt
            yield

        assert calibrate(ends_at_once())[:2] == (exit_status.INTERRUPTED, "")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--cases", "simple"], "'simple' is not a case id"),
            (["--cases", "none.json"], "none.json cannot be read"),
            (["--cases", "simple-b8-s64-t100000"], "threads: 100000 asked for"),
            (["--runs", "1"], "--runs"),
            (["--refresh"], "give only one of the two"),
            (["--model", "mine.py:make"], "no case of a sweep uses 'mine.py:make'"),
        ],
    )
    def test_wrong_options_are_refused_before_anything_starts(self, calibrate, arguments, words):
        status, out, err, asked = calibrate([], *arguments)
        assert (status, out, asked) == (exit_status.USAGE, "", [])
        assert words in err
        assert err.count("\n") == 1

    def test_a_run_does_not_choose_the_code_that_is_run(
        self, calibrate, make_measurement, make_run, store, calibration_of
    ):
        run = store(make_run(make_measurement("simple-b8-s64-t1"), make_measurement("mine.py:make-b4-s64-t1")))
        status, _, err, asked = calibrate([], "--cases", run)
        assert (status, asked) == (exit_status.USAGE, [])
        assert "names the model 'mine.py:make', whose code would be run: if you trust it, name it with --model" in err
        assert err.count("\n") == 1
        status, _, err, asked = calibrate([], "--cases", run, "--model", "other.py:make")
        assert (status, asked) == (exit_status.USAGE, [])
        calibration = calibration_of(make_measurement())
        *_, asked = calibrate([calibration], "--cases", run, "--model", "mine.py:make")
        assert asked == [(["simple-b8-s64-t1", "mine.py:make-b4-s64-t1"], 5)]
        *_, asked = calibrate([calibration], "--cases", "mine.py:make-b4-s64-t1")
        assert asked == [(["mine.py:make-b4-s64-t1"], 5)]

    def test_a_run_without_cases_is_refused(self, calibrate, make_run, store):
        status, _, err, asked = calibrate([], "--cases", store(make_run()))
        assert (status, asked) == (exit_status.USAGE, [])
        assert "there is no case in" in err

    @pytest.mark.parametrize("option", [("--runs", 5), ("--cases", "simple-b8-s64-t1"), ("--model", "simple")])
    def test_its_options_belong_to_it(self, call, option):
        status, _, err = call("doctor", *option)
        assert status == exit_status.USAGE
        assert "belong to --calibrate: give it, too" in err


def test_a_baseline_the_gate_and_the_noise_together(call, cache, measured, store, tmp_path, calibration_of):
    """The way of one who cannot run the base, from a run to a verdict."""
    run = measured(10_000_000)
    assert call("baseline", store(run), "--out", tmp_path / "baselines")[0] == 0
    save_kept(calibration_of(run.measurements[0]), cache)
    (base,) = (tmp_path / "baselines").iterdir()
    status, out, _ = call("compare", "--gate", base, store(measured(12_000_000)))
    assert status == exit_status.REGRESSION
    assert out.startswith("Regression: the head is up to 20.0% slower than the baseline in 1 of 1 case.")
    assert save_baseline(run, tmp_path / "baselines") == base
    assert Run.load(base).measurements[0].case == Case.parse("simple-b8-s64-t1")
