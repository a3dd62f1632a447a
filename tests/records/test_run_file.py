"""Runs that were measured without pytest, as files that pytest-benchmark reads."""

import subprocess
import sys

import pytest

from ntp.records.environment import Git, Machine
from ntp.records.run import Run
from ntp.records.run_file import document_of, save_run

MS = 1_000_000


def test_what_is_known_of_a_run_comes_back(make_measurement, make_run, make_observations, make_peaks, tmp_path):
    observed = make_measurement(observations=make_observations(failures=("flame: no",)))
    unknown = make_measurement(machine=Machine(), git=Git())
    for run in (
        make_run(observed, unknown, peaks=make_peaks(fp32=300, bf16=600, warnings=("not kept",))),
        make_run(unknown),
        make_run(),
    ):
        save_run(run, tmp_path / "run.json")
        assert Run.load(tmp_path / "run.json") == run


def test_the_statistics_are_those_of_the_samples_in_seconds(make_measurement, make_run):
    document = document_of(make_run(make_measurement("simple-b8-s64-t2", [3 * MS, 1 * MS, 8 * MS])))
    (bench,) = document["benchmarks"]
    assert bench["name"] == "step[simple-b8-s64-t2]"
    assert bench["params"] == {"threads": 2, "batch_size": 8, "seq_len": 64}
    stats = bench["stats"]
    assert (stats["min"], stats["median"], stats["max"], stats["mean"]) == pytest.approx((0.001, 0.003, 0.008, 0.004))
    assert (stats["rounds"], stats["iterations"]) == (3, 1)
    assert stats["data"] == pytest.approx([0.003, 0.001, 0.008])
    assert document["commit_info"]["branch"] == "main"
    assert document["machine_info"]["cpu"]["brand_raw"] == "Example CPU @ 2.50GHz"


def test_parts_are_named_as_such(make_measurement, make_run):
    (bench,) = document_of(make_run(make_measurement("simple-b8-s64-t1-forward")))["benchmarks"]
    assert bench["fullname"] == "ntp::forward[simple-b8-s64-t1-forward]"


@pytest.mark.parametrize("cases", [["simple-b8-s64-t1", "simple-b8-s64-t2"], ["simple-b8-s64-t1"]])
def test_pytest_benchmark_compares_it(make_measurement, make_run, tmp_path, cases):
    run = make_run(*(make_measurement(case, [2 * MS, 3 * MS, 4 * MS]) for case in cases))
    (tmp_path / "elsewhere").mkdir()
    save_run(run, tmp_path / "profile.json")
    # From another folder: it would import this one's conftest.py.
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "../profile.json", "--columns=min,median,rounds"]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for case in cases:
        (line,) = (line for line in done.stdout.splitlines() if f"step[{case}]" in line)
        assert "2.0000" in line
        assert "3.0000" in line
