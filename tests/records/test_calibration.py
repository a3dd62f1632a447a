"""The runs that a machine remembers."""

import pytest

from ntp.case import Case
from ntp.records.calibration import KEPT_RUNS, Calibration, code_of, fingerprints
from ntp.records.environment import Git, Machine
from ntp.records.run import CalibrationKernel

A, B = "simple-b8-s64-t1", "simple-b32-s64-t1"
KERNEL = CalibrationKernel(shape=(4, 4, 4), bursts_ns=((5, 6, 7),))


@pytest.fixture
def empty(make_measurement):
    machine, software = fingerprints(make_measurement())
    return Calibration(machine=machine, software=software)


def remembered(calibration, case_id=A):
    return next((case.runs for case in calibration.cases if case.case == Case.parse(case_id)), ())


def test_of_a_run_the_medians_of_its_processes_are_kept(empty, make_measurement, make_run):
    run = make_run(make_measurement(A, (10, 20, 60), levels=(1, 2), calibration_kernel=KERNEL), started="monday")
    (kept,) = remembered(empty.with_run(run, "abc"))
    assert (kept.started, kept.code, kept.medians_ns, kept.kernel_ns) == ("monday", "abc", (20, 40), (6, 6))


def test_a_process_without_the_calibration_kernel_is_kept(empty, make_measurement, make_run):
    (kept,) = remembered(empty.with_run(make_run(make_measurement(A, levels=(1, 1))), ""))
    assert kept.kernel_ns == (None, None)


def test_a_single_process_and_another_machine_are_not_remembered(empty, make_measurement, make_run):
    elsewhere = make_measurement(B, levels=(1, 1), machine=Machine(logical_cpus=64))
    assert empty.with_run(make_run(make_measurement(A), elsewhere), "") == empty


def test_the_last_runs_of_each_case_are_kept(empty, make_measurement, make_run):
    calibration = empty.with_run(make_run(make_measurement(B, levels=(1, 1)), started="00"), "")
    for number in range(KEPT_RUNS + 3):
        calibration = calibration.with_run(make_run(make_measurement(A, levels=(1, 1)), started=f"{number:02}"), "")
    assert [run.started for run in remembered(calibration)] == [f"{number:02}" for number in range(3, KEPT_RUNS + 3)]
    assert len(remembered(calibration, B)) == 1


def test_a_run_is_remembered_once(empty, make_measurement, make_run):
    run = make_run(make_measurement(A, levels=(1, 1)))
    assert empty.with_run(run, "").with_run(run, "") == empty.with_run(run, "")


def test_some_cases_of_some_runs(empty, make_measurement, make_run):
    calibration = empty
    for day in ("1", "2", "3"):
        measured = (make_measurement(case_id, levels=(1, 1)) for case_id in (A, B))
        calibration = calibration.with_run(make_run(*measured, started=day), "")
    some = calibration.only([Case.parse(B)], since="2")
    assert [run.started for run in remembered(some, B)] == ["2", "3"]
    assert remembered(some) == ()
    assert calibration.only([Case.parse(B)], since="4").cases == ()


def test_the_code_is_the_commit_unless_files_were_changed(make_measurement, make_run):
    def code(**git):
        return code_of(make_run(make_measurement(git=Git(**git)), started="monday"))

    assert code(commit="abc", dirty=False) == "abc"
    assert code(commit="abc", dirty=True) == code() == "started monday"
    assert code_of(make_run(started="monday")) == "started monday"


def test_a_measurement_is_kept_by_its_machine_and_software(make_measurement):
    measurement = make_measurement()
    environment = measurement.environment
    assert fingerprints(measurement) == (environment.machine.fingerprint, environment.software.fingerprint)
