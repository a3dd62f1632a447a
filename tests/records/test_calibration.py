"""Runs of identical code, kept in a file and found there again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.case import Case
from ntp.errors import RecordError
from ntp.records.calibration import (
    CalibratedCase,
    CalibratedRun,
    Calibration,
    fingerprints,
    load_calibration,
    save_calibration,
)
from ntp.records.run import CalibrationKernel

times = st.lists(st.integers(0, 10**12), min_size=1, max_size=4).map(tuple)
kernels = st.builds(
    CalibrationKernel, shape=st.just((4, 4, 4)), bursts_ns=st.lists(times, min_size=1, max_size=3).map(tuple)
)
runs = st.lists(st.builds(CalibratedRun, step_time_ns=times, calibration_kernel=kernels), min_size=1, max_size=3).map(
    tuple
)
cases = st.builds(
    CalibratedCase,
    case=st.sampled_from([Case.parse(f"simple-b{size}-s4-t1") for size in (1, 2, 3)]),
    started=st.text(max_size=10),
    runs=runs,
)


def unique(found):
    return tuple({each.case: each for each in found}.values())


calibrations = st.builds(
    Calibration, machine=st.just("m1"), software=st.just("s1"), cases=st.lists(cases, max_size=3).map(unique)
)


def calibrated(case_id="simple-b8-s64-t1", started="2025-01-02", count=1):
    run = CalibratedRun(step_time_ns=(1,), calibration_kernel=CalibrationKernel(shape=(4, 4, 4), bursts_ns=((1,),)))
    return CalibratedCase(case=Case.parse(case_id), started=started, runs=(run,) * count)


@given(calibrations)
def test_what_is_kept_comes_back(tmp_path_factory, calibration):
    folder = tmp_path_factory.mktemp("cache") / "deep"
    save_calibration(folder, calibration)
    assert load_calibration(folder, "m1", "s1") == calibration
    assert load_calibration(folder, "m1", "s2") == Calibration(machine="m1", software="s2")


def test_a_case_is_replaced_as_a_whole_and_the_others_stay():
    first, other, second = calibrated(), calibrated("simple-b8-s64-t2"), calibrated(started="2025-03-04", count=2)
    calibration = Calibration(machine="m1", software="s1", cases=(first, other)).updated([second])
    assert set(calibration.cases) == {other, second}
    assert calibration.at(first.case) == second
    assert calibration.at(Case.parse("simple-b1-s1-t1")) is None


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda _: "", lambda _: "[]"])
def test_a_damaged_file_counts_as_empty(tmp_path, damage):
    save_calibration(tmp_path, Calibration(machine="m1", software="s1", cases=(calibrated(),)))
    (file,) = tmp_path.iterdir()
    file.write_text(damage(file.read_text()))
    assert load_calibration(tmp_path, "m1", "s1").cases == ()


def test_a_file_of_another_machine_under_this_name_is_not_believed(tmp_path):
    save_calibration(tmp_path, Calibration(machine="m2", software="s1", cases=(calibrated(),)))
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / file.name.replace("m2", "m1"))
    assert load_calibration(tmp_path, "m1", "s1") == Calibration(machine="m1", software="s1")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        save_calibration(tmp_path / "file", Calibration(machine="m1", software="s1"))


def test_a_measurement_is_kept_by_its_machine_and_software(make_measurement):
    measurement = make_measurement()
    environment = measurement.environment
    assert fingerprints(measurement) == (environment.machine.fingerprint, environment.software.fingerprint)
