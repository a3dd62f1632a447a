"""The rounds of a sweep, with workers that need no process and a clock that goes by what these say."""

import random
from collections import Counter

import pytest
from fakes import FakeWorker

from ntp.case import Case
from ntp.errors import WorkerFailed
from ntp.runners import sweep
from ntp.runners.bench import Bench
from ntp.runners.sweep import Plan, RoundsSweep, as_plain, forecast_s, largest_step
from ntp.worker.driver import Observing, Sampling

SMALL, LARGE, PART = (Case.parse(f"simple-{name}") for name in ("b2-s4-t1", "b8-s4-t1", "b8-s4-t1-forward"))
CASES = (SMALL, LARGE, PART)
PLAIN = as_plain(LARGE)
PROCESS_S = 2.0
"""How long each process takes: its load alone."""


class Machine:
    """Starts the workers of a sweep, and keeps which were started and what was said before each."""

    def __init__(self, *, noise=0.0, fails=(), observations=None):
        self.now_s = 100.0
        self.started = []
        self.said = []
        self.stopped = 0
        self.noise, self.fails, self.observations = noise, set(fails), observations

    @property
    def bench(self):
        return Bench(lambda case, _: Worker(case, self), lambda: self.now_s, progress=self.said.append)


class Worker(FakeWorker):
    """A worker whose process is a little slower or faster than the one before."""

    def __init__(self, case, machine):
        machine.started.append(case)
        self.machine, self.shows = machine, machine.observations
        self.number = machine.started.count(case)
        self.case = case
        self.step_ns = round(10_000_000 * (1 + machine.noise * (-1) ** self.number))

    def said(self, what):
        if what == "load":
            self.machine.now_s += PROCESS_S
            if (self.case, self.number) in self.machine.fails:
                raise WorkerFailed(f"{self.case.id}: died")
        if what == "stop":
            self.machine.stopped += 1

    def warm_up(self):
        return super().warm_up()


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(sweep, "read_git", lambda: None)


def run(machine, cases=CASES, until=sweep.never, **plan):
    rounds = RoundsSweep(cases, Plan(**{"sampling": Sampling(min_samples=3, time_s=0.03), **plan}), machine.bench)
    return rounds, list(rounds.run(until))


def counts(rounds):
    return {case: len(measurement.processes) for case, measurement in rounds.measurements.items()}


def test_a_round_is_a_process_of_each_case_and_of_the_plain_one():
    machine = Machine()
    rounds, done = run(machine, rounds=3)
    assert done == [1, 2, 3]
    assert counts(rounds) == {SMALL: 3, LARGE: 3, PART: 3}
    for first in range(0, 12, 4):
        assert set(machine.started[first : first + 4]) == {*CASES, PLAIN}
    assert [process.round for process in rounds.plain.processes] == [1, 2, 3]
    assert machine.stopped == 12


def test_the_order_depends_on_the_seed_alone():
    def order(seed, **options):
        machine = Machine(**options)
        run(machine, order_seed=seed)
        return machine.started

    assert order(7) == order(7, noise=0.3)
    assert order(7) != order(8)
    drawn = random.Random(7)
    assert order(7)[:4] == drawn.sample((*CASES, PLAIN), 4)
    failed = order(7, fails=[(SMALL, 1)])
    assert failed == [case for number, case in enumerate(order(7)) if case != SMALL or case not in order(7)[:number]]


def test_the_same_case_twice_is_one():
    machine = Machine()
    run(machine, cases=(SMALL, LARGE, SMALL), rounds=1, with_plain=False)
    assert Counter(machine.started) == {SMALL: 1, LARGE: 1}


def test_a_case_that_fails_is_dropped_and_the_others_go_on():
    machine = Machine(fails=[(LARGE, 3)])
    rounds, _ = run(machine)
    assert counts(rounds) == {SMALL: 5, PART: 5}
    assert str(rounds.failures[LARGE]) == f"{LARGE.id}: died"
    assert machine.started.count(LARGE) == 3
    assert len(rounds.plain.processes) == 5
    assert rounds.has_result(LARGE), "its failure"


def test_the_plain_process_may_fail():
    machine = Machine(fails=[(PLAIN, 2)])
    rounds, _ = run(machine)
    assert (rounds.plain, rounds.failures) == (None, {})
    assert str(rounds.plain_failure) == f"{PLAIN.id}: died"
    assert counts(rounds) == dict.fromkeys(CASES, 5)


