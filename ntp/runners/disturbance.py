"""How much a small step varies here, in the quiet runtime and in that of a plain process."""

import math
import statistics
from contextlib import ExitStack

from ntp.case import Case
from ntp.judge.disturbance import Spreads, spread
from ntp.runners.bench import Bench
from ntp.worker.driver import Sampling
from ntp.worker.sources import Source

_PLAIN: dict[str, object] = {"allocator": "glibc", "affinity": "free", "wait_policy": "unset"}

SAMPLING = Sampling(time_s=5.0, blocks=5)
"""Blocks as long as most bursts of noise."""

_COLD_STEPS = 2
"""Steps at the start of a block that do not count: the other process has filled the caches."""


def spreads(
    threads: int,
    *,
    sampling: Sampling = SAMPLING,
    bench: Bench,
) -> Spreads:
    """Time a small step with this many threads, in two processes that alternate: what disturbs the machine for a while
    disturbs both. It takes a quarter of a minute.

    Raises:
        WorkerFailed: it cannot be run.
    """
    small: dict[str, object] = {"batch_size": 8, "seq_len": 64, "threads": threads}
    bench.progress("timing a small step for a quarter of a minute")
    with ExitStack() as alive:
        workers, steps = [], []
        for case in (Case.of(small), Case.of(small | _PLAIN)):
            worker = alive.enter_context(bench.start(case, Source.here()))
            worker.load()
            steps.append(math.ceil(sampling.steps(worker.warm_up()) / sampling.blocks))
            workers.append(worker)
        spreads_of_blocks: list[list[float]] = [[] for _ in workers]
        for _ in range(sampling.blocks):
            for so_far, worker, count in zip(spreads_of_blocks, workers, steps, strict=True):
                so_far.append(spread(worker.run(_COLD_STEPS + count).step_time_ns[_COLD_STEPS:]))
    # A burst falls into a block or two: of five, the middle one has none.
    quiet, plain = map(statistics.median, spreads_of_blocks)
    return Spreads(quiet, plain)
