"""The parent's side of a worker: scripted workers behind real pipes, and a scripted one without any process."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.case import Case, Runtime, Workload
from ntp.errors import WorkerFailed
from ntp.records.endings import Ending
from ntp.records.environment import Counters, Process, Software
from ntp.records.observations import Denormals
from ntp.records.run import CalibrationKernel, KernelBurst, Observations, WarmUp
from ntp.worker import driver
from ntp.worker.driver import Observing, PipeWorker, Refused, Sampling, measure, observe
from ntp.worker.launch import new_process
from ntp.worker.protocol import Loaded, Ran
from ntp.worker.sources import Source

CASE = Case(workload=Workload(batch_size=2, seq_len=4))

RAN = json.dumps(
    {
        "ok": json.loads(
            Ran(
                step_time_ns=(7, 8), minor_page_faults=1, major_page_faults=0, cpu_time_s=0.5, peak_rss_bytes=9
            ).model_dump_json()
        )
    }
)


def launching(script):
    """Starts a process that runs the script in place of ntp's own worker."""
    return partial(new_process, command=(sys.executable, "-c", script))


def scripted(body, **options):
    """A worker whose process runs ``body``."""
    script = "import json, os, signal, sys, time\n" + textwrap.dedent(body)
    return PipeWorker(CASE, launch=launching(script), **options)


def answering(line):
    return scripted(f"for _ in sys.stdin: print({line!r}, flush=True)")


def test_an_answer_comes_back_as_a_record():
    with answering(RAN) as worker:
        assert worker.run(2).step_time_ns == (7, 8)


def test_requests_reach_the_worker_one_line_each():
    with scripted(
        """
        first, second = json.loads(sys.stdin.readline()), None
        print(json.dumps({"ok": {"step_time_ns": [1], "wall_time_ns": 1, "steady": True}}), flush=True)
        second = json.loads(sys.stdin.readline())
        print(json.dumps({"error": json.dumps([first, second])}), flush=True)
        """
    ) as worker:
        worker.warm_up()
        with pytest.raises(WorkerFailed) as failure:
            worker.run(3)
    asked = [{"do": "warm_up", "min_window": 4}, {"do": "run", "steps": 3}]
    assert json.loads(str(failure.value).removeprefix(f"{CASE.id}: ")) == asked


def test_a_shorter_warm_up_is_asked_for_by_its_window():
    body = "print(json.dumps({'error': json.loads(sys.stdin.readline())['min_window']}), flush=True)"
    with scripted(body) as worker, pytest.raises(WorkerFailed, match=r": 2$"):
        worker.warm_up(2)


def test_a_process_that_cannot_be_started_leaves_no_file_open(tmp_path):
    given = []

    def refused(*arguments):
        given.extend(arguments)
        raise WorkerFailed("no process")

    with pytest.raises(WorkerFailed, match="no process"):
        PipeWorker(CASE, source=Source.of(tmp_path), launch=refused)
    runtime, source, stderr = given
    assert (runtime, source) == (CASE.runtime, Source.of(tmp_path))
    assert stderr.closed


def test_a_worker_that_answers_in_pieces():
    with scripted(
        f"""
        sys.stdin.readline()
        for piece in ({RAN[:30]!r}, {RAN[30:]!r} + chr(10)):
            os.write(1, piece.encode()); time.sleep(0.05)
        sys.stdin.readline()
        """
    ) as worker:
        assert worker.run(2).peak_rss_bytes == 9


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit(3)", "ended with exit status 3 while running steps"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed .SIGKILL. while running steps: by hand, or by the kernel"),
        ("print('hello')", "answered rubbish while running steps"),
        ("print('[1, 2]')", "answered rubbish"),
        ("print('{}')", "answered rubbish"),
        ("print('[' * 100_000)", "answered rubbish"),
        ('print(\'{"ok": {"step_time_ns": []}}\')', "answered rubbish"),
        ('print(\'{"error": "no such model: x"}\')', "no such model: x"),
    ],
)
def test_every_way_to_fail_is_one_line(body, message):
    with scripted(f"sys.stdin.readline(); {body}") as worker, pytest.raises(WorkerFailed, match=message) as failure:
        worker.run(2)
    assert str(failure.value).startswith("simple-b2-s4-t1: ")
    assert "\n" not in str(failure.value)


def test_an_answer_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(driver, "_LONGEST_ANSWER_BYTES", 1 << 20)
    message = "answered rubbish while running steps: 1 MiB in one line"
    with scripted("while True: os.write(1, b'x' * 65536)") as worker, pytest.raises(WorkerFailed, match=message):
        worker.run(2)
    assert not psutil.pid_exists(worker.pid)


