"""A pair and the counts of a side, with workers that need no process, and how workers are started."""

import _thread
import threading
from pathlib import Path

import pytest
from fakes import FakeWorker
from hypothesis import given
from hypothesis import strategies as st

from ntp.errors import WorkerFailed
from ntp.records.endings import Ending
from ntp.records.environment import Software
from ntp.worker import pairs
from ntp.worker.pairs import MIN_BLOCKS, SideFailed, count, measure_pair, unlike_rounds
from ntp.worker.protocol import Imported
from ntp.worker.sources import Source

MIB = 2**20
SOFTWARE = Software(torch="2.9")
SOURCE = Source(
    folder=Path("/tree/sub"), top=Path("/top"), tree=Path("/tree"), packages=(("mine", Path("/tree/mine.py")),)
)
SEEDS = st.integers(0, 2**32 - 1)
STEPS_S, BLOCK_S = 3.0, 0.05


class Worker(FakeWorker):
    """Every step takes ``step_ns`` and one more than the step before; what is asked goes into a log."""

    def __init__(self, name="", log=None, step_ns=25_000_000, first_ns=None, fails=(), shows=None):
        self.name = name
        self.log = [] if log is None else log
        self.step_ns = step_ns
        self.first_ns = first_ns or step_ns
        self.fails = fails
        self.shows = shows
        self.steps = 0
        self.files = (("mine", "/tree/mine.py"),)

    def said(self, what):
        self.log.append((self.name, what))
        if what in self.fails:
            raise WorkerFailed(f"simple-b2-s4-t1: {what} failed", "its last words")

    def warm_up(self, steps=None, cpu=None):
        times_ns = (self.first_ns,) * 4 + (self.step_ns,) * 5
        return super().warm_up(steps).model_copy(update={"step_time_ns": times_ns})

    def run(self, steps, expected_s=0.0):
        self.expected_s = expected_s
        times_ns = tuple(self.step_ns + self.steps + i for i in range(steps))
        self.steps += steps
        self.ending = Ending(loss=self.steps)
        return super().run(steps).model_copy(update={"step_time_ns": times_ns})

    def imported(self, folders, packages):
        self.asked_for = (folders, packages)
        return super().imported(folders, packages)


def pair_of(seed, steps_s=STEPS_S, base=None, head=None):
    """A pair, and the log of what its workers were asked."""
    log = []
    workers = {"base": Worker("base", log, **(base or {})), "head": Worker("head", log, **(head or {}))}
    return measure_pair("simple-b2-s4-t1", workers, seed, steps_s, BLOCK_S), log


def order_of(pair):
    return [block.side for block in pair.blocks]


STEP_S = st.floats(1e-6, 100)


@given(STEP_S, STEP_S, st.floats(0.1, 60), st.floats(0.01, 1))
def test_unlike_sides_have_as_many_rounds_of_one_length(base_s, head_s, steps_s, block_s):
    rounds, steps = unlike_rounds({"base": base_s, "head": head_s}, steps_s, block_s)
    assert rounds >= MIN_BLOCKS
    assert rounds * (steps["base"] * base_s + steps["head"] * head_s) >= steps_s * (1 - 1e-9)
    for side, step_s in (("base", base_s), ("head", head_s)):
        assert steps[side] == 1 or abs(steps[side] * step_s - block_s) <= step_s / 2 * (1 + 1e-9)


def test_a_pair_of_unlike_sides():
    workers = {side: Worker(side, step_ns=step_ns) for side, step_ns in (("base", 500_000_000), ("head", 10_000_000))}
    pair = measure_pair("simple-b2-s4-t1", workers, 0, STEPS_S, 0.5)
    assert {(len(base.step_time_ns), len(head.step_time_ns)) for base, head in pair.rounds} == {(1, 50)}
    assert [worker.expected_s for worker in workers.values()] == pytest.approx([0.5, 0.5])
    assert dict(pair.endings) == {side: Ending(loss=worker.steps) for side, worker in workers.items()}


