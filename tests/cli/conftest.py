"""The command line in this process, and files that it reads."""

import signal
from typing import NamedTuple

import pytest

from ntp.cli.app import main
from ntp.records.calibration import Calibration, RememberedCase, RememberedRun, fingerprints
from ntp.records.run import CalibrationKernel
from ntp.records.run_file import save_run

KERNEL = CalibrationKernel(shape=(4, 4, 4), bursts_ns=((1000,),))


class Result(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def call(capsys):
    """``call(*arguments)``: run a command; its exit status, standard output and standard error."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield lambda *arguments: Result(main([*map(str, arguments)]), *capsys.readouterr())
    for number, handler in before.items():  # one that was interrupted is about to end, and deaf
        signal.signal(number, handler)


@pytest.fixture
def store(tmp_path):
    """``store(run)``: write a run, and give the path of its file."""

    def write(run):
        path = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}.json"
        save_run(run, path)
        return path

    return write


@pytest.fixture
def measured(make_measurement, make_run):
    """``measured(step_ns, **fields)``: a run of one case in two processes, with the calibration kernel."""

    def run(step_ns, **fields):
        fields = {"calibration_kernel": KERNEL, "levels": (1, 1)} | fields
        return make_run(make_measurement(step_time_ns=[step_ns] * 20, **fields))

    return run


@pytest.fixture
def calibration_of():
    """``calibration_of(measurement, spread_ns)``: twenty runs of its case on its machine, that far apart by turns."""

    def make(measurement, spread_ns=1):
        machine, software = fingerprints(measurement)
        runs = tuple(
            RememberedRun(
                started=f"2025-01-{day:02}",
                code="abc",
                medians_ns=(10_000_000 + day % 2 * spread_ns,) * 2,
                kernel_ns=(KERNEL.time_ns,) * 2,
            )
            for day in range(1, 21)
        )
        case = RememberedCase(case=measurement.case, runs=runs)
        return Calibration(machine=machine, software=software, cases=(case,))

    return make