def test_a_worker_that_stops_itself_is_ended_and_says_so():
    body, message = "os.kill(os.getpid(), signal.SIGSTOP)", r"was stopped \(SIGSTOP\) while being loaded, and was ended"
    with scripted(body, timeout_s=0.5) as worker, pytest.raises(WorkerFailed, match=message):
        worker.load()
    assert not psutil.pid_exists(worker.pid)


def test_too_few_samples_are_refused():
    with answering(RAN) as worker, pytest.raises(WorkerFailed, match="2 samples for 3 steps"):
        worker.run(3)


def test_the_last_lines_of_standard_error_are_kept():
    with (
        scripted("sys.stderr.write('\\n'.join(f'line {i}' for i in range(100))); sys.exit(1)") as worker,
        pytest.raises(WorkerFailed) as failure,
    ):
        worker.load()
    assert failure.value.stderr_tail.splitlines() == [f"line {i}" for i in range(88, 100)]


def test_a_talkative_worker_does_not_block():
    with scripted(f"sys.stdin.readline(); sys.stderr.write('x' * 10_000_000); print({RAN!r}, flush=True)") as worker:
        assert worker.run(2).step_time_ns == (7, 8)


def test_a_worker_that_hangs_is_ended():
    with scripted("time.sleep(60)", timeout_s=0.2) as worker, pytest.raises(WorkerFailed, match=r"no answer for 0.2 s"):
        worker.load()
    assert not psutil.pid_exists(worker.pid)


def test_a_long_run_is_given_its_time():
    body = f"sys.stdin.readline(); time.sleep(0.6); print({RAN!r}, flush=True)"
    with scripted(body, timeout_s=0.3) as worker:
        assert worker.run(2, expected_s=1.0).step_time_ns == (7, 8)


def test_a_worker_that_is_already_dead_when_it_is_asked():
    with scripted("sys.exit(4)") as worker:
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(WorkerFailed, match="ended with exit status 4"):
            worker.load()


def test_leaving_ends_the_workers_own_children_too():
    with scripted(
        """
        import subprocess
        sys.stdin.readline()
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(json.dumps({"error": str(child.pid)}), flush=True)
        time.sleep(60)
        """
    ) as worker:
        with pytest.raises(WorkerFailed) as failure:
            worker.load()
        grandchild = psutil.Process(int(str(failure.value).split(": ")[1]))
    assert not psutil.pid_exists(worker.pid)
    psutil.wait_procs([grandchild], timeout=5)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


DAEMON = """
def daemon():
    told, tell = os.pipe()
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.write(tell, str(os.getpid()).encode())
            time.sleep(60)
        os._exit(0)
    os.wait()
    return os.read(told, 20).decode()
"""
"""A function of a scripted worker that forks a daemon, which holds what the worker has open, and gives its pid."""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that tells whose child a daemon was")


@on_linux
def test_a_worker_that_dies_is_no_silent_one_because_its_daemon_holds_the_pipe():
    body = DAEMON + "print(daemon(), file=sys.stderr, flush=True)\nsys.stdin.readline()\nos._exit(7)"
    with scripted(body, timeout_s=20) as worker:
        with pytest.raises(WorkerFailed, match="ended with exit status 7 while being loaded") as failure:
            worker.load()
        daemon = psutil.Process(int(failure.value.stderr_tail))
        assert daemon.is_running()
        assert daemon.ppid() not in (os.getpid(), worker.pid)
    gone, _ = psutil.wait_procs([daemon], timeout=5)
    assert gone


@on_linux
@pytest.mark.parametrize(
    "start", ["daemon()", "subprocess.Popen(['sleep', '60'], start_new_session=True, env={}, stdout=2).pid"]
)
def test_leaving_ends_what_has_left_the_worker(start):
    body = DAEMON + f"import subprocess\nprint(json.dumps({{'error': str({start})}}), flush=True)\ntime.sleep(60)"
    with scripted(body) as worker:
        with pytest.raises(WorkerFailed) as failure:
            worker.load()
        daemon = psutil.Process(int(str(failure.value).split(": ")[1]))
        assert daemon.is_running()
    gone, _ = psutil.wait_procs([daemon], timeout=5)
    assert gone


def test_a_worker_may_be_stopped_while_another_thread_waits_for_it():
    with scripted("time.sleep(60)") as worker, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(worker.load)
        while not worker._asking.locked():
            time.sleep(0.01)
        worker.stop()
        with pytest.raises(WorkerFailed, match="SIGKILL"):
            asked.result()


def test_stopping_twice_is_harmless():
    worker = scripted("time.sleep(60)")
    worker.stop()
    worker.stop()


