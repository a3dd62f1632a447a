"""Steps before the measurement, until their time says something about the next."""

import statistics
from collections.abc import Callable, Sequence

from ntp.records.run import WarmUp

MIN_WINDOW = 2
TOLERANCE = 0.03
MIN_TIME_NS = 100_000_000
MAX_TIME_NS = 1_500_000_000
MAX_STEPS = 20_000


def is_steady(step_time_ns: Sequence[int]) -> bool:
    """Whether the newest steps take as long as those before them.

    The medians of the newest quarter of all steps (at least two of them) and of as many before it must agree within
    3%. Medians, since one disturbed step says nothing about the rest; a quarter, so that it grows with the record.
    """
    window = max(MIN_WINDOW, len(step_time_ns) // 4)
    if len(step_time_ns) < 2 * window:
        return False
    before = statistics.median(step_time_ns[-2 * window : -window])
    newest = statistics.median(step_time_ns[-window:])
    return abs(newest - before) <= TOLERANCE * before


def warm_up(run_step: Callable[[], int], clock_ns: Callable[[], int], steps: int | None = None) -> WarmUp:
    """Run steps until their time is steady, or until 1.5 s or 20,000 steps have gone by.

    Args:
        run_step: runs one step and returns its time in nanoseconds.
        clock_ns: the wall clock; a step may take longer than the part of it that is timed.
        steps: run exactly this many instead.
    """
    step_time_ns: list[int] = []
    start_ns = clock_ns()
    next_look = 2 * MIN_WINDOW
    while True:
        step_time_ns.append(run_step())
        wall_time_ns = clock_ns() - start_ns
        steady = False
        # Looking costs more than a fast step: look when the record has grown by an eighth.
        if steps is None and len(step_time_ns) >= next_look and wall_time_ns >= MIN_TIME_NS:
            steady = is_steady(step_time_ns)
            next_look = len(step_time_ns) + max(1, len(step_time_ns) // 8)
        is_long = wall_time_ns >= MAX_TIME_NS and len(step_time_ns) >= MIN_WINDOW  # the first is cold
        done = steady or is_long or len(step_time_ns) >= MAX_STEPS if steps is None else len(step_time_ns) == steps
        if done:
            return WarmUp(step_time_ns=tuple(step_time_ns), wall_time_ns=wall_time_ns, steady=steady)
