"""A run held against a folder of baselines, with the noise in this user's cache."""

import pytest

from ntp.cli.exit_status import OF_VERDICT
from ntp.cli.gate import Gate, judged, noise_between, status_of
from ntp.errors import RecordError
from ntp.judge.verdict import Verdict
from ntp.machine.cache import save_kept
from ntp.machine.system import read_machine
from ntp.records.baselines import save_baseline
from ntp.records.calibration import Calibration, fingerprints
from ntp.runners.calibrate import remember


@pytest.fixture
def calibrated(tmp_path, monkeypatch, measured, calibration_of):
    """A cache that knows the noise of that case: next to none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_kept(calibration_of(measured(10_000_000).measurements[0]), tmp_path / "cache/ntp")


@pytest.mark.usefixtures("calibrated")
def test_the_noise_is_that_of_this_users_cache(measured, make_run, monkeypatch, tmp_path):
    base = measured(10_000_000)
    assert judged(base, measured(10_100_000)).verdict == "pass"
    assert judged(base, measured(11_000_000)).verdict == "regression"
    assert judged(base, measured(11_000_000), 0.2).verdict == "pass"
    assert judged(base, measured(10_000_000, parameters=10**9), 0.2, ["parameters"]).verdict == "pass"
    assert judged(base, make_run()).verdict == "not comparable"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert judged(base, measured(10_100_000)).verdict == "not comparable"


@pytest.mark.usefixtures("calibrated")
def test_the_runs_that_are_compared_do_not_excuse_themselves(measured, tmp_path):
    base, head = (
        measured(ns).model_copy(update={"started": f"2025-02-0{day}", "rounds": 2})
        for day, ns in enumerate((10_000_000, 20_000_000), 1)
    )
    for run in (base, head):
        remember(run, "abc")
    assert judged(base, head).noise.spread < 0.01
    assert noise_between(base, normalised=True).remembered == 19, "the last twenty, less one"
    assert noise_between(base, normalised=True).spread > 0.03


@pytest.mark.usefixtures("calibrated")
def test_the_baseline_of_this_machine_is_chosen_and_named(measured, tmp_path):
    here = measured(10_000_000)
    machine = here.measurements[0].environment.machine.model_copy(update={"logical_cpus": 96})
    folder = tmp_path / "baselines"
    there = measured(5_000_000, machine=machine)
    path, _ = (save_baseline(run, folder) for run in (here, there))
    verdict, text = Gate(folder).judge(measured(10_100_000))
    assert verdict == "pass"
    assert text.startswith(f"Baseline: {path.name}\nPass: ")
    path.unlink()
    verdict, text = Gate(folder).judge(measured(10_100_000))
    assert verdict == "not comparable"
    assert "another machine: logical_cpus 96 -> 2" in text


def test_what_is_known_before_anything_is_measured(measured, calibration_of, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "baselines"
    save_baseline(measured(10_000_000), folder)
    assert not Gate(folder).is_empty
    assert list(Gate(folder).forecast()) == [
        f"no baseline in {folder} was measured on this machine: counts will be compared, times will not"
    ]
    here = measured(10_000_000, machine=read_machine())
    save_baseline(here, folder)
    (line,) = Gate(folder).forecast()
    assert line.startswith("the noise of this machine is not known")
    machine, software = fingerprints(here.measurements[0])
    save_kept(Calibration(machine=machine, software=software), tmp_path / "cache/ntp")
    assert list(Gate(folder).forecast()) == [line], "nothing is remembered"
    save_kept(calibration_of(here.measurements[0]), tmp_path / "cache/ntp")
    assert list(Gate(folder).forecast()) == []


def test_a_folder_without_baselines_says_what_makes_one(measured, tmp_path):
    verdict, text = Gate(tmp_path).judge(measured(1))
    assert verdict == "not comparable"
    remedy = f"run the sweep without --ntp-baseline, then store its run with ntp baseline RUN.json --out {tmp_path}"
    assert text == f"Not comparable: {tmp_path} holds no baseline; {remedy}.\n"
    assert Gate(tmp_path).is_empty
    with pytest.raises(RecordError, match="is not a folder of baselines"):
        Gate(tmp_path / "none")


def test_every_verdict_has_an_exit_status():
    assert set(OF_VERDICT) == set(Verdict.__args__)
    assert OF_VERDICT == {"pass": 0, "improvement": 0, "regression": 1, "inconclusive": 3, "not comparable": 4}


@pytest.mark.parametrize(
    ("verdict", "pytest_status", "workers_alone", "status"),
    [
        ("pass", 0, True, 0),
        ("inconclusive", 0, True, 3),
        ("not comparable", 1, False, 1),  # a test of somebody's failed
        ("not comparable", 1, True, 5),  # workers were lost
        ("regression", 1, True, 1),
        ("pass", 2, True, 2),  # interrupted
    ],
)
def test_pytests_own_failures_win_but_a_lost_worker_is_no_regression(verdict, pytest_status, workers_alone, status):
    assert status_of(verdict, pytest_status, workers_alone_failed=workers_alone) == status
