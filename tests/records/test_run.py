"""Runs are written and read back, and other files are refused."""

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.errors import RecordError
from ntp.records.run import (
    NOTHING_USED,
    SCHEMA_VERSION,
    CalibrationKernel,
    Failure,
    MeasuredProcess,
    Measurement,
    Run,
    Usage,
    WarmUp,
    write_whole,
)
from ntp.records.run_file import document_of

any_text = st.text(st.characters(exclude_categories=()))
"""Surrogates too, with which Python represents the bytes of a path that is not UTF-8."""

times = st.lists(st.integers(0, 10**15), min_size=1, max_size=20).map(tuple)
bursts = st.lists(times, min_size=1, max_size=4).map(tuple)
kernels = st.none() | st.builds(CalibrationKernel, shape=st.just((2, 3, 4)), bursts_ns=bursts)


def reread(run):
    return Run.from_document(json.loads(json.dumps(document_of(run))))


@given(
    step_time_ns=times,
    warm_up_ns=times,
    calibration_kernel=kernels,
    wall=st.floats(0, 1e6),
    message=any_text,
    command=st.lists(any_text),
    levels=st.lists(st.floats(0.5, 2), min_size=1, max_size=6),
    seed=st.integers(0, 2**31 - 1),
    precision=st.none() | st.floats(1e-6, 0.99),
    plain_fails=st.booleans(),
)
def test_a_run_comes_back_as_it_was(
    make_measurement,
    step_time_ns,
    warm_up_ns,
    calibration_kernel,
    wall,
    message,
    command,
    levels,
    seed,
    precision,
    plain_fails,
):
    warm_up = WarmUp(step_time_ns=warm_up_ns, wall_time_ns=sum(warm_up_ns), steady=False)
    measurement = make_measurement(
        step_time_ns=step_time_ns, levels=levels, calibration_kernel=calibration_kernel, warm_up=warm_up
    )
    plain = make_measurement("simple-b8-s64-t1-glibc-free", levels=levels)
    failure = Failure(case_id="simple-b1-s1-t1", message=message)
    run = Run(
        started="2026-01-02T03:04:05+00:00",
        wall_time_s=wall,
        command=tuple(command),
        planned=3,
        rounds=len(levels),
        order_seed=seed,
        precision=precision,
        budget_s=precision and wall,
        measurements=(measurement,),
        plain=None if plain_fails else plain,
        plain_failure=failure if plain_fails else None,
        failures=(failure,),
    )
    assert document_of(run)["ntp"]["schema_version"] == SCHEMA_VERSION
    assert reread(run) == run
    assert Run.model_validate_json(run.model_dump_json()) == run


@given(levels=st.lists(st.floats(0.5, 2), min_size=1, max_size=6), times=times)
def test_pytest_benchmark_has_the_samples_of_all_processes_in_order(make_measurement, make_run, levels, times):
    measurement = make_measurement(step_time_ns=times, levels=levels)
    (benchmark,) = document_of(make_run(measurement))["benchmarks"]
    samples_ns = [sample for process in measurement.processes for sample in process.step_time_ns]
    assert list(measurement.step_time_ns) == samples_ns
    assert benchmark["stats"]["data"] == [sample / 1e9 for sample in samples_ns]
    assert benchmark["stats"]["rounds"] == len(levels) * len(times)


def test_processes_are_added_in_order_and_observations_are_kept(make_measurement, make_observations):
    one, two = make_measurement(levels=(1.0, 1.1)), make_measurement(levels=(0.9,), observations=make_observations())
    both = one.with_processes_of(two)
    assert both.processes == (*one.processes, *two.processes)
    assert both.observations == two.observations
    assert both.with_processes_of(one).observations == two.observations
    assert both.medians_ns == (10_000_000, 11_000_000, 9_000_000)


@given(bursts)
def test_the_calibration_kernel_takes_the_median_of_all_bursts(bursts_ns):
    kernel = CalibrationKernel(shape=(2, 3, 4), bursts_ns=bursts_ns)
    assert kernel.time_ns == max(1, statistics.median(sum(bursts_ns, ())))


def test_a_clock_too_coarse_for_the_calibration_kernel_divides_by_no_zero():
    assert CalibrationKernel(shape=(2, 3, 4), bursts_ns=((0,), (0, 0))).time_ns == 1


