"""A worker's channel: scripted workers behind real pipes."""

import json
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

from ntp.case import Case, Runtime, Workload
from ntp.errors import WorkerFailed
from ntp.records.observations import Denormals
from ntp.worker import channel
from ntp.worker.channel import Refused
from ntp.worker.driver import PipeWorker
from ntp.worker.launch import new_process
from ntp.worker.protocol import Ran
from ntp.worker.sources import Source

CASE = Case(workload=Workload(batch_size=2, seq_len=4))


def ran(*step_time_ns):
    """The line that answers a request for steps."""
    used = {"minor_page_faults": 1, "major_page_faults": 0, "cpu_time_s": 0.5, "peak_rss_bytes": 9}
    return f'{{"ok": {Ran(step_time_ns=step_time_ns, **used).model_dump_json()}}}'


RAN, ONE_STEP = ran(7, 8), ran(7)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that tells whose child a daemon was")


def launching(script):
    """Starts a process that runs the script in place of ntp's own worker."""
    return partial(new_process, command=(sys.executable, "-c", script))


def scripted(body, **options):
    """A worker whose process runs ``body``."""
    script = "import json, os, signal, sys, time\n" + textwrap.dedent(body)
    return PipeWorker(CASE, launch=launching(script), **options)


@pytest.fixture(params=["new process", pytest.param("fork", marks=on_linux)])
def started(request):
    """``started(body)``: a scripted worker of either kind."""
    return scripted if request.param == "new process" else request.getfixturevalue("forked")


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
    asked = [{"do": "warm_up", "steps": None, "cpu": None}, {"do": "run", "steps": 3}]
    assert json.loads(str(failure.value).removeprefix(f"{CASE.id}: ")) == asked


def test_an_answer_is_waited_for_as_long_as_one_likes():
    with scripted(f"json.loads(sys.stdin.readline()); time.sleep(0.3); print({ONE_STEP!r}, flush=True)") as worker:
        worker.begin_step()
        assert not worker.answers_within(0.0)
        assert worker.answers_within(30.0)
        assert worker.end_step().step_time_ns == (7,)


def test_no_answer_is_waited_for_from_a_worker_that_died_or_hangs():
    with scripted("sys.stdin.readline()") as worker:
        worker.begin_step()
        assert worker.answers_within(30.0)
        with pytest.raises(WorkerFailed, match="ended with exit status 0 while running steps"):
            worker.end_step()
    with scripted("time.sleep(60)", timeout_s=0.3) as worker:
        worker.begin_step()
        assert worker.answers_within(0.1) is False
        assert worker.answers_within(30.0)
        assert worker.answers_within(30.0), "its time is up"
        with pytest.raises(WorkerFailed, match=r"gave no answer for 0\.3 s while running steps"):
            worker.end_step()


def test_a_shorter_warm_up_is_asked_for_by_its_window():
    body = "print(json.dumps({'error': json.loads(sys.stdin.readline())['steps']}), flush=True)"
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
        ("sys.exit()", "ended with exit status 0"),
        ("pass", "ended with exit status 0"),
        ("raise RuntimeError('no')", "ended with exit status 1"),
        ("os._exit(7)", "ended with exit status 7"),
        ("os.abort()", "died of SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed .SIGKILL. while running steps: by hand, or by the kernel"),
        ("print('hello')", "gave a malformed answer while running steps"),
        ("print('[1, 2]')", "gave a malformed answer"),
        ("print('{}')", "gave a malformed answer"),
        ("print('[' * 100_000)", "gave a malformed answer"),
        ('print(\'{"ok": {"step_time_ns": []}}\')', "gave a malformed answer"),
        ('print(\'{"error": "no such model: x"}\')', "no such model: x"),
    ],
)
def test_every_way_to_fail_is_one_line(started, body, message):
    with started(f"sys.stdin.readline(); {body}") as worker, pytest.raises(WorkerFailed, match=message) as failure:
        worker.run(2)
    assert str(failure.value).startswith("simple-b2-s4-t1: ")
    assert "\n" not in str(failure.value)


