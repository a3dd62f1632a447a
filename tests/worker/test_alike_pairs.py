"""A pair of nearly alike sides, with workers that need no process."""

import pytest
from fakes import FakeWorker
from hypothesis import given
from hypothesis import strategies as st

from ntp.case import Case
from ntp.errors import WorkerFailed
from ntp.records.endings import Ending
from ntp.worker import alike_pairs
from ntp.worker.alike_pairs import (
    MIN_ROUNDS,
    SLOWED,
    SWAP_S,
    UNLIKE,
    WARM_UP_STEPS,
    cpus_for_both,
    measure_alike,
)
from ntp.worker.pairs import SideFailed

ONE, TWO = Case.parse("simple-b2-s4-t1"), Case.parse("simple-b2-s4-t2")
SLEEPING = Case.parse("simple-b2-s4-t2-passive")
CPUS = (3, 5)
SEEDS = st.integers(0, 2**32 - 1)


class Machine:
    """What the workers of a pair share: which of them runs a step, and what each was asked."""

    def __init__(self, slowed=1.0):
        self.slowed = slowed
        self.swaps = 0
        """How often the sides can swap their CPUs during a step."""
        self.running = set()
        self.log = []


class Worker(FakeWorker):
    """Every step takes ``step_ns``, and longer while the other side runs one, too."""

    def __init__(self, name, machine, step_ns=25_000_000, fails=()):
        self.name = name
        self.machine = machine
        self.step_ns = step_ns
        self.fails = fails
        self.steps = 0

    def said(self, what):
        self.machine.log.append((self.name, what))
        if what in self.fails:
            raise WorkerFailed(f"simple-b2-s4-t1: {what} failed", "its last words")

    def times_ns(self, steps):
        others = self.machine.running - {self.name}
        self.steps += steps
        return (round(self.step_ns * (self.machine.slowed if others else 1)),) * steps

    def begin_step(self, cpu=None):
        super().begin_step(cpu)
        self.machine.running.add(self.name)
        self.machine.waits = self.machine.swaps

    def answers_within(self, seconds):
        assert seconds == SWAP_S
        self.machine.waits -= 1
        return self.machine.waits < 0

    def end_step(self):
        if self.machine.running == {"base", "head"}:
            self.machine.both = True
        ran = self.run(1)
        if getattr(self.machine, "ended", None):
            self.machine.running.clear()
            self.machine.ended = None
        elif self.machine.running == {"base", "head"}:
            self.machine.ended = self.name
        else:
            self.machine.running.clear()
        return ran

    def run(self, steps, expected_s=0.0):
        self.ending = Ending(loss=self.steps)
        return super().run(steps, expected_s)


def pair_of(seed=0, case=ONE, cpus=CPUS, together=None, slowed=1.0, **workers):
    """A pair, and the log of what its workers were asked."""
    machine = Machine(slowed)
    sides = {side: Worker(side, machine, **workers.get(side, {})) for side in ("base", "head")}
    return measure_alike(case, sides, seed, cpus=cpus, together=together), machine.log


def places(pair):
    return [{block.side: block.cpu for block in pair.blocks[i : i + 2]} for i in range(0, len(pair.blocks), 2)]


@given(SEEDS)
def test_sides_of_one_thread_run_at_once_and_swap_their_cpus(seed):
    pair, _ = pair_of(seed)
    assert pair.together
    rounds = places(pair)
    assert len(rounds) % 2 == 0
    for before, after in zip(rounds[::2], rounds[1::2], strict=True):
        assert {before["base"], before["head"]} == set(CPUS)
        assert (after["base"], after["head"]) == (before["head"], before["base"])
    assert alike_pairs.STEPS_S <= len(rounds) * 0.025 <= alike_pairs.STEPS_S + 0.05


def test_they_swap_within_a_step_too_until_one_of_them_is_done():
    machine = Machine()
    machine.swaps = 3
    sides = {side: Worker(side, machine) for side in ("base", "head")}
    measure_alike(ONE, sides, 0, cpus=CPUS, together=True)
    moves = [entry for entry in machine.log if entry[1].startswith(("begin_step", "move"))]
    of_a_round = moves[:8]
    for side in ("base", "head"):
        cpus = [int(what.split()[1]) for name, what in of_a_round if name == side]
        assert cpus in ([3, 5, 3, 5], [5, 3, 5, 3])