def test_a_case_that_is_plain_already_is_measured_once_and_observed(make_observations):
    machine = Machine(observations=make_observations())
    rounds, _ = run(machine, cases=(PLAIN,), rounds=2, observing=Observing())
    assert machine.started == [PLAIN, PLAIN]
    assert rounds.plain == rounds.measurements[PLAIN]
    assert rounds.plain.observations.phases is not None


def test_observers_look_at_whole_steps_in_the_last_round(make_observations):
    machine = Machine(observations=make_observations())
    rounds, _ = run(machine, rounds=2, observing=Observing())
    observed = {case for case, measurement in rounds.measurements.items() if measurement.observations.phases}
    assert observed == {SMALL, LARGE}
    assert rounds.plain.observations.phases is None


def test_it_ends_where_it_is_told_to():
    machine = Machine(fails=[(SMALL, 2)])
    holder = []
    rounds = RoundsSweep(CASES, Plan(order_seed=1), machine.bench)
    holder.extend(rounds.run(lambda: bool(rounds.failures)))
    assert holder == [1, 2]
    assert machine.started[-1] == SMALL
    assert rounds.round == 2


@pytest.mark.parametrize(("rounds", "needed"), [(1, 1), (2, 2), (5, 2)])
def test_how_many_processes_make_a_result(rounds, needed):
    machine = Machine()
    measured = RoundsSweep(CASES, Plan(rounds=rounds), machine.bench)
    results = {number: measured.has_result(SMALL) for number in measured.run()}
    assert results == {number: number >= needed for number in range(1, rounds + 1)}


class TestPrecision:
    def test_one_that_is_reached_adds_nothing(self):
        machine = Machine()
        assert run(machine, precision=0.01)[1] == [1, 2, 3, 4, 5]

    def test_rounds_are_added_until_it_is_reached(self):
        machine = Machine(noise=0.02)
        rounds, done = run(machine, precision=0.01, budget_s=1e6)
        assert len(done) > 5
        assert max(sweep.half_widths(list(rounds.measurements.values())).values()) <= 0.01
        assert machine.started.count(PLAIN) == 5, "which nobody asked to be precise"

    def test_only_cases_that_are_too_wide_are_measured_again(self):
        machine = Machine(noise=0.02, fails=[(SMALL, 4)])
        rounds, _ = run(machine, precision=0.01, budget_s=1e6)
        assert machine.started.count(SMALL) == 4
        assert SMALL not in rounds.measurements

    def test_the_budget_holds_the_last_round_too(self):
        machine = Machine(noise=0.5)
        _, done = run(machine, precision=0.001, rounds=2, budget_s=25.0)
        # Two rounds of four processes take 16 s, one more of three cases 6 s, and the next would end at 28 s.
        assert done == [1, 2, 3]
        assert machine.now_s - 100.0 == pytest.approx(22.0)

    def test_a_budget_smaller_than_the_rounds_adds_none(self):
        assert run(Machine(noise=0.5), precision=0.001, budget_s=1.0)[1] == [1, 2, 3, 4, 5]

    def test_a_single_process_is_never_precise(self):
        assert run(Machine(), rounds=1, precision=0.5, budget_s=1e6)[1] == [1, 2]


class TestForecasts:
    def test_what_is_left_is_what_the_round_before_took(self):
        machine = Machine()
        run(machine, rounds=3)
        expected = [f"about {left_s} s left" for left_s in range(16, 0, -2)]
        assert [said.rpartition(", ")[2] for said in machine.said[4:]] == expected
        assert machine.said[4].startswith(f"round 2 of 3: {machine.started[4].id}, ")

    def test_before_the_sweep_it_grows_with_rounds_and_cases(self):
        one = forecast_s(CASES, Plan(rounds=1))
        assert forecast_s(CASES, Plan(rounds=5)) > forecast_s(CASES, Plan(rounds=2)) > one
        assert forecast_s(CASES[:2], Plan(rounds=1)) < one < forecast_s(CASES, Plan(rounds=1, observing=Observing()))
        assert forecast_s((PART,), Plan()) < forecast_s((SMALL,), Plan())


def test_the_plain_process_is_that_of_the_largest_step():
    assert largest_step(CASES) == LARGE
    assert largest_step((PART,)) is None
    assert largest_step((LARGE, Case.parse("simple-b2-s4-t2"))) == Case.parse("simple-b2-s4-t2")
    assert PLAIN.id == "simple-b8-s4-t1-glibc-free"
