"""Jobs that are timed in turn, by a clock that they alone advance."""

from ntp.observe.rounds import burst, time_in_rounds


class FakeClock:
    """Advanced by the jobs alone."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.order = ""

    def __call__(self) -> int:
        return self.now_ns

    def job(self, name: str, *durations_ms: int):
        durations = iter(durations_ms)
        last = durations_ms[-1]

        def run() -> None:
            self.order += name
            self.now_ns += next(durations, last) * 1_000_000

        return run


def test_jobs_take_turns_after_one_untimed_call_each():
    clock = FakeClock()
    times = time_in_rounds([clock.job("a", 900, 30), clock.job("b", 700, 50)], 1.79, clock)
    assert clock.order == "ab" + "ab" * 3
    assert times == [(30_000_000,) * 3, (50_000_000,) * 3]


def test_a_budget_that_is_too_small_still_gives_two_rounds():
    clock = FakeClock()
    time_in_rounds([clock.job("a", 5000)], 0.001, clock)
    assert clock.order == "aaa"


def test_short_jobs_run_in_bursts():
    clock = FakeClock()
    times = time_in_rounds([clock.job("a", 1), clock.job("b", 7)], 0.001, clock)
    assert clock.order == "ab" + ("a" * 10 + "bbb") * 2
    assert [len(samples) for samples in times] == [20, 6]


def test_no_jobs():
    assert time_in_rounds([], 1.0) == []


def test_a_burst_has_as_many_calls_as_asked_or_ends_after_twenty_milliseconds():
    clock = FakeClock()
    assert list(burst(clock.job("a", 1), 4, clock)) == [1_000_000] * 4
    assert list(burst(clock.job("b", 9), 4, clock)) == [9_000_000] * 3
    assert list(burst(clock.job("c", 5000), 4, clock)) == [5_000_000_000]
    assert clock.order == "aaaabbbc"