@pytest.mark.parametrize("seed", range(5))
def test_a_pair_asks_for_exactly_this(seed):
    pair, log = pair_of(seed)
    assert sorted(log[:4]) == [(side, what) for side in ("base", "head") for what in ("load", "pause")]
    assert sorted(log[4:8:2]) == [("base", "warm_up"), ("head", "warm_up")]
    assert log[8::2] == [(side, "run 2") for side in order_of(pair)]
    assert log[5::2] == [(side, "pause") for side, _ in log[4::2]], "nobody runs while it is the other side's turn"
    assert (pair.case_id, pair.seed, len(pair.blocks)) == ("simple-b2-s4-t1", seed, 2 * 30)


@given(SEEDS, st.integers(1_000_000, 2_000_000_000), st.integers(1_000_000, 2_000_000_000))
def test_both_sides_run_the_same_steps_once_in_every_round(seed, base_ns, head_ns):
    pair, _ = pair_of(seed, base={"step_ns": base_ns}, head={"step_ns": head_ns})
    order = order_of(pair)
    assert all({first, second} == {"base", "head"} for first, second in zip(order[::2], order[1::2], strict=True))
    # Each side's own steps, none lost and in order.
    for side, step_ns in (("base", base_ns), ("head", head_ns)):
        samples = pair.samples(side)
        assert samples == tuple(range(step_ns, step_ns + len(samples)))
    rounds, steps = unlike_rounds({"base": base_ns / 1e9, "head": head_ns / 1e9}, STEPS_S, BLOCK_S)
    assert [(block.side, len(block.step_time_ns)) for block in pair.blocks] == [(side, steps[side]) for side in order]
    assert len(order) == 2 * rounds


@given(SEEDS)
def test_the_same_seed_gives_the_same_order(seed):
    def answered():
        pair, log = pair_of(seed)
        return pair, log[4:]  # the two are loaded at once

    assert answered() == answered()


def test_either_side_goes_first_within_a_pair_and_over_pairs():
    orders = [order_of(pair_of(seed)[0]) for seed in range(40)]
    firsts = [side for order in orders for side in order[::2]]
    assert 0.35 < firsts.count("base") / len(firsts) < 0.65
    assert {order[0] for order in orders} == {"base", "head"}
    assert sum(len(set(order[::2])) == 2 for order in orders) > 30


class InTurn:
    """In place of threads: all in one, in the order in which they are asked for."""

    def __init__(self, workers):
        self.workers = workers

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, items):
        return [function(item) for item in items]


def test_either_side_is_loaded_and_warmed_up_first_as_the_seed_says(monkeypatch):
    monkeypatch.setattr(pairs, "ThreadPoolExecutor", InTurn)
    logs = [pair_of(seed)[1][:8:2] for seed in range(20)]
    assert logs == [pair_of(seed)[1][:8:2] for seed in range(20)]
    assert all([what for _, what in log] == ["load", "load", "warm_up", "warm_up"] for log in logs)
    firsts = {(log[0][0], log[2][0]) for log in logs}
    assert firsts == {(loaded, warmed) for loaded in ("base", "head") for warmed in ("base", "head")}


def test_the_pace_is_that_of_the_newest_warm_up_steps():
    slow_start = {"first_ns": 30_000_000_000}
    pair, _ = pair_of(0, base=slow_start, head=slow_start)
    assert len(pair.blocks[0].step_time_ns) == 2


def test_a_run_is_given_the_time_it_will_take():
    workers = {side: Worker(side, step_ns=step_ns) for side, step_ns in (("base", 5_000_000), ("head", 25_000_000))}
    measure_pair("simple-b2-s4-t1", workers, 0, STEPS_S, BLOCK_S)
    assert [worker.expected_s for worker in workers.values()] == pytest.approx([0.05, 0.05])


