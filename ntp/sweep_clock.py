"""The clock by which pytest-benchmark times what workers have measured."""

from collections.abc import Callable


class WorkerClock:
    """A clock that advances by what a worker measured, and by nothing else.

    pytest-benchmark reads it before and after each round, so that its own statistics, table, JSON, histogram and
    comparison are of the worker's times.
    """

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> float:
        return self.now_ns / 1e9

    def replay(self, step_time_ns: tuple[int, ...]) -> Callable[[], None]:
        """Return a function that advances the clock by a sample per call, and by nothing after the last of them."""
        samples = iter(step_time_ns)

        def step() -> None:
            self.now_ns += next(samples, 0)

        return step


worker_clock = WorkerClock()
