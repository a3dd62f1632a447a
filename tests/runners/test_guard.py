"""The course of a guard: a real repository, workers and a clock that need no time, and a rule that a test writes."""

import os
import subprocess
import threading

import pytest
from fakes import FakeWorker

from ntp.case import Case, Runtime, Workload
from ntp.errors import OptionError, WorkerFailed
from ntp.judge.guard import plan_of, verdict_on
from ntp.records.environment import Machine, Software
from ntp.records.guard import GuardRecord, Instructions, Plan
from ntp.runners.bench import Bench, forking
from ntp.runners.guard import Sides, default_cases, guard
from ntp.worker.alike_pairs import MIN_ROUNDS, measure_alike
from ntp.worker.pairs import FORKS, count
from ntp.worker.protocol import PROTOCOL
from ntp.worker.sources import Source

MACHINE = Machine(cpu_model="Example CPU")
SMALL = Case(workload=Workload(batch_size=2, seq_len=4))
LARGE = Case(workload=Workload(batch_size=8, seq_len=4))
STEP_NS = 500_000_000
PAIR_S = 2 * 2 + 2 * MIN_ROUNDS * 0.5
"""A pair of such steps: warm-ups of 2 s, then as few rounds as there may be, of a step of each side."""

GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Somebody",
    "GIT_AUTHOR_EMAIL": "somebody@example.org",
    "GIT_COMMITTER_NAME": "Somebody",
    "GIT_COMMITTER_EMAIL": "somebody@example.org",
}


class Worker(FakeWorker):
    """A worker of one side, whose steps let the guard's clock go on."""

    step_ns = STEP_NS

    def __init__(self, bench, case, side):
        self.bench, self.case, self.side = bench, case, side
        self.pairing = False
        self.shows = bench.shows
        self.protocol = bench.protocols.get(side, PROTOCOL)
        self.software = Software(torch="2.9", ntp=bench.versions.get((case.id, side)))
        self.files = tuple(bench.imported.get(side, {}).items())

    def __enter__(self):
        self.bench.running.append(self)
        return self

    def __exit__(self, *_):
        self.bench.running.remove(self)

    def said(self, what):
        what = what.partition(" ")[0]
        self.bench.log.append((what, self.case.id, self.side))
        if error := self.bench.fails.get((what, self.case.id, self.side)):
            raise WorkerFailed(f"{self.case.id}: {error}", f"the last words of {self.side}")

    def warm_up(self, steps=None, cpu=None):
        self.pairing = True
        self.bench.time_s += 2
        return super().warm_up(steps)

    def run(self, steps, expected_s=0.0):
        if self.pairing:  # both sides are counted at once: their steps take no time here
            self.bench.time_s += steps * STEP_NS / 1e9 * self.bench.slowdown
        return super().run(steps)


