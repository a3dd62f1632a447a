"""How a case is measured and observed, with workers that need no process."""

import math
import time

import pytest
from fakes import FakeWorker
from hypothesis import given
from hypothesis import strategies as st

from ntp.case import Case, Workload
from ntp.errors import WorkerFailed
from ntp.records.endings import Ending
from ntp.records.environment import Counters
from ntp.records.observations import Observations
from ntp.records.run import CalibrationKernel, WarmUp
from ntp.worker import driver
from ntp.worker.channel import Refused
from ntp.worker.driver import Observing, Sampling, measure, observe

CASE = Case(workload=Workload(batch_size=2, seq_len=4))


class ScriptedWorker(FakeWorker):
    """A worker that keeps what it was asked, and moves the clock."""

    refuses = None
    """Which of the requests for the calibration kernel."""

    def __init__(self, warm_up_ns=(200_000_000,) * 8, step_ns=100_000_000):
        self.warm_up_ns = warm_up_ns
        self.step_ns = step_ns
        self.now_s = 0.0
        self.asked = []
        self.expected_s = []

    def said(self, what):
        self.asked.append(what)
        self.now_s += {"load": 2.0, "calibration_kernel": 0.5}.get(what, 0.0)
        self.kernel_ns = self.asked.count("calibration_kernel")
        if what == "calibration_kernel" and self.refuses == self.kernel_ns:
            raise Refused("simple-b2-s4-t1: no memory")

    def warm_up(self):
        self.said("warm_up")
        self.now_s += sum(self.warm_up_ns) / 1e9
        return WarmUp(step_time_ns=self.warm_up_ns, wall_time_ns=sum(self.warm_up_ns), steady=True)

    def run(self, steps, expected_s=0.0):
        self.expected_s.append(expected_s)
        self.now_s += steps * self.step_ns / 1e9
        self.peak_rss_bytes = steps
        self.cpu_times_ns = lambda steps: (75_000_000,) * steps
        self.ending = Ending(loss=math.nan if steps == 7 else 6.9, anonymous_bytes=steps)
        return super().run(steps)


def test_a_case_is_measured_with_exactly_the_steps_it_needs():
    worker = ScriptedWorker()
    sampling = Sampling(time_s=3.0, min_samples=5, blocks=2)
    measurement = measure(CASE, worker, sampling, round_=3, clock_s=lambda: worker.now_s)
    assert worker.asked == [
        "load",
        "warm_up",
        "calibration_kernel",
        "run 7",
        "calibration_kernel",
        "run 8",
        "calibration_kernel",
    ]
    assert worker.expected_s == pytest.approx([3.0 * 7 / 15, 3.0 * 8 / 15])
    assert measurement.step_time_ns == (100_000_000,) * 15
    (process,) = measurement.processes
    assert process.step_cpu_ns == (75_000_000,) * 15
    assert process.round == 3
    assert process.harness.start_s == pytest.approx(2.0)
    assert process.harness.warm_up_s == pytest.approx(1.6)
    assert process.harness.timed_s == pytest.approx(1.5 + 3 * 0.5)
    assert process.minor_page_faults == 60, "of both blocks"
    assert process.major_page_faults == 2
    assert process.peak_rss_bytes == 8, "of the block where it was highest"
    assert [ending.anonymous_bytes for ending in measurement.endings] == [7, 8], "of each block"
    assert math.isnan(measurement.endings[0].loss)
    assert measurement.parameters == 7
    assert measurement.environment.software.torch == "2.9"
    assert process.calibration_kernel == CalibrationKernel(shape=(4, 4, 4), bursts_ns=((1,), (2,), (3,)))


@given(st.integers(1, 50), st.integers(1, 12))
def test_blocks_are_as_equal_as_can_be_and_hold_every_step(steps, blocks):
    worker = ScriptedWorker(warm_up_ns=(10**9,) * 8, step_ns=10**9)
    sampling = Sampling(time_s=0.5, min_samples=steps, blocks=blocks)
    assert len(measure(CASE, worker, sampling, clock_s=lambda: worker.now_s).step_time_ns) == steps
    sizes = [int(asked.removeprefix("run ")) for asked in worker.asked if asked.startswith("run ")]
    assert len(sizes) == min(steps, blocks)
    assert max(sizes) - min(sizes) <= 1


def test_the_calibration_kernels_cpu_time_is_nobody_elses(monkeypatch):
    """Two CPUs for 10 s: 2 x 1 s of steps, 3 x 0.25 s of the kernel, and 5 s of another process."""
    before = Counters(total_s=0, idle_s=0, steal_s=0)
    readings = [before, Counters(total_s=20, idle_s=12.25, steal_s=0)]
    monkeypatch.setattr(driver, "read_counters", lambda: readings.pop(0))
    monkeypatch.setattr("time.process_time", lambda: 0.0)
    worker = ScriptedWorker()
    measurement = measure(CASE, worker, Sampling(blocks=2), clock_s=lambda: worker.now_s)
    assert measurement.processes[0].conditions.other_cpu_share == pytest.approx(5 / 20)