def test_the_environment_is_the_runtimes_not_the_callers(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    monkeypatch.setenv("GOMP_CPU_AFFINITY", "0")
    monkeypatch.setenv("MINE", "kept")
    case = CASE.model_copy(update={"runtime": Runtime(threads=2)})
    names = ["OMP_NUM_THREADS", "GOMP_CPU_AFFINITY", "MINE", "OMP_WAIT_POLICY"]
    script = f"import json, os; print(json.dumps({{'error': ' '.join(map(str, map(os.environ.get, {names})))}}))"
    with PipeWorker(case, launch=launching(script)) as worker, pytest.raises(WorkerFailed) as failure:
        worker.load()
    assert str(failure.value) == "simple-b2-s4-t2: 2 None kept PASSIVE"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_a_killed_parent_leaves_no_worker():
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                """
                import sys, time
                from functools import partial
                from ntp.case import Case
                from ntp.worker.driver import PipeWorker
                from ntp.worker.launch import new_process
                body = "from ntp.worker.worker import die_with; import sys, time; die_with(int(sys.argv[1]));"
                body += "print('ready', flush=True); time.sleep(60)"
                worker = PipeWorker(Case(), launch=partial(new_process, command=(sys.executable, "-c", body)))
                worker._process.stdout.read(5)
                print(worker.pid, flush=True)
                time.sleep(60)
                """
            ),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    gone, _ = psutil.wait_procs([worker], timeout=5)
    assert gone == [worker]


class ScriptedWorker:
    """A worker without a process: it says what it was asked, and moves the clock."""

    refuses = None
    """Which of the requests for the calibration kernel."""

    def __init__(self, loaded, warm_up_ns, step_ns):
        self.loaded = loaded
        self.warm_up_ns = warm_up_ns
        self.step_ns = step_ns
        self.now_s = 0.0
        self.asked = []
        self.expected_s = []

    def load(self):
        self.asked.append("load")
        self.now_s += 2.0
        return self.loaded

    def warm_up(self):
        self.asked.append("warm_up")
        self.now_s += sum(self.warm_up_ns) / 1e9
        return WarmUp(step_time_ns=self.warm_up_ns, wall_time_ns=sum(self.warm_up_ns), steady=True)

    def run(self, steps, expected_s=0.0):
        self.asked.append(("run", steps))
        self.expected_s.append(expected_s)
        self.now_s += steps * self.step_ns / 1e9
        return Ran(
            step_time_ns=(self.step_ns,) * steps,
            minor_page_faults=30,
            major_page_faults=1,
            cpu_time_s=1.0,
            peak_rss_bytes=steps,
            ending=Ending(loss=math.nan if steps == 7 else 6.9, anonymous_bytes=steps),
        )

    def calibration_kernel(self):
        self.asked.append("calibration_kernel")
        self.now_s += 0.5
        if self.refuses == self.asked.count("calibration_kernel"):
            raise Refused("simple-b2-s4-t1: no memory")
        return KernelBurst(shape=(4, 4, 4), time_ns=(self.asked.count("calibration_kernel"), 100), cpu_time_s=0.25)

    def stop(self):
        self.asked.append("stop")


def test_a_case_is_measured_with_exactly_the_steps_it_needs():
    loaded = Loaded(parameters=7, software=Software(torch="2.9"), process=Process())
    worker = ScriptedWorker(loaded, warm_up_ns=(200_000_000,) * 8, step_ns=100_000_000)
    sampling = Sampling(time_s=3.0, min_samples=5, blocks=2)
    measurement = measure(CASE, worker, sampling, clock_s=lambda: worker.now_s)
    assert worker.asked == [
        "load",
        "warm_up",
        "calibration_kernel",
        ("run", 7),
        "calibration_kernel",
        ("run", 8),
        "calibration_kernel",
    ]
    assert worker.expected_s == pytest.approx([3.0 * 7 / 15, 3.0 * 8 / 15])
    assert measurement.step_time_ns == (100_000_000,) * 15
    assert measurement.harness.start_s == pytest.approx(2.0)
    assert measurement.harness.warm_up_s == pytest.approx(1.6)
    assert measurement.harness.timed_s == pytest.approx(1.5 + 3 * 0.5)
    assert measurement.minor_page_faults == 60, "of both turns"
    assert measurement.major_page_faults == 2
    assert measurement.peak_rss_bytes == 8, "of the turn where it was highest"
    assert [ending.anonymous_bytes for ending in measurement.endings] == [7, 8], "of each turn"
    assert math.isnan(measurement.endings[0].loss)
    assert measurement.parameters == 7
    assert measurement.environment.software.torch == "2.9"
    assert measurement.calibration_kernel == CalibrationKernel(
        shape=(4, 4, 4), bursts_ns=((1, 100), (2, 100), (3, 100))
    )


