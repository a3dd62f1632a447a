"""The course of a race: workers and a clock that need no time, on a machine where every contestant has its speed."""

import errno
import random

import pytest
from fakes import FakeWorker

from ntp.contestants import contestants
from ntp.errors import MachineError, OptionError, WorkerFailed
from ntp.judge.race import verdict_on
from ntp.records.environment import Machine, Software
from ntp.runners import race as runner
from ntp.runners.bench import Bench
from ntp.runners.race import plan_of, race

OPTIONS = {"batch_size": 2, "seq_len": 4, "threads": 2}
SPEEDS = {"t1": 1.5, "jemalloc": 1.1, "b8": 3.0}
"""By what a part of a case's id multiplies the time of a step."""


class FakeBench:
    """A machine: how long a step of each case takes, what goes wrong, and the clock."""

    def __init__(self, shows):
        self.shows = shows
        self.time_s = 0.0
        self.noise = 0.002
        self.fails = {}
        """The error of a request, by the request and a part of the case's id."""
        self.lacks = {}
        """Why this machine cannot start a worker, by a part of the case's id."""
        self.running = []
        self.most_running = 0
        self.log = []
        self.messages = []
        self.chance = random.Random(1)

    def start(self, case, source):
        if error := self.fails.get("start"):
            raise WorkerFailed(error)
        for part, error in self.lacks.items():
            if part in case.id:
                raise error
        return Worker(self, case, source)

    def race(self, *texts, **options):
        bench = Bench(self.start, lambda: self.time_s, self.messages.append, ("ntp", "race"))
        return race(contestants(texts, OPTIONS), **{"bench": bench, "precision": 0.01, "budget_s": 1000.0, **options})


class Worker(FakeWorker):
    def __init__(self, bench, case, source):
        self.bench, self.case, self.source = bench, case, source
        self.process = bench.chance.gauss(0, bench.noise)
        self.shows = bench.shows
        self.software = Software(torch="2.13.0")

    def __enter__(self):
        self.bench.running.append(self)
        self.bench.most_running = max(self.bench.most_running, len(self.bench.running))
        return self

    def __exit__(self, *_):
        self.bench.running.remove(self)

    def said(self, what):
        what = what.partition(" ")[0]
        self.bench.log.append((what, self.case.id))
        for (request, part), error in self.bench.fails.items() if "start" not in self.bench.fails else ():
            if request == what and part in self.case.id:
                raise WorkerFailed(f"{self.case.id}: {error}", "its last words")

    def times_ns(self, steps):
        step_s = 0.1 * (1 + self.process)
        for part, factor in SPEEDS.items():
            step_s *= factor if part in self.case.id else 1
        self.bench.time_s += steps * step_s
        return (round(step_s * 1e9),) * steps

    def cpu_times_ns(self, steps):
        return ()


@pytest.fixture
def bench(make_observations, monkeypatch):
    monkeypatch.setattr("ntp.runners.bench.read_machine", lambda: Machine(cpu_model="Example CPU"))
    monkeypatch.setattr("ntp.runners.pairing.cpus_for_both", lambda case: None)
    return FakeBench(make_observations())


def names_of(record):
    return [place.name for place in verdict_on(record).places]


def pairs_of(record):
    return {frozenset((duel.base, duel.head)): len(duel.pairs) for duel in record.duels}


def test_the_fastest_wins_and_the_slower_drop_out(bench):
    *_, record = bench.race("threads=1", "allocator=jemalloc", "threads=2")
    verdict = verdict_on(record)
    assert (verdict.winner, verdict.decided) == ("threads=2", True)
    assert names_of(record) == ["threads=2", "allocator=jemalloc", "threads=1"]
    assert verdict.places[2].ratio.value == pytest.approx(1.5, rel=0.01)
    assert all(pairs <= 5 for pairs in pairs_of(record).values())
    assert bench.running == []


def test_a_token_is_what_counts_where_steps_have_unlike_sizes(bench):
    *_, record = bench.race("batch_size=2", "batch_size=8")
    verdict = verdict_on(record)
    assert verdict.winner == "batch_size=8"
    assert verdict.places[1].ratio.value == pytest.approx(4 / 3, rel=0.01)


def test_what_each_does_is_counted_first_two_at_a_time(bench):
    run = bench.race("threads=1", "threads=2", "allocator=jemalloc")
    counted = [next(run) for _ in range(3)]
    assert all(contestant.counts and contestant.software for contestant in counted[-1].contestants)
    assert counted[-1].duels == ()
    assert bench.most_running == 2
    run.close()
    assert bench.running == []


def test_whoever_cannot_be_counted_is_out_and_the_others_go_on(bench):
    bench.fails["load", "jemalloc"] = "no such library"
    *_, record = bench.race("threads=1", "allocator=jemalloc", "threads=2")
    assert verdict_on(record).winner == "threads=2"
    failed = record.contestants[1]
    assert (failed.failure, failed.stderr_tail) == ("simple-b2-s4-t2-jemalloc: no such library", "its last words")
    assert {frozenset(("threads=1", "threads=2"))} == set(pairs_of(record))


