"""The phase clock, with a clock of our own."""

import pytest

from ntp.measure.phases import PhaseClock


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
