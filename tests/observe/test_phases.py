"""The phase clock, with a clock of our own."""

from contextlib import nullcontext

import pytest

from ntp.case import PHASES, StepConfig, Workload
from ntp.core.step import Training
from ntp.observe.phases import PhaseClock, phase_pass


class FakeClock:
    def __init__(self):
        self.now_ns = 0

    def __call__(self):
        return self.now_ns


def test_time_is_added_up_by_phase():
    clock = FakeClock()
    phases = PhaseClock(clock)
    for phase, time_ns in (("forward", 5), ("backward", 7), ("forward", 11)):
        with phases(phase):
            clock.now_ns += time_ns
        clock.now_ns += 1000  # between phases
    assert phases.time_ns == {"forward": 16, "backward": 7}


def test_reset_forgets():
    phases = PhaseClock(FakeClock())
    with phases("forward"):
        pass
    phases.reset()
    assert phases.time_ns == {}


def test_a_phase_that_fails_is_counted_and_fails():
    clock = FakeClock()
    phases = PhaseClock(clock)

    def fail():
        with phases("loss"):
            clock.now_ns += 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert phases.time_ns == {"loss": 3}


class FakeTraining:
    """Steps on a clock that they move themselves; each phase takes 10 ns, and what lies between them 4 ns a step."""

    def __init__(self, clock):
        self.clock = clock
        self.order = ""

    def step(self, phase=nullcontext):
        self.order += "b" if phase is nullcontext else "i"
        self.clock.now_ns += 4
        for name in PHASES:
            with phase(name):
                self.clock.now_ns += 10
        if phase is not nullcontext:
            self.clock.now_ns += 2


def test_bare_and_instrumented_steps_take_turns_in_going_first():
    clock = FakeClock()
    training = FakeTraining(clock)
    times = phase_pass(training, 3, clock)
    assert training.order == "biibbi"
    assert times.bare_step_ns == (64, 64, 64)
    assert times.instrumented_step_ns == (66, 66, 66)
    assert times.cost == pytest.approx(66 / 64 - 1)


def test_each_step_gives_a_sample_of_each_phase():
    clock = FakeClock()
    times = phase_pass(FakeTraining(clock), 2, clock)
    assert [(phase.phase, phase.time_ns) for phase in times.phases] == [(phase, (10, 10)) for phase in PHASES]
    assert times.coverage == pytest.approx(60 / 66)


def test_the_phases_of_a_real_step_are_all_timed():
    workload = Workload(batch_size=2, seq_len=8, vocab_size=30, embed_dim=8, hidden_dim=16)
    times = phase_pass(Training.start(workload, StepConfig()), 2)
    assert [phase.phase for phase in times.phases] == list(PHASES)
    assert all(time_ns > 0 for phase in times.phases for time_ns in phase.time_ns)
    assert 0 < times.coverage <= 1


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="not 0"):
        phase_pass(FakeTraining(FakeClock()), 0)
