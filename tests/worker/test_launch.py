"""Workers that are forks of a bare server: real processes, with a script in place of ntp's own worker."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ntp.case import Case, Runtime, Workload
from ntp.errors import WorkerFailed
from ntp.worker import fork_server, launch
from ntp.worker.channel import Refused
from ntp.worker.driver import PipeWorker
from ntp.worker.launch import ForkedProcess, ForkServer
from ntp.worker.sources import Source

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forks on Linux alone")

CASE = Case(workload=Workload(batch_size=2, seq_len=4))


SAYING = """
def say(*what):
    print(json.dumps({"error": json.dumps(what)}), flush=True)
"""


def said_by(worker):
    """What a script that calls ``say`` answers a request."""
    with pytest.raises(Refused) as refused:
        worker.load()
    return json.loads(str(refused.value).removeprefix(f"{CASE.id}: "))


def has_ended(process, within_s=10.0):
    """Whether the process is gone before long. One that nobody has waited for yet is gone, too."""
    deadline = time.monotonic() + within_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def descriptors_of(pid):
    return sorted(os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd"))


class TestHowAForkEnds:
    def test_its_daemons_end_with_it_and_no_others(self, forked):
        body = """
        def daemon():
            told, tell = os.pipe()
            if not os.fork():
                os.setsid()
                if not os.fork():
                    os.write(tell, str(os.getpid()).encode())
                    time.sleep(60)
                os._exit(0)
            os.wait()
            return int(os.read(told, 20))

        sys.stdin.readline()
        say(daemon())
        sys.stdin.readline()
        os._exit(7)
        """
        body = SAYING + textwrap.dedent(body)
        with forked(body) as other:
            (others,) = map(psutil.Process, said_by(other))
            with forked(body, timeout_s=20) as worker:
                (daemon,) = map(psutil.Process, said_by(worker))
                with pytest.raises(WorkerFailed, match="ended with exit status 7 while running steps"):
                    worker.run(1)
                assert daemon.is_running()
            assert has_ended(daemon)
            assert others.is_running()
        assert has_ended(others)

    def test_leaving_at_once_ends_it_however_little_of_it_there_is(self, forked, monkeypatch):
        monkeypatch.setattr(launch, "_FORK_TIMEOUT_S", 5.0)
        for _ in range(30):
            with forked("time.sleep(60)") as worker:
                pass
            assert not psutil.pid_exists(worker.pid)
            worker.stop()

    def test_its_status_is_asked_for_once_and_then_known(self):
        statuses = iter([None, None, -9])
        naps = []
        process = ForkedProcess(7, None, None, lambda pid: next(statuses) if pid == 7 else None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launch, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=naps.append))
            assert process.wait() == process.wait(timeout=0) == -9
        assert len(naps) == 2

    @pytest.mark.parametrize("timeout", [0, 0.25, 5])
    def test_waiting_for_one_that_still_runs_has_an_end(self, monkeypatch, timeout):
        now_s = [100.0]

        def sleep(seconds):
            now_s[0] += seconds

        monkeypatch.setattr(launch, "time", SimpleNamespace(monotonic=lambda: now_s[0], sleep=sleep))
        process = ForkedProcess(7, None, None, lambda pid: None)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=timeout)
        assert timeout <= now_s[0] - 100 <= timeout + 0.1

    def test_waiting_for_one_that_has_only_closed_its_pipe(self, forked):
        with forked("sys.stdin.readline(); os.close(1); time.sleep(60)") as worker:
            worker._process.stdin.write(b"{}\n")
            assert worker._process.stdout.read(1) == b""
            with pytest.raises(subprocess.TimeoutExpired):
                worker._process.wait(timeout=0.05)


class TestForksShareNothing:
    COUNTING = SAYING + textwrap.dedent(
        """
        for line in sys.stdin:
            json.seen = getattr(json, "seen", 0) + 1
            os.environ["SEEN"] = os.environ.get("SEEN", "") + "x"
            say(json.seen, os.environ["SEEN"], os.getpid(), os.getpgid(0), os.getcwd())
            os.chdir("/")
        """
    )

    def test_neither_modules_nor_variables_nor_folders(self, forked, folder_with, bare):
        with forked(self.COUNTING) as one, forked(self.COUNTING) as other:
            here = str(folder_with(self.COUNTING))
            assert said_by(one) == [1, "x", one.pid, one.pid, here]
            assert said_by(one) == [2, "xx", one.pid, one.pid, "/"]
            assert said_by(other) == [1, "x", other.pid, other.pid, here]
            assert said_by(one) == [3, "xxx", one.pid, one.pid, "/"]
        with forked(self.COUNTING) as third:
            assert said_by(third)[:2] == [1, "x"]
        assert len({one.pid, other.pid, third.pid, bare._process.pid}) == 4

    def test_a_worker_has_its_own_three_descriptors_and_no_others(self, forked):
        body = SAYING + "sys.stdin.readline(); say(*sorted(map(int, os.listdir('/proc/self/fd'))))"
        with forked("time.sleep(60)"), forked(body) as worker:
            opened = said_by(worker)
        assert opened == [0, 1, 2, 3]  # the last is the folder that is being listed

    def test_closing_the_input_of_one_ends_it_while_the_other_runs(self, forked):
        with forked(self.COUNTING) as one, forked(self.COUNTING) as other:
            one._process.stdin.close()
            assert one._process.wait(timeout=10) == 0
            assert said_by(other)[0] == 1

    def test_the_server_keeps_nothing_of_those_it_forked(self, forked, bare):
        with forked(self.COUNTING) as worker:
            said_by(worker)
        before = descriptors_of(bare._process.pid)
        for _ in range(3):
            with forked(self.COUNTING) as worker:
                said_by(worker)
        assert descriptors_of(bare._process.pid) == before
        assert psutil.Process(bare._process.pid).children() == []

    def test_what_they_print_goes_to_their_own_standard_error(self, forked):
        body = "sys.stdin.readline(); print(os.getpid(), 'words', file=sys.stderr); sys.exit(1)"
        with forked(body) as one, forked(body) as other:
            for worker in (one, other):
                with pytest.raises(WorkerFailed) as failure:
                    worker.load()
                assert failure.value.stderr_tail == f"{worker.pid} words"

    def test_several_threads_may_ask_for_workers(self, bare, folder_with):
        folder = folder_with(self.COUNTING)

        def ask(_):
            with PipeWorker(CASE, source=Source.of(folder), launch=bare.launch) as worker:
                return worker.pid, said_by(worker)[2]

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, range(12)))
        assert all(pid == answer for pid, answer in answers)

    def test_the_folder_is_the_callers_also_when_it_has_moved_since(self, bare, folder_with, tmp_path, monkeypatch):
        folder = folder_with(self.COUNTING)
        monkeypatch.chdir(tmp_path)
        for directory in (folder, folder.relative_to(tmp_path)):
            with PipeWorker(CASE, source=Source.of(directory), launch=bare.launch) as worker:
                assert said_by(worker)[-1] == str(folder)
        monkeypatch.chdir(folder)
        with PipeWorker(CASE, source=Source.of(Path()), launch=bare.launch) as worker:
            assert said_by(worker)[-1] == str(folder)

    def test_neither_its_folder_nor_the_servers_is_where_it_imports_from(self, forked, bare, folder_with):
        body = SAYING + "sys.stdin.readline(); say(__name__, sys.argv[1:], sys.path)"
        with forked(body) as worker:
            name, arguments, path = said_by(worker)
        assert (name, arguments) == ("__main__", [str(bare._process.pid)])
        assert str(folder_with(body)) not in path
        assert str(Path(fork_server.__file__).parent) not in path


class TestTheEnvironment:
    NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "MALLOC_TOP_PAD_", "GOMP_CPU_AFFINITY", "MINE")

    @pytest.mark.parametrize(
        ("runtime", "values"),
        [
            (Runtime(threads=2), ["2", "2", None, str(64 * 2**20), None, "kept"]),
            (Runtime(allocator="glibc", wait_policy="active"), ["1", "1", "ACTIVE", None, None, "kept"]),
        ],
    )
    def test_it_is_the_runtimes_not_the_callers(self, forked, monkeypatch, runtime, values):
        monkeypatch.setattr(launch, "PRELOADED", ())
        for name in self.NAMES[:-1]:
            monkeypatch.setenv(name, "17")
        monkeypatch.setenv("MINE", "kept")
        body = SAYING + f"sys.stdin.readline(); say(*map(os.environ.get, {self.NAMES}))"
        with ForkServer(runtime) as server, forked(body, server) as worker:
            assert said_by(worker) == values


class TestTheServer:
    @pytest.mark.parametrize("threads", [2, 4])
    def test_the_threads_that_numpy_starts_are_gone_by_the_time_of_a_fork(self, forked, threads, monkeypatch):
        # Its matrix library starts some where the runtime has several, and ends them before a fork.
        monkeypatch.setattr(launch, "PRELOADED", ("numpy",))
        with (
            ForkServer(Runtime(threads=threads)) as server,
            forked(SAYING + "sys.stdin.readline(); say('numpy' in sys.modules)", server) as worker,
        ):
            assert said_by(worker) == [True]
            assert psutil.Process(server._process.pid).num_threads() == 1

    def test_it_ends_with_stop_and_its_workers_with_it(self, bare):
        with PipeWorker(CASE, launch=bare.launch) as worker:
            with pytest.raises(Refused):  # it answers, so it has come as far as to ask for its end
                worker.run(1)
            processes = [psutil.Process(pid) for pid in (bare._process.pid, worker.pid)]
            bare.stop()
            assert all(map(has_ended, processes))
            with pytest.raises(WorkerFailed):
                worker.run(1)
        bare.stop()

    def test_a_killed_parent_leaves_neither_server_nor_worker(self):
        body = """
        import time
        from ntp.case import Case
        from ntp.errors import WorkerFailed
        from ntp.worker import launch
        from ntp.worker.driver import PipeWorker
        launch.PRELOADED = ()
        server = launch.ForkServer(Case().runtime)
        worker = PipeWorker(Case(), launch=server.launch)
        try:
            worker.run(1)
        except WorkerFailed:
            print(server._process.pid, worker.pid, flush=True)
        time.sleep(60)
        """
        parent = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(body)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        processes = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
        parent.wait()
        parent.stdout.close()
        assert len(processes) == 2
        assert all(map(has_ended, processes))

    @pytest.mark.parametrize("late", [False, True])
    def test_one_that_cannot_import_a_module_is_one_clear_failure(self, monkeypatch, capfd, late):
        monkeypatch.setattr(launch, "PRELOADED", ("there_is_no_such_module",))
        opened = len(os.listdir("/proc/self/fd"))
        with ForkServer(CASE.runtime) as server:
            if late:
                server._process.wait()
            for _ in range(2):
                with pytest.raises(WorkerFailed) as failure:
                    PipeWorker(CASE, launch=server.launch)
                assert str(failure.value) == (
                    "the process that forks workers is gone (exit status 1): is torch installed?"
                )
        assert len(os.listdir("/proc/self/fd")) == opened
        assert "No module named 'there_is_no_such_module'" in capfd.readouterr().err

    def test_one_that_was_killed_is_a_failure_of_whoever_asks_next(self, bare, forked):
        with forked("time.sleep(60)") as worker:
            os.kill(bare._process.pid, signal.SIGKILL)
            bare._process.wait()
            with pytest.raises(WorkerFailed, match=r"forks workers is gone \(exit status -9\)"):
                forked("pass")
            os.kill(worker.pid, signal.SIGKILL)

    def test_one_that_gives_no_answer_is_given_up(self, monkeypatch):
        monkeypatch.setattr(launch, "PRELOADED", ())
        monkeypatch.setattr(launch, "_FORK_TIMEOUT_S", 0.2)
        with ForkServer(CASE.runtime) as server:
            os.kill(server._process.pid, signal.SIGSTOP)
            with pytest.raises(WorkerFailed, match="gave no answer"):
                PipeWorker(CASE, launch=server.launch)
            # A late answer to the first would be taken for that to the second.
            with pytest.raises(WorkerFailed, match="is gone"):
                PipeWorker(CASE, launch=server.launch)

    def test_an_interrupted_request_ends_it_for_the_next_would_read_the_answer(self, bare, forked):
        class Interrupted:
            """The socket of someone who presses Ctrl-C once the request is out."""

            def __init__(self, requests):
                self.sendmsg, self.close = requests.sendmsg, requests.close

            def recv(self, _size):
                raise KeyboardInterrupt

        with forked("time.sleep(60)") as worker:
            process = psutil.Process(worker.pid)
            bare._requests = Interrupted(bare._requests)
            with pytest.raises(KeyboardInterrupt):
                forked("pass")
            assert bare._process.poll() is not None
        assert has_ended(process)

    def test_interrupts_of_the_terminal_do_not_reach_it(self, bare, forked):
        with forked(TestForksShareNothing.COUNTING) as worker:
            said_by(worker)
            groups = [os.getpgid(pid) for pid in (os.getpid(), bare._process.pid, worker.pid)]
            sessions = [os.getsid(pid) for pid in (os.getpid(), bare._process.pid, worker.pid)]
        assert len(set(groups)) == 3
        assert sessions[0] not in sessions[1:]
