"""A warm-up that ends when the step time is steady, with a clock that goes by what the steps say."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.worker.warmup import MAX_STEPS, MAX_TIME_NS, MIN_TIME_NS, is_steady, warm_up

MS = 1_000_000


class Steps:
    """Steps with scripted times, and the clock that they advance."""

    def __init__(self, times_ns):
        self.times_ns = iter(times_ns)
        self.now_ns = 0
        self.count = 0

    def run(self):
        self.count += 1
        time_ns = next(self.times_ns)
        self.now_ns += time_ns
        return time_ns

    def clock_ns(self):
        return self.now_ns


def run_warm_up(times_ns, **options):
    steps = Steps(times_ns)
    return steps, warm_up(steps.run, steps.clock_ns, **options)


def test_constant_steps_are_steady_once_there_are_two_windows():
    steps, result = run_warm_up(itertools.repeat(100 * MS))
    assert result.steady
    assert steps.count == len(result.step_time_ns) == 4
    assert result.wall_time_ns == 400 * MS


def test_it_looks_again_until_the_steps_agree():
    # After the fourth step the medians are 225 and 100, after the fifth 125 and 100, after the sixth equal.
    steps, result = run_warm_up(iter([300 * MS, 150 * MS, *[100 * MS] * 20]))
    assert result.steady
    assert steps.count == 6


@pytest.mark.parametrize("count", [1, 3, 50])
def test_a_number_of_steps_is_run_exactly(count):
    steps, result = run_warm_up(itertools.repeat(2 * MAX_TIME_NS), steps=count)
    assert steps.count == len(result.step_time_ns) == count
    assert not result.steady


def test_steps_that_still_get_faster_are_not_steady():
    assert not is_steady([100, 95, 90, 85, 80, 76, 72, 68])


def test_steps_that_get_slower_are_not_steady():
    assert not is_steady([68, 72, 76, 80, 85, 90, 95, 100])


def test_one_disturbed_step_does_not_matter_among_three():
    assert is_steady([100] * 11 + [900])
    assert not is_steady([100] * 7 + [900]), "of two it is half"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_steps_are_never_steady(count):
    assert not is_steady([100] * count)
    assert is_steady([100] * 4)


def test_a_window_is_two_steps_at_least():
    assert is_steady([100, 100, 100, 100, 50, 50, 50, 50])
    assert not is_steady([100, 100, 50, 50])


def test_slow_first_steps_are_waited_out():
    slow_start = [int(20 * MS * (1 + 3 * 0.7**i)) for i in range(100)]
    _, result = run_warm_up(slow_start)
    assert result.steady
    newest = result.step_time_ns[-2:]
    assert max(newest) < 1.1 * 20 * MS


def test_fast_steps_fill_the_minimum_time():
    _, result = run_warm_up(itertools.repeat(MS))
    assert result.steady
    assert result.wall_time_ns >= MIN_TIME_NS


def test_a_step_time_that_never_settles_ends_at_the_cap():
    rising = (int(50 * MS * 1.05**i) for i in itertools.count())
    steps, result = run_warm_up(rising)
    assert not result.steady
    assert steps.now_ns - result.step_time_ns[-1] < MAX_TIME_NS <= steps.now_ns


def test_of_steps_beyond_the_cap_two_are_enough_for_the_first_is_cold():
    steps, result = run_warm_up(itertools.repeat(2 * MAX_TIME_NS))
    assert steps.count == 2
    assert not result.steady


def test_steps_too_fast_for_the_clock_end_at_the_count():
    _, result = run_warm_up(itertools.repeat(0))
    assert len(result.step_time_ns) == MAX_STEPS
    assert not result.steady


@given(st.lists(st.integers(1, 10**9), min_size=8, max_size=60), st.integers(2, 1000))
def test_steadiness_is_the_same_in_any_unit(times, factor):
    assert is_steady(times) == is_steady([time * factor for time in times])


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.1, 2.0])
def test_a_level_that_has_just_changed_is_not_steady(ratio):
    assert not is_steady([1000] * 2 + [int(1000 * ratio)] * 2)
