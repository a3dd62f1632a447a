"""Runs of identical code."""

from ntp.case import Case
from ntp.records.calibration import CalibratedCase, CalibratedRun, Calibration, fingerprints
from ntp.records.run import CalibrationKernel


def calibrated(case_id="simple-b8-s64-t1", started="2025-01-02", count=1):
    run = CalibratedRun(step_time_ns=(1,), calibration_kernel=CalibrationKernel(shape=(4, 4, 4), bursts_ns=((1,),)))
    return CalibratedCase(case=Case.parse(case_id), started=started, runs=(run,) * count)


def test_a_case_is_replaced_as_a_whole_and_the_others_stay():
    first, other, second = calibrated(), calibrated("simple-b8-s64-t2"), calibrated(started="2025-03-04", count=2)
    calibration = Calibration(machine="m1", software="s1", cases=(first, other)).updated([second])
    assert set(calibration.cases) == {other, second}
    assert calibration.at(first.case) == second
    assert calibration.at(Case.parse("simple-b1-s1-t1")) is None


def test_a_measurement_is_kept_by_its_machine_and_software(make_measurement):
    measurement = make_measurement()
    environment = measurement.environment
    assert fingerprints(measurement) == (environment.machine.fingerprint, environment.software.fingerprint)