@given(SEEDS)
def test_threads_that_sleep_share_their_cpus_in_every_second_round(seed):
    pair, log = pair_of(seed, SLEEPING, cpus=None)
    assert not pair.together
    kinds = [(base.shared, head.shared) for base, head in pair.rounds]
    assert kinds[:6] == [(True, True), (False, False)] * 3
    shared = sum(both[0] for both in kinds)
    assert alike_pairs.STEPS_S <= 0.025 * (shared + 2 * (len(kinds) - shared)) <= alike_pairs.STEPS_S + 0.05
    assert not any(what.startswith("move") for _, what in log)
    assert [both[0].shared for both in pair.rounds_on("cpu")] == [True] * shared
    assert [both[0].shared for both in pair.rounds_on("wall")] == [False] * (len(kinds) - shared)


def test_one_thread_shares_its_cpu_where_there_is_no_other_or_the_sides_would_slow_each_other():
    for cpus, slowed in ((None, 1.0), (CPUS, 2.0)):
        pair, _ = pair_of(case=ONE, cpus=cpus, slowed=slowed)
        assert not pair.together
        assert {both[0].shared for both in pair.rounds} == {True, False}


@given(SEEDS)
def test_sides_whose_threads_spin_run_in_turn(seed):
    pair, log = pair_of(seed, TWO, cpus=None)
    assert not pair.together
    assert not any(block.shared for block in pair.blocks)
    assert all(set(round_) == {"base", "head"} and set(round_.values()) == {None} for round_ in places(pair))
    assert alike_pairs.STEPS_S <= len(pair.blocks) * 0.025 <= alike_pairs.STEPS_S + 0.05
    asked = log[-2 * len(pair.blocks) :]
    assert [what for _, what in asked] == ["run 1", "pause"] * len(pair.blocks)


@pytest.mark.parametrize(("slowed", "together"), [(1.0, True), (SLOWED - 0.01, True), (SLOWED + 0.01, False)])
def test_sides_that_slow_each_other_run_in_turn(slowed, together):
    pair, _ = pair_of(slowed=slowed)
    assert pair.together == together


@pytest.mark.parametrize(("times", "together"), [(1.0, True), (UNLIKE - 0.01, True), (UNLIKE + 0.01, False)])
@pytest.mark.parametrize("slower", ["base", "head"])
def test_sides_that_are_unlike_have_no_two_cpus(slower, times, together):
    pair, _ = pair_of(**{slower: {"step_ns": round(25_000_000 * times)}})
    assert pair.together == together


def test_what_an_earlier_pair_has_tried_is_not_tried_again():
    for together in (True, False):
        pair, log = pair_of(slowed=3.0 if together else 1.0, together=together)
        assert pair.together == together
        assert len([what for _, what in log if what.startswith(("run", "begin"))]) <= 2 * len(pair.blocks)


@pytest.mark.parametrize("side", ["base", "head"])
@pytest.mark.parametrize("what", ["load", f"warm_up {WARM_UP_STEPS}", "run 1", f"begin_step {CPUS[0]}"])
def test_a_worker_that_fails_ends_the_pair_and_its_side_is_named(side, what):
    with pytest.raises(SideFailed, match=f"^{side}: simple-b2-s4-t1: {what} failed$") as failure:
        pair_of(**{side: {"fails": (what,)}})
    assert (failure.value.side, failure.value.stderr_tail) == (side, "its last words")


def test_either_side_begins_on_either_cpu_and_goes_first():
    rounds = [places(pair_of(seed)[0])[0] for seed in range(40)]
    assert 10 < sum(round_["base"] == CPUS[0] for round_ in rounds) < 30
    firsts = [pair_of(seed)[0].blocks[0].side for seed in range(40)]
    assert 10 < firsts.count("base") < 30


@given(SEEDS)
def test_the_same_seed_gives_the_same_order(seed):
    first, second = (pair_of(seed)[0] for _ in range(2))
    assert first == second


def test_long_steps_have_a_few_rounds_each():
    for case, cpus in ((ONE, CPUS), (TWO, None), (SLEEPING, None)):
        pair, _ = pair_of(case=case, cpus=cpus, base={"step_ns": 60 * 10**9}, head={"step_ns": 60 * 10**9})
        assert len(pair.rounds) == MIN_ROUNDS


def test_a_pair_keeps_both_clocks_and_how_each_side_ended():
    pair, _ = pair_of()
    assert all(block.step_cpu_ns == block.step_time_ns for block in pair.blocks)
    assert dict(pair.endings).keys() == {"base", "head"}


def test_only_one_thread_leaves_a_cpu_for_the_other_side(monkeypatch):
    class Two:
        cpus = (0, 1)

    monkeypatch.setattr(alike_pairs, "available_cpus", lambda: Two)
    assert set(cpus_for_both(ONE)) == {0, 1}
    assert cpus_for_both(TWO) is None
    assert cpus_for_both(Case.parse("simple-b2-s4-t1-free")) is None
    monkeypatch.setattr(Two, "cpus", (0,))
    assert cpus_for_both(ONE) is None
