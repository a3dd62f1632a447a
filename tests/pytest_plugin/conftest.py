"""Sweeps in a pytest of their own, with workers that need no process."""

import json
from types import SimpleNamespace

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

# Workers whose step takes as long as the case has tokens (in microseconds), and that say what they were asked. They are
# started in the place of real ones.
CONFTEST = """
import json
import os
import signal
import pytest
import ntp.sweep as sweep
import ntp.sweep_files as sweep_files
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

STARTED = []
ASKED = {{}}

class FakeWorker:
    def __init__(self, case):
        STARTED.append(case.id)
        self.asked = ASKED.setdefault(case.id, [])
        self.case = case
        self.process = STARTED.count(case.id)
        self.step_time_ns = case.workload.tokens * 1000 // case.runtime.threads

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.asked.append("stop")

    def load(self):
        if {fails!r}.get(self.case.id) == self.process:
            raise WorkerFailed(f"{{self.case.id}}: was killed", "the last words")
        if {interrupts!r} == (self.case.id, self.process):
            signal.raise_signal(signal.{signal})
        self.asked.append("load")
        return Loaded(parameters=7, software=Software(), process=Process())

    def warm_up(self):
        self.asked.append("warm_up")
        return WarmUp(step_time_ns=(self.step_time_ns,), wall_time_ns=self.step_time_ns, steady=True)

    def run(self, steps, expected_s=0.0):
        self.asked.append(steps)
        return Ran(step_time_ns=tuple(self.step_time_ns + i for i in range(steps)), minor_page_faults=0,
                   major_page_faults=0, cpu_time_s=0.0, peak_rss_bytes=2**20)

    def calibration_kernel(self):
        self.asked.append("kernel")
        return KernelBurst(shape=(4, 4, 4), time_ns=(1000,), cpu_time_s=0)

    def ask(self, name, steps=0, trace=None):
        if name == "flops":
            raise Refused(f"{{self.case.id}}: RuntimeError: no formula")
        if name == "phases":
            self.asked.append(f"phases={{steps}}")
            samples = tuple(PhaseSamples(phase=phase, time_ns=(1,) * steps) for phase in PHASES)
            return PhaseTimes(phases=samples, instrumented_step_ns=(7,) * steps, bare_step_ns=(7,) * steps)
        if name == "memory":
            parts = TensorBytes(parameters=3)
            point = LiveBytes(time_ns=0, live_bytes=3)
            return MemoryProfile(baseline=parts, peak=parts, peak_phase="loss", phases=(), timeline=(point,))
        if name == "operators":
            self.asked.append(f"operators={{steps}}")
            return OperatorProfile(operators=(), largest_by_shape=(), profiled_step_ns=(7,), bare_step_ns=(7,))
        return Denormals(share=0)

class FakeStarter:
    prepared_in = []

    def __init__(self, timeout_s, forks):
        assert forks is None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def stop(self):
        pass

    def prepare(self, runtimes, source):
        FakeStarter.prepared_in.append(os.environ.get("OF_THE_USER"))

    def __call__(self, case, source):
        return FakeWorker(case)

def pytest_configure(config):
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    patch.setattr(sweep, "WorkerStarter", FakeStarter)
    patch.setattr(sweep, "measure_peaks", lambda threads, **_: MachinePeaks(machine="m", software="s"))
    if not {charts}:  # they take longer than all else
        patch.setattr(sweep_files.SweepFiles, "_draw", lambda self, run: None)

def pytest_sessionfinish(session):
    if {interrupts!r}:
        signal.raise_signal(signal.{signal})  # who presses Ctrl-C presses it again
    asked = {{"asked": ASKED, "started": STARTED, "prepared_in": FakeStarter.prepared_in}}
    (session.config.rootpath / "asked.json").write_text(json.dumps(asked))
"""

SIZES = ("--ntp-threads=1", "--ntp-batch-sizes=8,32", "--ntp-seq-lens=64", "--ntp-sample-time=0.02")


def conftest(fails=None, interrupts=None, by="SIGINT", charts=False):
    return CONFTEST.format(fails=fails or {}, interrupts=interrupts, signal=by, charts=charts)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """A user's cache remembers no sweep of a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def sweep(pytester):
    """``sweep(*options, mode, benchmark, more, apart, cached, **conftest)``: a sweep of three cases in its own folder.

    ``benchmark`` is the source of the benchmarks, ``more`` is what follows it. ``fails`` says which case fails in which
    of its processes, and ``interrupts`` in which process of which case Ctrl-C is pressed, or another signal comes,
    ``by``. Charts are drawn only if they are asked for, and a process of its own is started only where a Ctrl-C, or
    what it has loaded, would reach this one. pytest remembers what failed if it is ``cached``.
    """

    def run(*options, mode="--benchmark-only", benchmark=BENCHMARK, more="", apart=False, cached=False, **fakes):
        run_pytest = pytester.runpytest_subprocess if apart or "interrupts" in fakes else pytester.runpytest_inprocess
        pytester.makeini("[pytest]\npython_files=bench_*.py\npython_functions=bench_* test_*\n")
        pytester.makeconftest(conftest(**fakes))
        pytester.path.joinpath("bench_it.py").write_text(benchmark + more)
        cache = () if cached else ("-p", "no:cacheprovider")
        return run_pytest(*cache, *filter(None, [mode]), *SIZES, *options)

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


@pytest.fixture
def told(pytester):
    """``told()``: what the workers of the last sweep were ``asked``, by case, in which order they were ``started``, and
    the environment that they were ``prepared_in``.
    """
    return lambda: SimpleNamespace(**json.loads(pytester.path.joinpath("asked.json").read_text()))