@given(st.integers(1, 50), st.integers(1, 12))
def test_turns_are_as_equal_as_can_be_and_hold_every_step(steps, turns):
    loaded = Loaded(parameters=7, software=Software(), process=Process())
    worker = ScriptedWorker(loaded, warm_up_ns=(10**9,) * 8, step_ns=10**9)
    sampling = Sampling(time_s=0.5, min_samples=steps, blocks=turns)
    assert len(measure(CASE, worker, sampling, clock_s=lambda: worker.now_s).step_time_ns) == steps
    sizes = [asked[1] for asked in worker.asked if asked[0] == "run"]
    assert len(sizes) == min(steps, turns)
    assert max(sizes) - min(sizes) <= 1


def test_the_reference_products_cpu_time_is_nobody_elses(monkeypatch):
    """Two CPUs for 10 s: 2 x 1 s of steps, 3 x 0.25 s of products, and 5 s of another process."""
    before = Counters(total_s=0, idle_s=0, steal_s=0)
    readings = [before, Counters(total_s=20, idle_s=12.25, steal_s=0)]
    monkeypatch.setattr(driver, "read_counters", lambda: readings.pop(0))
    monkeypatch.setattr("time.process_time", lambda: 0.0)
    loaded = Loaded(parameters=7, software=Software(), process=Process())
    worker = ScriptedWorker(loaded, warm_up_ns=(200_000_000,) * 8, step_ns=100_000_000)
    measurement = measure(CASE, worker, Sampling(blocks=2), clock_s=lambda: worker.now_s)
    assert measurement.environment.conditions.other_cpu_share == pytest.approx(5 / 20)


@pytest.mark.parametrize("refuses", [1, 2, 3])
def test_a_refused_reference_product_costs_nothing_else(refuses):
    loaded = Loaded(parameters=7, software=Software(), process=Process())
    worker = ScriptedWorker(loaded, warm_up_ns=(200_000_000,) * 8, step_ns=100_000_000)
    worker.refuses = refuses
    sampling = Sampling(time_s=3.0, min_samples=5, blocks=2)
    measurement = measure(CASE, worker, sampling, clock_s=lambda: worker.now_s)
    assert measurement.calibration_kernel is None
    assert [asked for asked in worker.asked if asked != "calibration_kernel"] == [
        "load",
        "warm_up",
        ("run", 7),
        ("run", 8),
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


def test_the_parent_sleeps_while_it_waits():
    body = f"sys.stdin.readline(); time.sleep(1); print({RAN!r}, flush=True)"
    with scripted(body) as worker:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        worker.run(2)
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    assert wall_s > 1
    assert cpu_s < 0.02 * wall_s


def test_a_worker_ended_by_a_signal_from_outside():
    with scripted("sys.stdin.readline(); print(); time.sleep(60)") as worker:
        os.kill(worker.pid, signal.SIGTERM)
        with pytest.raises(WorkerFailed, match="SIGTERM"):
            worker.load()


class WatchedWorker:
    """A worker that shows the observers what it was given, or fails them, and says what it was asked."""

    def __init__(self, shows, **fails):
        self.shows = shows
        self.fails = fails
        self.asked = []

    def _show(self, name, *arguments):
        self.asked.append((name, *arguments))
        if name in self.fails:
            raise self.fails[name]
        return getattr(self.shows, name)

    def phases(self, steps):
        return self._show("phases", steps)

    def memory(self):
        return self._show("memory")

    def denormals(self):
        return self._show("denormals")

    def flops(self):
        return self._show("flops")

    def operators(self, steps, trace=None):
        return self._show("operators", steps, trace)


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
        def memory(self):
            time.sleep(0.02)
            return super().memory()

    assert observe(Slow(make_observations()), Observing()).wall_time_s >= 0.02


def test_a_refusal_leaves_the_worker_for_the_next_request():
    with scripted(
        """
        for line in sys.stdin:
            asked = json.loads(line)["do"]
            print(json.dumps({"ok": {"share": 0.5}} if asked == "denormals" else {"error": "no"}), flush=True)
            if asked == "flops":
                break
        """
    ) as worker:
        seen = observe(worker, Observing(operator_steps=2))
    assert seen.denormals == Denormals(share=0.5)
    assert seen.failures[:3] == tuple(f"{name}: simple-b2-s4-t1: no" for name in ("phases", "memory", "flops"))
    assert "while profiling operators" in seen.failures[3]
