"""Base and head in pairs: the unit of all statistics of a comparison, and what is counted of each side exactly."""

import math
import random
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from ntp.case import Case
from ntp.errors import WorkerFailed
from ntp.measure.driver import PipeWorker
from ntp.measure.guard_records import Block, Counts, Pair, SideName
from ntp.measure.protocol import Worker

STEPS_S = 2.5
"""Seconds of timed steps in a pair, both sides together."""

BLOCK_S = 0.2
"""Seconds of steps of one side before the other has its turn. Short against what disturbs a machine, long against the
first steps after a turn, whose caches the other side has emptied."""

MIN_BLOCKS = 4


Answer = TypeVar("Answer")

StartWorker = Callable[[Case, Path], PipeWorker]


def start_worker(case: Case, directory: Path) -> PipeWorker:
    """A worker of the case that imports what lies in ``directory``."""
    return PipeWorker(case, directory=directory)


def count(worker: Worker) -> Counts:
    """Count what a step of a worker's case does, after two steps that bring it to its steady state.

    Raises:
        WorkerFailed: the worker is gone, or does not bear an observer.
    """
    loaded = worker.load()
    worker.run(2)
    memory, flops, profile = worker.memory(), worker.flops(), worker.operators(1)
    calls: dict[str, float] = {}
    for operator in profile.operators:
        if operator.name.startswith("aten::"):
            calls[operator.name] = calls.get(operator.name, 0) + operator.calls_per_step
    return Counts(
        parameters=loaded.parameters,
        flops=flops.total_flops,
        operators=tuple(sorted(calls.items())),
        allocated_bytes=sum(operator.allocated_bytes_per_step for operator in profile.operators),
        peak_tensor_bytes=memory.peak_bytes,
    )


def measure_pair(case_id: str, workers: dict[SideName, Worker], seed: int, steps_s: float = STEPS_S) -> Pair:
    """Load and warm up a fresh worker of each side, then let them run in turn, in an order drawn from ``seed``.

    Both run the same number of steps in each turn. Which of the two goes first is drawn anew for each pair of turns.

    Raises:
        WorkerFailed: one of them died, hung or refused; the message says which.
    """
    order = random.Random(seed)
    sides: list[SideName] = ["base", "head"]
    pace_s = []
    with ThreadPoolExecutor(len(sides)) as pool:  # importing torch takes seconds, and no quiet
        list(pool.map(lambda side: _of(side, workers[side].load), sides))
    for side in order.sample(sides, 2):
        warm_up = _of(side, workers[side].warm_up)
        pace_s.append(statistics.median(warm_up.step_time_ns[len(warm_up.step_time_ns) // 2 :]) / 1e9)
    step_s = statistics.mean(pace_s)
    turns, steps = turns_of(step_s, steps_s)
    blocks = []
    for _ in range(turns):
        for side in order.sample(sides, 2):
            ran = _of(side, partial(workers[side].run, steps, expected_s=steps * step_s))
            blocks.append(Block(side=side, step_time_ns=ran.step_time_ns))
    return Pair(case_id=case_id, seed=seed, blocks=tuple(blocks))


def _of(side: SideName, ask: Callable[[], Answer]) -> Answer:
    """Ask a worker, and name its side if it fails."""
    try:
        return ask()
    except WorkerFailed as error:
        raise WorkerFailed(f"{side}: {error}", error.stderr_tail) from error


def turns_of(step_s: float, steps_s: float = STEPS_S) -> tuple[int, int]:
    """How many turns each side has, and of how many steps, to fill ``steps_s`` seconds with both sides' steps."""
    steps = max(1, round(BLOCK_S / step_s))
    return max(MIN_BLOCKS, math.ceil(steps_s / (2 * steps * step_s))), steps