@pytest.mark.parametrize("bursts_ns", [(), ((),), ((1,), ()), ((-1,),)])
def test_a_calibration_kernel_without_samples_is_refused(bursts_ns):
    with pytest.raises(ValueError, match=r"at least 1|has a sample|greater than or equal to 0"):
        CalibrationKernel(shape=(2, 3, 4), bursts_ns=bursts_ns)


def test_what_is_neither_measured_nor_failed_is_missing(make_measurement):
    run = Run(started="", wall_time_s=1, command=(), planned=5, measurements=(make_measurement(),))
    assert run.missing == 4


def test_measurements_are_frozen_and_need_samples(make_measurement):
    with pytest.raises(ValueError, match="frozen"):
        make_measurement().parameters = 3
    with pytest.raises(ValueError, match="at least 1"):
        Measurement.model_validate(make_measurement().model_dump() | {"processes": ()})
    (process,) = make_measurement().processes
    with pytest.raises(ValueError, match="at least 1"):
        MeasuredProcess.model_validate(process.model_dump() | {"step_time_ns": ()})
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        MeasuredProcess.model_validate(process.model_dump() | {"step_time_ns": (1, -1)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON, or is truncated"),
        ('{"benchmarks": [', "not JSON, or is truncated"),
        ('{"a":' * 100_000, "not JSON, or is truncated"),
        ("[1, 2]", "not a benchmark run"),
        ('{"benchmarks": 3}', "not a benchmark run"),
        ('{"benchmarks": []}', "not written by ntp"),
        ('{"benchmarks": [], "ntp": {"schema_version": 99}}', "schema version 99, this ntp reads 3: upgrade"),
        ('{"benchmarks": [], "ntp": {"schema_version": 3}}', "damaged: started: Field required"),
        ('{"benchmarks": [{}], "ntp": {"schema_version": 3}}', "damaged"),
        ('{"benchmarks": [{"extra_info": {"ntp": 1}}], "ntp": {"schema_version": 3}}', "damaged"),
        ('{"benchmarks": [], "ntp": {"schema_version": 2}}', "schema version 2, this ntp reads 3: measure again"),
    ],
)
def test_files_that_are_no_run_get_one_line(tmp_path, text, message):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=message) as refusal:
        Run.load(path)
    assert "\n" not in str(refusal.value)
    assert "run.json" in str(refusal.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RecordError, match=r"none.json cannot be read \(No such file"):
        Run.load(tmp_path / "none.json")


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="not JSON"):
        Run.load(path)


@given(text=st.text())
def test_any_truncation_of_a_run_is_refused(tmp_path_factory, make_measurement, text):
    run = Run(started="", wall_time_s=1, command=(text,), planned=1, measurements=(make_measurement(),))
    whole = json.dumps(document_of(run))
    path = tmp_path_factory.mktemp("runs") / "run.json"
    path.write_text(whole[: len(whole) - 1 - len(text) % 50])
    with pytest.raises(RecordError):
        Run.load(path)


def test_writing_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "deep" / "run.json"
    write_whole(path, "one\n")
    write_whole(path, "two\r\n")
    assert path.read_bytes() == b"two\r\n"
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]


@given(text=any_text)
def test_text_that_is_not_utf_8_is_written_escaped(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("reports") / "report.md"
    write_whole(path, text)
    assert path.read_bytes() == text.encode("utf-8", "backslashreplace")


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        write_whole(tmp_path / "file" / "run.json", "text")


def test_a_failed_write_keeps_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_whole(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RecordError, match="No space left on device"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_an_argument_that_is_no_utf8_costs_no_record(make_run, make_measurement):
    run = make_run(make_measurement(), command=("pytest", "-k", "a\udcff", "é"))
    assert run.command == ("pytest", "-k", "a\\udcff", "é")
    assert reread(run) == run


def test_usage_adds_up_but_for_the_peak():
    first, second = (Usage(peak_rss_bytes=size, minor_page_faults=size * 2, major_page_faults=1) for size in (5, 3))
    assert first + second == Usage(peak_rss_bytes=5, minor_page_faults=16, major_page_faults=2)
    assert sum([first], NOTHING_USED) == first
    assert first.since(second) == Usage(peak_rss_bytes=5, minor_page_faults=4, major_page_faults=0)