@pytest.mark.parametrize("refuses", [1, 2, 3])
def test_a_refused_calibration_kernel_costs_nothing_else(refuses):
    worker = ScriptedWorker()
    worker.refuses = refuses
    sampling = Sampling(time_s=3.0, min_samples=5, blocks=2)
    measurement = measure(CASE, worker, sampling, clock_s=lambda: worker.now_s)
    assert measurement.processes[0].calibration_kernel is None
    assert [asked for asked in worker.asked if asked != "calibration_kernel"] == [
        "load",
        "warm_up",
        "run 7",
        "run 8",
    ]
    assert worker.asked.count("calibration_kernel") == refuses, "once refused, it is not asked for again"


def test_a_part_of_a_step_has_a_quarter_of_the_time():
    sampling = Sampling(time_s=4.0, min_samples=7)
    part = CASE.model_copy(update={"workload": Workload(part="optimizer")})
    assert sampling.for_case(CASE) == sampling
    assert sampling.for_case(part) == Sampling(time_s=1.0, min_samples=7)


@pytest.mark.parametrize(
    ("warm_up_ns", "wall_time_ns", "steps"),
    [
        ((100_000_000,) * 8, 800_000_000, 30),
        ((900_000_000,) * 4 + (100_000_000,) * 4, 4_000_000_000, 30),  # the pace is that of the newest half
        ((10_000_000,) * 8, 800_000_000, 30),  # a part of a step of 100 ms
        ((5_000_000_000,) * 2, 10_000_000_000, 10),
        ((1_000,) * 20_000, 20_000_000, 5000),
    ],
)
def test_how_many_steps_fill_three_seconds(warm_up_ns, wall_time_ns, steps):
    warm_up = WarmUp(step_time_ns=warm_up_ns, wall_time_ns=wall_time_ns, steady=True)
    assert Sampling(time_s=3.0, min_samples=10, max_samples=5000).steps(warm_up) == steps


class WatchedWorker:
    """A worker that shows the observers what it was given, or fails them, and says what it was asked."""

    def __init__(self, shows, **fails):
        self.shows = shows
        self.fails = fails
        self.asked = []

    def ask(self, name, **arguments):
        self.asked.append((name, *arguments.values()))
        if name in self.fails:
            raise self.fails[name]
        return getattr(self.shows, name)


def seen_by(worker, **observing):
    """What was observed, but for how long it took."""
    return observe(worker, Observing(**observing), trace="trace.json").model_copy(update={"wall_time_s": 0.0})


def test_every_observer_looks_and_the_operators_come_last(make_observations):
    shows = make_observations(wall_time_s=0.0)
    worker = WatchedWorker(shows)
    assert seen_by(worker, phase_pairs=7, operator_steps=3) == shows
    assert worker.asked == [("phases", 7), ("memory",), ("denormals",), ("flops",), ("operators", 3, "trace.json")]


def test_operators_are_profiled_on_request_alone(make_observations):
    worker = WatchedWorker(make_observations())
    assert seen_by(worker).operators is None
    assert [name for name, *_ in worker.asked] == ["phases", "memory", "denormals", "flops"]


@pytest.mark.parametrize("name", ["phases", "memory", "denormals", "flops", "operators"])
def test_an_observer_that_refuses_costs_what_it_would_have_seen(make_observations, name):
    shows = make_observations(wall_time_s=0.0)
    worker = WatchedWorker(shows, **{name: Refused("simple-b2-s4-t1: no formula", "its last words")})
    failures = (f"{name}: simple-b2-s4-t1: no formula",)
    assert seen_by(worker, operator_steps=3) == shows.model_copy(update={name: None, "failures": failures})
    assert len(worker.asked) == 5


def test_a_worker_that_is_lost_is_asked_no_more(make_observations):
    shows = make_observations(wall_time_s=0.0)
    worker = WatchedWorker(shows, denormals=WorkerFailed("simple-b2-s4-t1: died of SIGSEGV"))
    assert seen_by(worker, operator_steps=3) == Observations(
        phases=shows.phases, memory=shows.memory, failures=("denormals: simple-b2-s4-t1: died of SIGSEGV",)
    )
    assert [name for name, *_ in worker.asked] == ["phases", "memory", "denormals"]


def test_a_fault_of_our_own_is_not_an_observation(make_observations):
    with pytest.raises(ZeroDivisionError):
        seen_by(WatchedWorker(make_observations(), memory=ZeroDivisionError()))


def test_the_time_that_looking_took_is_kept(make_observations):
    class Slow(WatchedWorker):
        def ask(self, name, **arguments):
            time.sleep(0.02)
            return super().ask(name, **arguments)

    assert observe(Slow(make_observations()), Observing()).wall_time_s >= 4 * 0.02
