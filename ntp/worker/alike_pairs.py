"""Pairs of sides that are nearly alike: one step of each in turn, or both at the same time on two CPUs.

Where two commits are compared, their steps take nearly the same time, and the sooner one follows the other, the more of
the machine's noise they share. A step of one thread leaves a CPU free: then both sides run at once, and have swapped
their CPUs in every second round. Steps of several threads run in turn, on the same CPUs.
"""

import os
import random
import statistics
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from ntp.case import Case
from ntp.machine.cpus import available_cpus, choose_cpus, read_topology
from ntp.records.guard import Block, Pair, SideName
from ntp.records.run import WarmUp
from ntp.worker.pairs import ask, blamed
from ntp.worker.protocol import Ran, Worker, stopped_on_error

if TYPE_CHECKING:
    from ntp.records.endings import Ending

STEPS_S = 2.5
"""Seconds of a pair in which steps are timed."""

MIN_ROUNDS = 8
"""The fewest rounds, however long a step takes: an even number."""

WARM_UP_STEPS = 3
"""What is left of a warm-up after these is in both sides alike."""

SLOWED = 1.15
"""Sides that slow each other by more than this factor run in turn: they share a core, or the memory's bandwidth."""

_PROBES = 3

Places = Mapping[SideName, int]
"""The CPU of each side."""


def cpus_for_both(case: Case) -> tuple[int, int] | None:
    """Return two CPUs, on different cores if possible, on which both sides can run at once. None if there are none."""
    cpus = available_cpus().cpus
    can_move = case.runtime.affinity == "pinned" and hasattr(os, "sched_setaffinity")
    if case.runtime.threads > 1 or len(cpus) < 2 or not can_move:
        return None
    first, second = choose_cpus(cpus, 2, read_topology())
    return first, second


def measure_alike(
    case: Case,
    workers: Mapping[SideName, Worker],
    seed: int,
    *,
    cpus: tuple[int, int] | None = None,
    together: bool | None = None,
    steps_s: float = STEPS_S,
) -> Pair:
    """Load and warm up a fresh worker of each side, then let each run one step in each of many rounds.

    Args:
        case: what both sides run.
        workers: just started.
        seed: of the order in which the sides come first, and of which begins on which CPU.
        cpus: those of :func:`cpus_for_both`.
        together: whether both run at once. None: it is tried, and done unless they slow each other down.
        steps_s: seconds in which steps are timed.

    Raises:
        SideFailed: one of them died, hung or refused.
    """
    order = random.Random(seed)
    sides: list[SideName] = order.sample(["base", "head"], 2)
    # Loading and warming up need no quiet.
    with ThreadPoolExecutor(len(sides)) as pool, stopped_on_error(*workers.values()):
        list(pool.map(lambda side: ask(side, workers[side], workers[side].load), sides))
        places: Places = dict(zip(sides, cpus, strict=True)) if cpus else {}
        # Threads of two sides that share their CPUs, and spin, would warm up for ever.
        in_order = pool.map if places else map
        list(in_order(lambda side: ask(side, workers[side], partial(_warm_up, workers[side], places.get(side))), sides))
    alike = _Alike(workers, order)
    if together is None:
        together = bool(places) and alike.slowdown_together(places) <= SLOWED
    rounds = alike.together(places) if together else alike.in_turn()
    return Pair(
        case_id=case.id,
        seed=seed,
        together=together,
        blocks=_filling(steps_s, rounds, sides_at_once=2 if together else 1),
        endings=tuple(alike.endings.items()),
    )


def _warm_up(worker: Worker, cpu: int | None) -> WarmUp:
    return worker.warm_up(WARM_UP_STEPS, cpu)


class _Alike:
    """Both sides, warmed up."""

    def __init__(self, workers: Mapping[SideName, Worker], order: random.Random) -> None:
        self.endings: dict[SideName, Ending] = {}
        self._workers = workers
        self._order = order

    def together(self, places: Places) -> Iterator[list[Block]]:
        """Run rounds in which both sides have a step at the same time. In every second one they have swapped CPUs."""
        swapped: Places = {"base": places["head"], "head": places["base"]}
        while True:
            yield self._at_once(places) + self._at_once(swapped)

    def in_turn(self) -> Iterator[list[Block]]:
        """Run rounds of a step of each side. The other is paused, so that its threads do not spin meanwhile."""
        while True:
            yield [
                self._block(side, ask(side, self._workers[side], partial(self._workers[side].run, 1)))
                for side in self._in_order()
            ]

    def slowdown_together(self, places: Places) -> float:
        """Return how many times as long a step takes while the other side runs one, too."""
        together: list[int] = []
        alone: list[int] = []
        for _ in range(_PROBES):
            together += (block.step_time_ns[0] for block in self._at_once(places))
            for side in self._in_order():
                self._begin(side, places[side])
                alone.append(self._end(side).step_time_ns[0])
        return statistics.median(together) / statistics.median(alone)

    def _at_once(self, places: Places) -> list[Block]:
        sides = self._in_order()
        for side in sides:
            self._begin(side, places[side])
        return [self._block(side, self._end(side), places[side]) for side in sides]

    def _in_order(self) -> list[SideName]:
        return self._order.sample(sorted(self._workers), 2)

    def _begin(self, side: SideName, cpu: int) -> None:
        with blamed(side):
            self._workers[side].begin_step(cpu)

    def _end(self, side: SideName) -> Ran:
        with blamed(side):
            return self._workers[side].end_step()

    def _block(self, side: SideName, ran: Ran, cpu: int | None = None) -> Block:
        self.endings[side] = ran.ending
        return Block(side=side, step_time_ns=ran.step_time_ns, step_cpu_ns=ran.step_cpu_ns, cpu=cpu)


def _filling(steps_s: float, rounds: Iterator[list[Block]], sides_at_once: int) -> tuple[Block, ...]:
    """Take rounds until their steps fill the time: how long a step takes is known only once the other side is idle."""
    blocks: list[Block] = []
    timed_ns = 0
    while timed_ns < 1e9 * steps_s * sides_at_once or len(blocks) < 2 * MIN_ROUNDS:
        more = next(rounds)
        blocks += more
        timed_ns += sum(block.step_time_ns[0] for block in more)
    return tuple(blocks)
