"""How much a small step varies here, in the quiet runtime and in that of a plain process."""

import math
import statistics
from collections.abc import Callable
from contextlib import ExitStack

from ntp.case import Case
from ntp.judge.disturbance import Spreads, spread
from ntp.worker.driver import PipeWorker, Sampling

_PLAIN: dict[str, object] = {"allocator": "glibc", "affinity": "free", "wait_policy": "unset"}

SAMPLING = Sampling(time_s=5.0, blocks=5)
"""Turns as long as most bursts of noise."""

_COLD_STEPS = 2
"""The first of a block, which find the caches full of what the other left there."""


def spreads(
    threads: int,
    *,
    sampling: Sampling = SAMPLING,
    start: Callable[[Case], PipeWorker] = PipeWorker,
    progress: Callable[[str], None] = lambda _: None,
) -> Spreads:
    """Time a small step with so many threads, in two processes that alternate: what disturbs the machine for a while
    disturbs both. It takes a quarter of a minute.

    Raises:
        WorkerFailed: it cannot be run.
    """
    small: dict[str, object] = {"batch_size": 8, "seq_len": 64, "threads": threads}
    progress("timing a small step for a quarter of a minute")
    with ExitStack() as alive:
        workers, steps = [], []
        for case in (Case.of(small), Case.of(small | _PLAIN)):
            worker = alive.enter_context(start(case))
            worker.load()
            steps.append(math.ceil(sampling.steps(worker.warm_up()) / sampling.blocks))
            workers.append(worker)
        blocks: list[list[float]] = [[] for _ in workers]
        for _ in range(sampling.blocks):
            for each, worker, count in zip(blocks, workers, steps, strict=True):
                each.append(spread(worker.run(_COLD_STEPS + count).step_time_ns[_COLD_STEPS:]))
    # A burst falls into a block or two: of five, the middle one has none.
    quiet, plain = map(statistics.median, blocks)
    return Spreads(quiet, plain)