def test_an_answer_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(channel, "_LONGEST_ANSWER_BYTES", 1 << 20)
    message = "gave a malformed answer while running steps: 1 MiB in one line"
    with scripted("while True: os.write(1, b'x' * 65536)") as worker, pytest.raises(WorkerFailed, match=message):
        worker.run(2)
    assert not psutil.pid_exists(worker.pid)


def test_a_worker_that_stops_itself_is_ended_and_says_so():
    body, message = (
        "os.kill(os.getpid(), signal.SIGSTOP)",
        r"was stopped \(SIGSTOP\) while loading the model, and was ended",
    )
    with scripted(body, timeout_s=0.5) as worker, pytest.raises(WorkerFailed, match=message):
        worker.load()
    assert not psutil.pid_exists(worker.pid)


def test_too_few_samples_are_refused():
    with answering(RAN) as worker, pytest.raises(WorkerFailed, match="2 samples for 3 steps"):
        worker.run(3)


def test_the_last_lines_of_standard_error_are_kept(started):
    with (
        started("sys.stderr.write('\\n'.join(f'line {i}' for i in range(100))); sys.exit(1)") as worker,
        pytest.raises(WorkerFailed) as failure,
    ):
        worker.load()
    assert failure.value.stderr_tail.splitlines() == [f"line {i}" for i in range(88, 100)]


def test_a_talkative_worker_does_not_block():
    with scripted(f"sys.stdin.readline(); sys.stderr.write('x' * 10_000_000); print({RAN!r}, flush=True)") as worker:
        assert worker.run(2).step_time_ns == (7, 8)


def test_a_worker_that_hangs_is_ended(started):
    with started("time.sleep(60)", timeout_s=0.2) as worker, pytest.raises(WorkerFailed, match=r"no answer for 0.2 s"):
        worker.load()
    assert not psutil.pid_exists(worker.pid)


def test_a_long_run_is_given_its_time():
    body = f"sys.stdin.readline(); time.sleep(0.6); print({RAN!r}, flush=True)"
    with scripted(body, timeout_s=0.3) as worker:
        assert worker.run(2, expected_s=1.0).step_time_ns == (7, 8)


def test_a_worker_that_is_already_dead_when_it_is_asked(started):
    with started("sys.exit(4)") as worker:
        worker._process.wait(timeout=10)
        with pytest.raises(WorkerFailed, match="ended with exit status 4"):
            worker.load()


def test_leaving_ends_the_workers_own_children_too(started):
    with started(
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


@on_linux
def test_a_worker_that_dies_is_no_silent_one_because_its_daemon_holds_the_pipe():
    body = DAEMON + "print(daemon(), file=sys.stderr, flush=True)\nsys.stdin.readline()\nos._exit(7)"
    with scripted(body, timeout_s=20) as worker:
        with pytest.raises(WorkerFailed, match="ended with exit status 7 while loading the model") as failure:
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
def test_leaving_ends_what_has_left_the_worker(started, start):
    body = DAEMON + f"import subprocess\nprint(json.dumps({{'error': str({start})}}), flush=True)\ntime.sleep(60)"
    with started(body) as worker:
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
    case = CASE.model_copy(update={"runtime": Runtime(threads=2, wait_policy="passive")})
    names = ["OMP_NUM_THREADS", "GOMP_CPU_AFFINITY", "MINE", "OMP_WAIT_POLICY"]
    script = f"import json, os; print(json.dumps({{'error': ' '.join(map(str, map(os.environ.get, {names})))}}))"
    with PipeWorker(case, launch=launching(script)) as worker, pytest.raises(WorkerFailed) as failure:
        worker.load()
    assert str(failure.value) == "simple-b2-s4-t2-passive: 2 None kept PASSIVE"


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


def test_a_refusal_leaves_the_worker_for_the_next_request():
    body = """
    for line in sys.stdin:
        answer = {"ok": {"share": 0.5}} if json.loads(line).get("name") == "denormals" else {"error": "no"}
        print(json.dumps(answer), flush=True)
    """
    with scripted(body) as worker:
        with pytest.raises(Refused, match=r": no$"):
            worker.ask("memory")
        assert worker.ask("denormals") == Denormals(share=0.5)
