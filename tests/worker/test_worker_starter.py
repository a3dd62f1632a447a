"""How the workers of pairs are started, with stand-ins for their processes."""

from types import SimpleNamespace

import pytest

from ntp.case import Case, Runtime, Workload
from ntp.errors import WorkerFailed
from ntp.worker import pairs
from ntp.worker.pairs import FORKS, WorkerStarter
from ntp.worker.sources import Source

SMALL = Case(workload=Workload(batch_size=2))
LARGE = Case(workload=Workload(batch_size=64))
TWO_THREADS = Case(runtime=Runtime(threads=2))


class Servers:
    """Stands in for the class of the processes that fork workers, and keeps which were started and stopped."""

    def __init__(self):
        self.runtimes = []
        self.sources = []
        self.events = []

    def __call__(self, runtime, source=None, python=None):
        number = len(self.runtimes)
        self.sources.append(source)
        self.runtimes.append(runtime)
        self.events.append(f"start {number}")
        return SimpleNamespace(
            launch=f"a fork of {number}",
            stop=lambda: self.events.append(f"stop {number}"),
            wait_until_ready=lambda: self.events.append(f"ready {number}"),
        )


@pytest.fixture
def source(tmp_path):
    return Source(folder=tmp_path)


@pytest.fixture
def servers(monkeypatch):
    made = Servers()
    monkeypatch.setattr(pairs, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(pairs, "ForkServer", made)
    monkeypatch.setattr(pairs, "PipeWorker", lambda case, **options: SimpleNamespace(case=case, **options))
    return made


def test_a_worker_is_a_fork_in_its_folder(servers, source):
    with WorkerStarter() as start:
        worker = start(SMALL, source)
    assert (worker.case, worker.source, worker.launch) == (SMALL, source, "a fork of 0")


def test_cases_of_one_runtime_are_forks_of_one_process(servers, source):
    with WorkerStarter() as start:
        launches = [start(case, source).launch for case in (SMALL, TWO_THREADS, LARGE, TWO_THREADS)]
        assert servers.events == ["start 0", "start 1"]
    assert launches == ["a fork of 0", "a fork of 1", "a fork of 0", "a fork of 1"]
    assert servers.runtimes == [SMALL.runtime, TWO_THREADS.runtime]


def test_prepared_ones_are_started_all_at_once_and_know_their_source(servers, source):
    with WorkerStarter(forks=None) as start:
        start.prepare([SMALL.runtime, TWO_THREADS.runtime, SMALL.runtime], source)
        assert servers.events == ["start 0", "start 1", "ready 0", "ready 1"]
        assert servers.sources == [source, source]
        launches = {start(SMALL, source).launch for _ in range(2 * FORKS)}
    assert launches == {"a fork of 0"}, "never renewed"


def test_before_a_worker_is_wanted_nothing_is_started(servers):
    with WorkerStarter():
        pass
    assert servers.events == []


def test_a_process_is_renewed_after_so_many_forks_and_the_old_one_is_gone_by_then(servers, source):
    with WorkerStarter() as start:
        start(TWO_THREADS, source)
        launches = [start(SMALL, source).launch for _ in range(2 * FORKS + 1)]
        assert servers.events == ["start 0", "start 1", "start 2", "stop 1", "start 3"]
        assert start(TWO_THREADS, source).launch == "a fork of 0", "each runtime has a count of its own"
    assert launches == ["a fork of 1"] * FORKS + ["a fork of 2"] * FORKS + ["a fork of 3"]


def test_both_workers_of_a_pair_are_forks_of_one_process(servers, source):
    with WorkerStarter() as start:
        for _ in range(2 * FORKS):
            one, other = start(SMALL, source), start(SMALL, source)
            assert one.launch == other.launch
    assert len(servers.runtimes) == 4


def test_the_other_half_of_a_pair_outlives_the_renewal(servers, source):
    with WorkerStarter() as start:
        for _ in range(FORKS):
            start(SMALL, source)
        start(SMALL, source)  # the sixteenth's partner, where another runtime's workers came between
        assert "stop 0" not in servers.events


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, WorkerFailed("gone")])
def test_all_processes_end_in_the_end_and_none_twice(servers, source, error):
    try:
        with WorkerStarter() as start:
            for case in [SMALL] * (FORKS + 1) + [TWO_THREADS]:
                start(case, source)
            if error:
                raise error
    except (KeyboardInterrupt, WorkerFailed):
        pass
    assert sorted(servers.events) == ["start 0", "start 1", "start 2", "stop 0", "stop 1", "stop 2"]


def test_elsewhere_than_on_linux_each_worker_is_a_new_process(servers, source, monkeypatch):
    monkeypatch.setattr(pairs, "sys", SimpleNamespace(platform="darwin"))
    with WorkerStarter() as start:
        start.prepare([SMALL.runtime], source)
        worker = start(SMALL, source)
    assert vars(worker) == {"case": SMALL, "source": source, "timeout_s": 300.0}
    assert servers.events == []


def test_each_interpreter_has_a_process_of_its_own(servers, source):
    other = source.model_copy(update={"python": source.folder / "python"})
    with WorkerStarter() as start:
        launches = [start(SMALL, one).launch for one in (source, other, source)]
    assert launches == ["a fork of 0", "a fork of 1", "a fork of 0"]
