"""Workers that are forks of a process with torch loaded."""

import os
import signal
import sys

import psutil
import pytest

from ntp.case import Case, Workload
from ntp.errors import WorkerFailed
from ntp.worker.driver import PipeWorker
from ntp.worker.launch import ForkServer, new_process
from ntp.worker.sources import Source

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forks on Linux alone")

CASE = Case(workload=Workload(batch_size=2, seq_len=4))


@pytest.fixture
def server(fork_servers):
    """A server as it is in earnest, with torch loaded."""
    return fork_servers(CASE.runtime)


def test_it_answers_like_a_new_process_and_runs_in_the_same_environment(server):
    def answers_of(launch):
        with PipeWorker(CASE, launch=launch) as worker:
            loaded = worker.load()
            worker.run(2)
            operators = worker.ask("operators", steps=1)
            counts = worker.ask("memory").peak_bytes, worker.ask("flops"), operators.calls_per_step
            return loaded, worker.ask("denormals"), operators.allocated_bytes_per_step, counts

    forked = answers_of(server.launch)
    assert forked == answers_of(new_process)
    process = forked[0].process
    assert process.torch_threads == process.torch_interop_threads == 1
    assert dict(process.variables)["OMP_NUM_THREADS"] == "1"


@pytest.mark.worker
def test_one_that_has_ntp_imported_forks_the_same_workers(server):
    here = Source.here()
    with ForkServer(CASE.runtime, here) as ready, PipeWorker(CASE, source=here, launch=ready.launch) as worker:
        assert psutil.Process(ready._process.pid).num_threads() == 1
        with PipeWorker(CASE, source=here, launch=server.launch) as other:
            assert worker.load() == other.load()
        assert len(worker.run(2).step_time_ns) == 2
        assert worker.ask("operators", steps=1).operators
        with pytest.raises(AssertionError, match="another source"):
            ready.launch(CASE.runtime, Source(folder=here.folder.parent), None)


def test_it_warms_up_and_runs(server):
    with PipeWorker(CASE, launch=server.launch) as worker:
        worker.load()
        assert len(worker.warm_up(2).step_time_ns) == 2
        ran = worker.run(3)
    assert len(ran.step_time_ns) == 3
    assert min(ran.step_time_ns) > 0


@pytest.mark.parametrize("model", ["mine:make", "mine.py:make"])
def test_each_imports_what_lies_in_its_own_folder(server, tmp_path, model):
    case = Case(workload=Workload(model=model, batch_size=2, seq_len=4, vocab_size=50))
    for size in (3, 7):
        (tmp_path / str(size)).mkdir()
        (tmp_path / str(size) / "mine.py").write_text(
            "from torch.nn import Embedding, Linear, Sequential\n"
            "def make(vocab_size):\n"
            f"    return Sequential(Embedding(vocab_size, {size}), Linear({size}, vocab_size))\n"
        )
    with (
        PipeWorker(case, source=Source.of(tmp_path / "3"), launch=server.launch) as small,
        PipeWorker(case, source=Source.of(tmp_path / "7"), launch=server.launch) as large,
    ):
        assert small.load().parameters == 50 * 3 + 3 * 50 + 50
        assert large.load().parameters == 50 * 7 + 7 * 50 + 50
        assert len(small.run(1).step_time_ns) == len(large.run(1).step_time_ns) == 1


@pytest.mark.parametrize("how", ["fork", "new process"])
def test_files_of_the_users_that_are_called_as_other_modules_stand_in_nobodys_way(server, tmp_path, how):
    shadows = ("ntp", "statistics", "profile", "pydantic", "torch", "numpy", "threadpoolctl")
    for name in shadows:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('this is the wrong one')")
    (tmp_path / "mine.py").write_text(
        "import statistics, torch\nfrom helper import size\n"
        "def make(vocab_size): return torch.nn.Embedding(vocab_size, size(vocab_size))\n"
    )
    (tmp_path / "helper.py").write_text("def size(vocab_size):\n    import late\n    return vocab_size\n")
    (tmp_path / "late.py").write_text("")
    case = Case(workload=Workload(model="mine:make", batch_size=2, seq_len=4, vocab_size=50))
    launch = server.launch if how == "fork" else new_process
    with PipeWorker(case, source=Source(folder=tmp_path), launch=launch) as worker:
        worker.load()
        worker.run(2)
        worker.ask("operators", steps=1)


def test_one_that_is_killed_is_told_of_and_the_others_run_on(server):
    with (
        PipeWorker(CASE, launch=server.launch) as killed,
        PipeWorker(CASE, launch=server.launch) as other,
    ):
        killed.load()
        other.load()
        os.kill(killed.pid, signal.SIGKILL)
        with pytest.raises(WorkerFailed) as failure:
            killed.run(2)
        assert str(failure.value).startswith(
            "simple-b2-s4-t1: the worker was killed (SIGKILL) while running steps: by hand, or by the kernel"
        )
        assert len(other.run(2).step_time_ns) == 2
    with PipeWorker(CASE, launch=server.launch) as later:
        assert later.load().parameters > 0


def test_a_fork_finds_a_single_thread_for_others_would_not_survive_it(server):
    with PipeWorker(CASE, launch=server.launch) as worker:
        worker.load()
        assert psutil.Process(server._process.pid).num_threads() == 1