def test_both_sides_are_loaded_at_the_same_time():
    together = threading.Barrier(2)

    class Waiting(Worker):
        def load(self):
            together.wait(timeout=5)
            return super().load()

    pair = measure_pair("simple-b2-s4-t1", {"base": Waiting(), "head": Waiting()}, 0, STEPS_S, BLOCK_S)
    assert {block.side for block in pair.blocks} == {"base", "head"}


@pytest.mark.parametrize("side", ["base", "head"])
@pytest.mark.parametrize("what", ["load", "warm_up", "run 2"])
def test_a_worker_that_fails_ends_the_pair_and_its_side_is_named(side, what):
    log = []
    workers = {name: Worker(name, log, fails=(what,) if name == side else ()) for name in ("base", "head")}
    with pytest.raises(SideFailed, match=f"^{side}: simple-b2-s4-t1: {what} failed$") as failure:
        measure_pair("simple-b2-s4-t1", workers, 0, STEPS_S, BLOCK_S)
    assert (failure.value.side, failure.value.stderr_tail) == (side, "its last words")
    assert log.count((side, what)) == 1
    if what == "load":
        assert log[-2:] == [("base", "stop"), ("head", "stop")]
    else:
        assert log[-1] == (side, what)


def test_ctrl_c_does_not_wait_for_sides_that_are_being_loaded():
    stopped = threading.Event()

    class Slow(Worker):
        def load(self):
            _thread.interrupt_main()
            assert stopped.wait(20), "the pair waits for what takes a while"
            raise WorkerFailed("was killed")

        def stop(self):
            stopped.set()

    with pytest.raises(KeyboardInterrupt):
        measure_pair("simple-b2-s4-t1", {"base": Slow("base"), "head": Slow("head")}, 0, STEPS_S, BLOCK_S)
    assert stopped.is_set()


def test_counts_are_taken_in_the_steady_state_and_come_with_the_software(make_observations):
    worker = Worker(shows=make_observations())
    assert count(worker, SOURCE).software == SOFTWARE
    assert [what for _, what in worker.log] == ["load", "run 2", "memory", "flops", "operators 1", "imported"]


def test_what_was_imported_is_asked_for_last_with_the_trees_and_the_packages(make_observations):
    worker = Worker(shows=make_observations())
    assert count(worker, SOURCE).imported == Imported(files=(("mine", "/tree/mine.py"),))
    assert worker.asked_for == (["/top", "/tree"], ["mine"])


def test_a_worker_whose_ntp_cannot_be_started_is_asked_nothing(tmp_path):
    worker = Worker()
    with pytest.raises(WorkerFailed, match="too old to be started from here: it has no ntp"):
        count(worker, SOURCE.model_copy(update={"ntp": tmp_path}))
    assert worker.log == []


def test_counts_are_sums_over_phases(make_observations, make_operators):
    operators = make_operators(
        ("aten::mm", "backward", 31.0, 5, 24),
        ("aten::mm", "forward", 5.5, 1, 16),
        ("aten::addmm", "forward", 12.0, 2, 20),
        ("Optimizer.step#AdamW.step", "optimizer", 2.0, 1, 4),
        ("between operators", "between phases", 4.5, 0, 0),
    )
    shows = make_observations(operators=operators)
    counts = count(Worker(shows=shows), SOURCE).counts
    assert counts.operators == (("aten::addmm", 2), ("aten::mm", 6))
    assert counts.allocated_bytes == 64 * MIB, "whoever allocated it"
    assert counts.flops == sum(share.flops for share in shows.flops.phases) > 0
    assert counts.peak_tensor_bytes == shows.memory.peak.total_bytes > 0
    assert counts.parameters == 7


@pytest.mark.parametrize("what", ["load", "run 2", "memory", "flops", "operators 1", "imported"])
def test_a_count_that_cannot_be_taken_is_a_failure(make_observations, what):
    with pytest.raises(WorkerFailed, match=f"{what} failed"):
        count(Worker(shows=make_observations(), fails=(what,)), SOURCE)
