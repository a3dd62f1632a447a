"""Times jobs in short, alternating bursts: matrix products, passes over memory."""

import time
from collections.abc import Callable, Iterator, Sequence

_BURST_NS = 20_000_000
BURST_CALLS = 10
_MIN_ROUNDS = 2

Job = Callable[[], object]


def time_in_rounds(
    jobs: Sequence[Job], budget_s: float, clock_ns: Callable[[], int] = time.perf_counter_ns
) -> list[tuple[int, ...]]:
    """Run a burst of each job again and again until the budget is spent, and return each job's times in nanoseconds.

    The jobs alternate so that a disturbance of a second costs every job a few samples and none all of them. Each runs
    once untimed, then in at least two bursts. In a burst, small products find their operands in the caches, as they do
    in training.
    """
    samples: list[list[int]] = [[] for _ in jobs]
    deadline_ns = clock_ns() + int(budget_s * 1e9)
    for job in jobs:
        job()
    rounds = 0
    while jobs and (rounds < _MIN_ROUNDS or clock_ns() < deadline_ns):
        for job, times in zip(jobs, samples, strict=True):
            times.extend(burst(job, clock_ns=clock_ns))
        rounds += 1
    return [tuple(times) for times in samples]


def burst(job: Job, calls: int = BURST_CALLS, clock_ns: Callable[[], int] = time.perf_counter_ns) -> Iterator[int]:
    """Call the job ``calls`` times and yield the duration of each call in nanoseconds.

    A slow job is called less often: no call begins once 20 ms are spent.
    """
    spent_ns = 0
    for _ in range(calls):
        start_ns = clock_ns()
        job()
        duration_ns = clock_ns() - start_ns
        yield duration_ns
        spent_ns += duration_ns
        if spent_ns >= _BURST_NS:
            return