def test_whoever_cannot_be_had_on_this_machine_is_out_and_the_others_go_on(bench):
    bench.lacks["jemalloc"] = OptionError("allocator jemalloc is not installed: apt install it")
    *_, record = bench.race("threads=1", "allocator=jemalloc", "threads=2")
    assert verdict_on(record).winner == "threads=2"
    failed = record.contestants[1]
    assert (failed.failure, failed.stderr_tail) == ("allocator jemalloc is not installed: apt install it", "")
    assert bench.running == []


def test_a_machine_that_runs_out_of_something_ends_the_race(bench):
    bench.lacks["jemalloc"] = MachineError.of(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(MachineError, match="free disk space"):
        list(bench.race("threads=1", "allocator=jemalloc", "threads=2"))
    assert bench.running == []


@pytest.mark.parametrize("request_", ["warm_up", "run"])
def test_whoever_fails_in_a_pair_is_out_from_then_on(bench, request_):
    run = bench.race("threads=2", "allocator=jemalloc", "threads=1")
    for record in run:
        if sum(pairs_of(record).values()) == 2:
            bench.fails[request_, "jemalloc"] = "died of SIGSEGV"
    assert record.contestants[1].failure == "simple-b2-s4-t2-jemalloc: died of SIGSEGV"
    assert verdict_on(record).winner == "threads=2"
    assert bench.running == []


@pytest.mark.parametrize(
    ("interpreter", "remedy"),
    [
        ("", ""),
        ("torch==2.14.1", "; --with transformers adds it to the environments"),
        ("old/bin/python", "; install it: old/bin/python -m pip install transformers"),
    ],
)
def test_what_another_interpreter_lacks_is_told_with_the_remedy(bench, monkeypatch, interpreter, remedy):
    bench.fails["load", "jemalloc"] = "the factory failed: No module named 'transformers.models'"
    made = runner._contestant
    monkeypatch.setattr(
        runner, "_contestant", lambda one, side: made(one, side).model_copy(update={"interpreter": interpreter})
    )
    *_, record = bench.race("threads=1", "allocator=jemalloc", "threads=2")
    assert record.contestants[1].failure.endswith(f"No module named 'transformers.models'{remedy}")


def test_alone_nobody_races(bench):
    bench.fails["load", "t1"] = "no such model"
    *_, record = bench.race("threads=1", "threads=2")
    assert record.duels == ()
    assert (verdict_on(record).winner, len(verdict_on(record).running)) == (None, 1)


def test_where_no_worker_can_be_started_for_a_pair_both_are_out(bench):
    run = bench.race("threads=1", "threads=2")
    next(run)
    next(run)
    bench.fails["start"] = "the process that forks workers is gone"
    *_, record = run
    assert [contestant.failure for contestant in record.contestants] == [bench.fails["start"]] * 2


def test_equals_share_a_place_or_the_budget_ends_it(bench):
    *_, record = bench.race("threads=2", "threads=2")
    assert [place.name for place in verdict_on(record).places] == ["threads=2", "threads=2 (2)"]
    assert verdict_on(record).winner is None
    bench.noise, bench.time_s = 0.2, 0.0
    *_, record = bench.race("threads=2", "threads=2", budget_s=60.0)
    assert record.wall_time_s <= 60
    assert (verdict_on(record).winner, verdict_on(record).decided) == (None, False)


def test_equal_cases_run_step_by_step_and_others_in_blocks(bench):
    *_, record = bench.race("threads=2", "threads=2")
    assert {len(block.step_time_ns) for duel in record.duels for pair in duel.pairs for block in pair.blocks} == {1}
    *_, record = bench.race("threads=1", "threads=2", budget_s=60.0)
    assert all(len(pair.blocks) >= 16 for duel in record.duels for pair in duel.pairs)


def test_progress_says_who_meets(bench):
    list(bench.race("threads=1", "threads=2"))
    assert bench.messages[0] == "counting what a step of each contestant does"
    assert bench.messages[1].endswith("of 1000 s: threads=1 against threads=2")


def test_the_same_seed_gives_the_same_order(bench):
    seeds = []
    for seed in (1, 1, 2):
        bench.chance, bench.time_s = random.Random(1), 0.0
        *_, record = bench.race("threads=1", "threads=2", seed=seed)
        seeds.append([pair.seed for duel in record.duels for pair in duel.pairs])
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["commit=no-such-branch", "threads=2"], "no-such-branch"),
        (["python=no/such/python", "threads=2"], "no/such/python cannot be run"),
    ],
)
def test_what_is_not_to_be_had_is_refused_before_anything_is_measured(bench, texts, says):
    with pytest.raises(OptionError, match=says):
        next(bench.race(*texts))
    assert bench.log == []


@pytest.mark.parametrize(
    ("contestants_", "budget_s", "max_pairs"), [(2, 120, 52), (2, 1, 10), (8, 120, 10), (8, 1200, 75), (2, 1e6, 100)]
)
def test_the_last_look_is_at_nearly_twice_the_pairs_that_the_budget_holds(contestants_, budget_s, max_pairs):
    assert plan_of(contestants_, 0.01, budget_s).max_pairs == max_pairs
