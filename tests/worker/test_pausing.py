"""A worker that is paused: who is stopped, what wakes it, and that nothing is left, however it or its parent ends."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest

from ntp.case import Case, Workload
from ntp.errors import WorkerFailed
from ntp.records.observations import Denormals
from ntp.worker.driver import PipeWorker
from ntp.worker.launch import new_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is started is looked up as Linux shows it")

BODY = """
import subprocess, threading
LOADER = "import os, time\\nwhile os.getppid() == {}: time.sleep(0.01)"
loader = subprocess.Popen([sys.executable, "-c", LOADER.format(os.getpid())], stdin=subprocess.DEVNULL)

def spin():
    while True:
        pass

threading.Thread(target=spin, daemon=True).start()
for line in sys.stdin:
    print(json.dumps({"ok": {"share": 0.5}}), flush=True)
"""
"""A worker one of whose threads spins, and whose loader ends by itself when it finds its parent gone."""

PARENT = """
import sys, time
from functools import partial
from pathlib import Path
from ntp.case import Case
from ntp.interrupts import Interrupts
from ntp.worker import launch
from ntp.worker.driver import PipeWorker
from ntp.worker.sources import Source

body, folder = sys.argv[1:]
launch.PRELOADED = ()
new = partial(launch.new_process, command=(sys.executable, "-c", body))
with (
    Interrupts(),
    launch.ForkServer(Case().runtime) as server,
    PipeWorker(Case(), launch=new) as one,
    PipeWorker(Case(), launch=server.launch, source=Source.of(Path(folder))) as other,
):
    for worker in (one, other):
        worker.ask("denormals")
        worker.pause()
    print("paused", flush=True)
    time.sleep(60)
"""
"""A process that pauses a worker of either kind, and sleeps."""

DYING = "import ctypes, json, os, sys\nctypes.CDLL(None).prctl(1, 9)\n" + BODY
"""As :func:`ntp.worker.worker.die_with` has it, which a fork's folder here does not hold."""


@pytest.fixture(params=["new process", "fork"])
def worker(request):
    """A worker of either kind, whose thread spins and whose loader is there."""
    if request.param == "fork":
        started = request.getfixturevalue("forked")(BODY)
    else:
        command = (sys.executable, "-c", "import json, os, sys\n" + BODY)
        launch = partial(new_process, command=command)
        started = PipeWorker(Case(workload=Workload(batch_size=2, seq_len=4)), launch=launch)
    with started:
        assert started.ask("denormals") == Denormals(share=0.5)
        yield started


def family(pid):
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def are_stopped(processes):
    return all(process.status() == psutil.STATUS_STOPPED for process in processes)


def test_it_is_stopped_with_its_group_until_the_next_request(worker):
    processes = family(worker.pid)
    assert len(processes) == 2
    for _ in range(3):
        worker.pause()
        wait_for(lambda: are_stopped(processes))
        assert worker.ask("denormals") == Denormals(share=0.5)
        wait_for(lambda: not any(map(are_stopped, ([process] for process in processes))))


def test_its_threads_do_not_spin_meanwhile(worker):
    process = psutil.Process(worker.pid)
    worker.pause()
    wait_for(lambda: are_stopped([process]))
    used = process.cpu_times()
    time.sleep(0.2)
    assert process.cpu_times() == used
    worker.ask("denormals")
    wait_for(lambda: process.cpu_times().user > used.user)


def test_pausing_twice_is_harmless(worker):
    worker.pause()
    worker.pause()
    assert worker.ask("denormals") == Denormals(share=0.5)


def test_time_that_it_is_paused_does_not_count_towards_the_time_out(worker):
    worker._timeout_s = 1.0
    worker.pause()
    time.sleep(1.2)
    assert worker.ask("denormals") == Denormals(share=0.5)


def test_it_ends_with_all_that_it_started(worker):
    processes = family(worker.pid)
    worker.pause()
    wait_for(lambda: are_stopped(processes))
    worker.stop()
    gone, alive = psutil.wait_procs(processes, timeout=10)
    assert (len(gone), alive) == (2, [])


def test_it_may_end_before_or_while_it_is_paused(worker):
    loader = family(worker.pid)[1]
    worker.pause()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerFailed, match=r"killed \(SIGKILL\)"):
        worker.ask("denormals")
    worker.pause()
    worker.stop()
    worker.pause()
    psutil.wait_procs([loader], timeout=10)
    assert not loader.is_running()


def test_it_ends_with_the_process_that_forked_it(bare, forked):
    with forked(BODY) as worker:
        worker.ask("denormals")
        processes = family(worker.pid)
        worker.pause()
        wait_for(lambda: are_stopped(processes))
        bare._process.kill()
        gone, alive = psutil.wait_procs(processes, timeout=10)
        assert (len(gone), alive) == (2, [])
        with pytest.raises(WorkerFailed, match="SIGKILL"):
            worker.ask("denormals")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("hang_up", [signal.SIG_DFL, signal.SIG_IGN])
def test_it_ends_with_its_parent(folder_with, number, hang_up):
    """Under nohup, too, where the kernel's SIGHUP to a stopped group that is left behind has no effect."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, DYING, str(folder_with(DYING))],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hang_up),
    )
    assert parent.stdout.readline() == b"paused\n"
    processes = family(parent.pid)[1:]
    assert len(processes) == 5, "the server, and two workers with a loader each"
    wait_for(lambda: sum(process.status() == psutil.STATUS_STOPPED for process in processes) == 4)
    parent.send_signal(number)
    parent.wait(30)
    parent.stdout.close()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
