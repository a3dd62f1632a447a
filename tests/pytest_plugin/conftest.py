"""Sweeps in a pytest of their own, with workers that need no process."""

import pytest

from ntp.records.run import Run

BENCHMARK = """
import pytest

def bench_train_step(measure, case):
    measure(case)

@pytest.mark.ntp_case(largest=True, part=["forward"])
def bench_forward(measure, case):
    measure(case)

def test_ordinary():
    pass
"""

# Workers whose step takes as long as the case has tokens (in microseconds), and that say what they were asked.
CONFTEST = """
import signal
import pytest
import ntp.sweep as sweep
from ntp.case import PHASES
from ntp.worker.channel import Refused
from ntp.records.observations import (
    Denormals, LiveBytes, MemoryProfile, OperatorProfile, PhaseSamples, PhaseTimes, TensorBytes
)
from ntp.records.peaks import MachinePeaks
from ntp.errors import WorkerFailed
from ntp.records.environment import Process, Software
from ntp.records.run import KernelBurst
from ntp.worker.protocol import Loaded, Ran
from ntp.records.run import WarmUp

ASKED = []

class FakeWorker:
    def __init__(self, case, *, timeout_s):
        self.case = case
        self.step_time_ns = case.workload.tokens * 1000 // case.runtime.threads

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        ASKED.append("stop")

    def load(self):
        if self.case.id == {fails!r}:
            raise WorkerFailed(f"{{self.case.id}}: was killed", "the last words")
        if self.case.id == {interrupts!r}:
            signal.raise_signal(signal.{signal})
        ASKED.append("load")
        return Loaded(parameters=7, software=Software(), process=Process())

    def warm_up(self):
        ASKED.append("warm_up")
        return WarmUp(step_time_ns=(self.step_time_ns,), wall_time_ns=self.step_time_ns, steady=True)

    def run(self, steps, expected_s=0.0):
        ASKED.append(steps)
        return Ran(step_time_ns=tuple(self.step_time_ns + i for i in range(steps)), minor_page_faults=0,
                   major_page_faults=0, cpu_time_s=0.0, peak_rss_bytes=2**20)

    def calibration_kernel(self):
        ASKED.append("calibration_kernel")
        return KernelBurst(shape=(4, 4, 4), time_ns=(1000,), cpu_time_s=0)

    def ask(self, name, steps=0, trace=None):
        if name == "flops":
            raise Refused(f"{{self.case.id}}: RuntimeError: no formula")
        if name == "phases":
            ASKED.append(f"phases={{steps}}")
            samples = tuple(PhaseSamples(phase=phase, time_ns=(1,) * steps) for phase in PHASES)
            return PhaseTimes(phases=samples, instrumented_step_ns=(7,) * steps, bare_step_ns=(7,) * steps)
        if name == "memory":
            parts = TensorBytes(parameters=3)
            point = LiveBytes(time_ns=0, live_bytes=3)
            return MemoryProfile(baseline=parts, peak=parts, peak_phase="loss", phases=(), timeline=(point,))
        if name == "operators":
            ASKED.append(f"operators={{steps}}")
            return OperatorProfile(operators=(), largest_by_shape=(), profiled_step_ns=(7,), bare_step_ns=(7,))
        return Denormals(share=0)

def pytest_configure(config):
    if not {charts}:  # they take longer than all else
        patch = pytest.MonkeyPatch()
        patch.setattr(sweep.Sweep, "_draw", lambda self, run: None)
        config.add_cleanup(patch.undo)

@pytest.fixture(autouse=True, scope="session")
def fake_workers():
    patch = pytest.MonkeyPatch()
    patch.setattr(sweep, "PipeWorker", FakeWorker)
    patch.setattr(sweep.Sweep, "start_untimed", lambda self, case: FakeWorker(case, timeout_s=1))
    patch.setattr(sweep, "measure_peaks", lambda threads, progress: MachinePeaks(machine="m", software="s"))
    yield
    patch.undo()

def pytest_sessionfinish(session):
    if {interrupts!r}:
        signal.raise_signal(signal.{signal})  # who presses Ctrl-C presses it again
    (session.config.rootpath / "asked.txt").write_text(" ".join(map(str, ASKED)))
"""

SIZES = ("--ntp-threads=1", "--ntp-batch-sizes=8,32", "--ntp-seq-lens=64", "--ntp-sample-time=0.02")


def conftest(fails=None, interrupts=None, by="SIGINT", charts=False):
    return CONFTEST.format(fails=fails, interrupts=interrupts, signal=by, charts=charts)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """A user's cache remembers no sweep of a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def sweep(pytester):
    """``sweep(*options, mode, benchmark, more, apart, **conftest)``: a sweep of three cases in a folder of its own.

    ``benchmark`` is the source of the benchmarks, ``more`` is what follows it. Charts are drawn only if they are asked
    for, and a process of its own is started only where a Ctrl-C, or what it has loaded, would reach this one.
    """

    def run(*options, mode="--benchmark-only", benchmark=BENCHMARK, more="", apart=False, **fakes):
        run_pytest = pytester.runpytest_subprocess if apart or "interrupts" in fakes else pytester.runpytest_inprocess
        pytester.makeini("[pytest]\npython_files=bench_*.py\npython_functions=bench_* test_*\n")
        pytester.makeconftest(conftest(**fakes))
        pytester.path.joinpath("bench_it.py").write_text(benchmark + more)
        return run_pytest("-p", "no:cacheprovider", *filter(None, [mode]), *SIZES, *options)

    return run


@pytest.fixture
def sweep_of(pytester):
    """``sweep_of(source)``: a sweep in a project without settings, whose only file of tests is this one."""

    def run(source):
        pytester.makeconftest(conftest())
        pytester.makepyfile(source)
        return pytester.runpytest_inprocess("--benchmark-only", *SIZES)

    return run


@pytest.fixture
def load(pytester):
    """``load()``: the run that the last sweep wrote."""
    return lambda: Run.load(pytester.path / "reports/latest/run.json")