class FakeBench:
    """A repository whose base and head differ in a file, and all that a guard starts there."""

    def __init__(self, path, shows):
        self.path = path
        self.shows = shows
        self.log = []
        self.running = []
        self.messages = []
        self.fails = {}
        """Why a worker fails, by request, case and side."""
        self.versions = {}
        """The version of ntp that a worker finds, by case and side."""
        self.imported = {}
        """The files that a worker has imported, by side and by module."""
        self.protocols = {}
        """The version of the protocol that a worker speaks, by side, if it is another."""
        self.starters = set()
        self.time_s = 1000.0
        self.slowdown = 1
        self.folders = {}
        self.git("init", "--quiet", "--initial-branch", "trunk")
        (path / "side").write_text("base")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "base")
        self.commit = self.git("rev-parse", "HEAD")
        (path / "side").write_text("head")

    def git(self, *arguments):
        return subprocess.run(
            ["git", "-C", self.path, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    def start(self, case, source):
        side = (source.folder / "side").read_text()
        self.folders[side] = source.folder
        self.starters.add(threading.current_thread())
        self.log.append(("start", case.id, side))
        if error := self.fails.get(("start", case.id, side)):
            raise error if isinstance(error, OptionError) else WorkerFailed(error, "last words")
        return Worker(self, case, side)

    def guard(self, next_case, cases=(SMALL,), base="HEAD", head="worktree", **options):
        plan = Plan(cases=tuple(case.id for case in cases))
        bench = Bench(self.start, lambda: self.time_s, self.messages.append, ("ntp", "guard"))
        options = {"budget_s": 1000, "bench": bench, **options}
        return guard(plan, Sides(base, head, self.path), next_case=next_case, **options)

    def clean(self):
        """Whether all is as before the guard: no worker, no worktree."""
        return (self.running, self.git("worktree", "list").count("\n")) == ([], 0)


@pytest.fixture
def bench(make_observations, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in GIT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ntp.runners.bench.read_machine", lambda: MACHINE)
    monkeypatch.setattr("ntp.runners.pairing.cpus_for_both", lambda case: None)
    path = tmp_path / "repository"
    path.mkdir()
    return FakeBench(path, make_observations())


class Wants:
    """A rule: these cases, one after the other, then nothing. It keeps what it was shown."""

    def __init__(self, *cases):
        self.cases = list(cases)
        self.shown = []

    def __call__(self, record):
        self.shown.append(record)
        return self.cases.pop(0).id if self.cases else None


def for_ever(case):
    """A rule that is never content."""
    return lambda record: case.id


def pairs_of(record):
    return [len(cell.pairs) for cell in record.cases]


def counted_of(record):
    return [cell.base is not None and cell.head is not None for cell in record.cases]


def test_all_is_counted_then_paired_as_asked_and_each_step_hands_out_a_record(bench):
    wants = Wants(LARGE, SMALL, LARGE)
    progress = []
    for record in bench.guard(wants, cases=(SMALL, LARGE)):
        progress.append((counted_of(record), pairs_of(record)))
        bench.log.append("yield")
    assert progress == [
        ([True, False], [0, 0]),
        ([True, True], [0, 0]),
        ([True, True], [0, 1]),
        ([True, True], [1, 1]),
        ([True, True], [1, 2]),
    ]
    steps, step = [], set()
    for entry in bench.log:
        if entry == "yield":
            steps.append(step)
            step = set()
        else:
            step.add(entry)

    def requests(case, *names):
        return {(name, case.id, side) for name in ("start", "load", "run", *names) for side in ("base", "head")}

    counting, pairing = ("memory", "flops", "operators", "imported"), ("warm_up", "pause", "begin_step")
    assert steps == [
        requests(SMALL, *counting),
        requests(LARGE, *counting),
        requests(LARGE, *pairing),
        requests(SMALL, *pairing),
        requests(LARGE, *pairing),
    ]
    assert bench.clean()


def test_the_rule_sees_all_that_was_handed_out(bench):
    wants = Wants(SMALL, SMALL)
    handed_out = list(bench.guard(wants))
    assert wants.shown == handed_out


def test_the_record_says_what_was_asked_and_seen(bench):
    options = {"budget_s": 99, "seed": 5, "allowed": ["flops"]}
    *_, record = bench.guard(Wants(SMALL, SMALL), base="trunk", **options)
    assert (record.plan, record.budget_s, record.seed) == (Plan(cases=(SMALL.id,)), 99, 5)
    assert record.machine == MACHINE
    assert (record.allowed, record.command) == (("flops",), ("ntp", "guard"))
    assert (record.base.ref, record.base.commit, record.base.dirty) == ("trunk", bench.commit, False)
    assert (record.head.ref, record.head.commit, record.head.dirty) == ("worktree", bench.commit, True)
    (cell,) = record.cases
    counts, software, _ = count(Worker(bench, SMALL, "base"), Source.of(bench.path))
    assert cell.base == cell.head == counts
    assert record.base.software == record.head.software == software
    assert len({pair.seed for pair in cell.pairs}) == 2, "each pair has an order of its own"
    assert {pair.case_id for pair in cell.pairs} == {SMALL.id}
    assert cell.wall_time_s == record.wall_time_s == 2 * PAIR_S
    assert GuardRecord.model_validate_json(record.model_dump_json()) == record


def test_each_side_runs_in_its_own_folder(bench):
    for _ in bench.guard(Wants(SMALL)):
        assert set(bench.folders) == {"base", "head"}
        assert bench.folders["head"] == bench.path
        assert bench.folders["base"].is_dir()
    assert not bench.folders["base"].exists()


def test_two_refs(bench):
    bench.git("commit", "--quiet", "--all", "--message", "head")
    *_, record = bench.guard(Wants(SMALL), base="HEAD~1", head="HEAD")
    assert record.base.commit == bench.commit
    assert record.head.commit == bench.git("rev-parse", "HEAD")
    assert bench.path not in bench.folders.values()
    assert bench.clean()


@pytest.mark.parametrize(
    ("budget_s", "pairs"), [(PAIR_S - 1, 1), (2 * PAIR_S - 0.5, 1), (2 * PAIR_S, 2), (5 * PAIR_S, 5)]
)
def test_no_pair_is_started_that_would_not_fit(bench, budget_s, pairs):
    *_, record = bench.guard(for_ever(SMALL), budget_s=budget_s)
    assert pairs_of(record) == [pairs]
    assert bench.log.count(("warm_up", SMALL.id, "base")) == pairs
    assert record.wall_time_s == pairs * PAIR_S


def test_the_longest_pair_so_far_decides_what_fits(bench):
    # A slow pair of 4 + 24 s, then short ones of 12 s: after four of those it is 76 s, and 24 more are not enough.
    paired = []
    bench.slowdown = 3
    for record in bench.guard(for_ever(SMALL), budget_s=100):
        if pairs_of(record) == [1]:
            bench.slowdown = 1
        paired.append(record.wall_time_s)
    assert paired == [0, 28, 40, 52, 64, 76]


def test_time_spent_by_whoever_asks_counts_too(bench):
    run = bench.guard(for_ever(SMALL), budget_s=20)
    next(run)
    bench.time_s += 15
    assert pairs_of(next(run)) == [1]
    assert list(run) == []


def test_counting_may_spend_the_whole_budget(bench):
    run = bench.guard(for_ever(LARGE), cases=(SMALL, LARGE), budget_s=10)
    next(run)
    bench.time_s += 11
    assert counted_of(next(run)) == [True, True], "nothing goes uncounted"
    assert list(run) == []
    assert bench.clean()


@pytest.mark.parametrize("side", ["base", "head"])
@pytest.mark.parametrize("request_", ["load", "run", "operators"])
def test_a_side_that_cannot_be_counted(bench, side, request_):
    bench.fails[request_, SMALL.id, side] = "no such model"
    *_, record = bench.guard(Wants(LARGE), cases=(SMALL, LARGE))
    failed, sound = record.cases
    other = {"base": "head", "head": "base"}[side]
    said = {"base": failed.base_failure, "head": failed.failure}
    assert said == {side: f"{side}: simple-b2-s4-t1: no such model", other: ""}
    assert (failed.stderr_tail, sound.stderr_tail) == (f"the last words of {side}", "")
    assert getattr(failed, side) is None
    assert getattr(failed, other) == sound.base
    assert (pairs_of(record), sound.base_failure, sound.failure) == ([0, 1], "", "")
    assert ("warm_up", SMALL.id, other) not in bench.log
    assert bench.clean()


def test_a_base_with_an_ntp_that_is_too_old_to_be_started(bench):
    (bench.path / "ntp/worker").mkdir(parents=True)
    (bench.path / "ntp/case.py").touch()
    (bench.path / "side").write_text("base")
    bench.git("add", "ntp")
    bench.git("commit", "--quiet", "--all", "--message", "an old ntp")
    (bench.path / "side").write_text("head")
    (bench.path / "ntp/worker/worker.py").touch()
    (bench.path / "built").touch()
    (record,) = bench.guard(Wants())
    (cell,) = record.cases
    assert (cell.base, cell.failure, cell.stderr_tail) == (None, "", "")
    assert cell.base_failure == (
        "base: the ntp of this commit is too old to be started from here: it has no ntp/worker/worker.py; "
        "name a later commit"
    )
    assert cell.head
    assert record.base.brings_ntp
    assert verdict_on(record).verdict == "not comparable"


def test_neither_side_can_be_counted(bench):
    bench.fails["load", SMALL.id, "base"] = "no such model"
    bench.fails["load", SMALL.id, "head"] = "no such size"
    (record,) = bench.guard(Wants())
    (cell,) = record.cases
    assert cell.base_failure == "base: simple-b2-s4-t1: no such model"
    assert cell.failure == "head: simple-b2-s4-t1: no such size"


def test_a_base_whose_workers_speak_another_version_of_the_protocol(bench):
    bench.protocols["base"] = 0
    (record,) = bench.guard(Wants())
    (cell,) = record.cases
    assert cell.base_failure == (
        "base: the ntp of this commit is too old to be measured from here: its workers speak version 0 of the "
        f"protocol, this ntp speaks {PROTOCOL}; name a later commit"
    )
    assert cell.head
    assert verdict_on(record).verdict == "not comparable"


def counting(log, fails=False):
    def count_instructions(case, sources):
        log.append((case.id, {side: (source.folder / "side").read_text() for side, source in sources.items()}))
        if fails:
            raise WorkerFailed(f"head: {case.id}: died")
        return Instructions(case_id=case.id, base=100, head=101)

    return count_instructions


def test_instructions_are_counted_once_for_cases_of_one_kind_before_the_first_pair(bench):
    log = []
    wants = Wants(SMALL)
    records = list(bench.guard(wants, cases=(SMALL, LARGE), count_instructions=counting(log)))
    assert log == [("simple-b2-s16-t1", {"base": "base", "head": "head"})]
    assert [len(record.instructions) for record in records] == [0, 0, 1, 1]
    assert [pairs_of(record) for record in records][2:] == [[0, 0], [1, 0]]
    assert any("instructions of simple-b2-s16-t1" in message for message in bench.messages)


def test_instructions_that_cannot_be_counted_are_a_failure(bench):
    *_, record = bench.guard(Wants(), count_instructions=counting([], fails=True))
    assert record.instructions_failure == "head: simple-b2-s16-t1: died"
    assert verdict_on(record).failures == (record.instructions_failure,)


def test_what_only_one_side_can_run_has_no_instructions_to_compare(bench):
    bench.fails["load", SMALL.id, "base"] = "no such model"
    log = []
    *_, record = bench.guard(Wants(), count_instructions=counting(log))
    assert (log, record.instructions) == ([], ())


@pytest.mark.parametrize("side", ["base", "head"])
def test_a_case_that_this_machine_cannot_run_on_either_side_is_refused(bench, side):
    bench.fails["start", SMALL.id, side] = OptionError("allocator jemalloc is not installed: apt install it")
    with pytest.raises(OptionError, match="not installed"):
        list(bench.guard(Wants(SMALL)))
    assert bench.clean()


def test_what_the_first_pair_has_tried_is_not_tried_again(bench, monkeypatch):
    tried = []

    def measured(case, workers, seed, *, cpus, together):
        tried.append(together)
        return measure_alike(case, workers, seed, cpus=None, together=False)

    monkeypatch.setattr("ntp.runners.pairing.measure_alike", measured)
    list(bench.guard(Wants(SMALL, SMALL)))
    assert tried == [None, False]


@pytest.mark.parametrize("side", ["base", "head"])
@pytest.mark.parametrize("request_", ["load", "warm_up", "run"])
def test_a_side_that_dies_in_a_pair_costs_that_pair_alone(bench, request_, side):
    run = bench.guard(Wants(SMALL, SMALL, LARGE), cases=(SMALL, LARGE))
    for record in run:
        if pairs_of(record) == [1, 0]:
            bench.fails[request_, SMALL.id, side] = "died of SIGSEGV"
    failed, sound = record.cases
    other = {"base": "head", "head": "base"}[side]
    said = {"base": failed.base_failure, "head": failed.failure}
    assert said == {side: f"{side}: simple-b2-s4-t1: died of SIGSEGV", other: ""}
    assert failed.stderr_tail == f"the last words of {side}"
    assert counted_of(record) == [True, True]
    assert pairs_of(record) == [1, 1]
    assert sound.failure == ""
    assert bench.clean()


def test_what_a_failure_took_is_counted(bench):
    bench.fails["warm_up", SMALL.id, "base"] = bench.fails["warm_up", SMALL.id, "head"] = "died"
    *_, record = bench.guard(Wants(SMALL, SMALL))
    assert record.cases[0].wall_time_s == record.wall_time_s == 8


def test_progress_says_what_is_done_next(bench):
    list(bench.guard(Wants(SMALL, SMALL), budget_s=60))
    assert bench.messages == [
        "counting what a step of simple-b2-s4-t1 does",
        "0 of 60 s: pair 1 of simple-b2-s4-t1",
        "12 of 60 s: pair 2 of simple-b2-s4-t1",
    ]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_whoever_stops_early_leaves_nothing_behind(bench, steps):
    run = bench.guard(for_ever(SMALL))
    for _ in range(steps):
        next(run)
    assert bench.folders["base"].is_dir()
    run.close()
    assert not bench.folders["base"].exists()
    assert bench.clean()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_pair_leaves_nothing_behind(bench, monkeypatch, error):
    run = bench.guard(for_ever(SMALL))
    next(run)

    def interrupted(_worker, _steps, _cpu):
        assert len(bench.running) == 2
        raise error

    monkeypatch.setattr(Worker, "warm_up", interrupted)
    with pytest.raises(error):
        next(run)
    assert not bench.folders["base"].exists()
    assert bench.clean()


@pytest.mark.parametrize("side", ["base", "head"])
def test_a_worker_that_cannot_be_started_for_a_pair_is_a_failure_of_the_case(bench, side):
    run = bench.guard(Wants(SMALL, LARGE), cases=(SMALL, LARGE))
    counted = [next(run), next(run)]
    bench.fails["start", SMALL.id, side] = "the process that forks workers is gone"
    *_, record = run
    failed, sound = record.cases
    assert failed.base == counted[0].cases[0].base is not None
    assert (failed.failure, failed.base_failure) == ("the process that forks workers is gone", "")
    assert failed.stderr_tail == "last words"
    assert (pairs_of(record), sound.failure) == ([0, 1], "")
    assert bench.clean()


@pytest.mark.parametrize("side", ["base", "head"])
def test_where_none_can_be_started_from_the_outset_the_guard_ends(bench, side):
    bench.fails["start", SMALL.id, side] = "the process that forks workers is gone"
    with pytest.raises(WorkerFailed, match="is gone"):
        next(bench.guard(Wants()))
    assert bench.clean()


def test_workers_are_started_by_the_main_thread_for_they_die_with_the_one_that_did(bench):
    list(bench.guard(Wants(SMALL, LARGE), cases=(SMALL, LARGE)))
    assert bench.starters == {threading.main_thread()}


def starts_of(bench, **options):
    """The side that is started first in each pair, and the seeds of the pairs."""
    bench.log.clear()
    *_, record = bench.guard(Wants(*[SMALL] * 12), **options)
    sides = [side for what, _, side in bench.log if what == "start"][2:]
    assert all({first, second} == {"base", "head"} for first, second in zip(sides[::2], sides[1::2], strict=True))
    return sides[::2], [pair.seed for pair in record.cases[0].pairs]


def test_either_side_is_started_first_as_the_seed_says(bench):
    first, seeds = starts_of(bench, seed=1)
    assert set(first) == {"base", "head"}
    assert len(set(seeds)) == 12
    assert starts_of(bench, seed=1) == (first, seeds)
    assert not set(starts_of(bench, seed=2)[1]) & set(seeds)


def test_cases_have_orders_of_their_own(bench):
    *_, record = bench.guard(Wants(SMALL, LARGE), cases=(SMALL, LARGE))
    small, large = record.cases
    assert small.pairs[0].seed != large.pairs[0].seed


def test_the_software_is_that_of_the_first_worker_of_each_side(bench):
    bench.versions = {(SMALL.id, "base"): "1", (SMALL.id, "head"): "2", (LARGE.id, "base"): "3"}
    first, *_, record = bench.guard(Wants(SMALL), cases=(SMALL, LARGE))
    assert (first.base.software.ntp, first.head.software.ntp) == ("1", "2")
    assert (record.base, record.head) == (first.base, first.head)


def test_of_a_side_that_cannot_be_loaded_no_software_is_known(bench):
    bench.fails["load", SMALL.id, "base"] = "no such model"
    *_, record = bench.guard(Wants())
    assert record.base.software is None
    assert record.head.software == Software(torch="2.9")


def test_unless_told_otherwise_it_ends_with_the_verdict(bench):
    plan = plan_of([SMALL.id, LARGE.id], 0.01, 1000)
    *_, record = guard(
        plan, Sides("HEAD", directory=bench.path), budget_s=1000, bench=Bench(bench.start, lambda: bench.time_s)
    )
    assert pairs_of(record) == [plan.min_pairs, plan.min_pairs], "equal steps need no more than the first look"
    assert (verdict_on(record).verdict, verdict_on(record).next_case) == ("pass", None)


def test_forks_come_from_a_starter_that_ends_with_the_bench(monkeypatch):
    log = []

    class Starter:
        def __init__(self, forks):
            assert forks == FORKS

        def __enter__(self):
            log.append("enter")
            return self

        def __exit__(self, *_):
            log.append("exit")

    monkeypatch.setattr("ntp.runners.bench.WorkerStarter", Starter)
    with forking(log.append, ("ntp", "guard")) as bench:
        bench.progress("between")
        assert isinstance(bench.start, Starter)
        assert bench.command == ("ntp", "guard")
    assert log == ["enter", "between", "exit"]


def test_the_default_cases_are_a_small_step_and_a_large_on_each_number_of_threads():
    ids = [case.id for case in default_cases("simple", (1, 4))]
    assert ids == ["simple-b8-s64-t1", "simple-b8-s64-t4-passive", "simple-b32-s128-t1", "simple-b32-s128-t4-passive"]
    (small, large) = default_cases("model.py:make", (2,))
    assert small == Case(
        workload=Workload(model="model.py:make", batch_size=8, seq_len=64),
        runtime=Runtime(threads=2, wait_policy="passive"),
    )
    assert large.workload.model == "model.py:make"


@pytest.mark.parametrize("refs", [{"base": "missing"}, {"head": "missing"}])
def test_a_wrong_ref_is_found_before_any_worker_is_started(bench, refs):
    with pytest.raises(OptionError, match="'missing' names no commit"):
        next(bench.guard(Wants(), **refs))
    assert bench.log == []
    assert bench.clean()
