"""Pairs of sides that are nearly alike, step by step: what disturbs the machine should disturb both sides alike.

Where two commits are compared, their steps take nearly the same time, and the shorter the turns in which the sides
alternate, the more of the machine's noise they share. So both have a step at the same time:

- One thread: each side runs on a CPU of its own, and they swap the CPUs every few milliseconds.
- Several threads that sleep while they wait: both sides run on the same CPUs, and the kernel alternates between them.
  A step's CPU time says how long it takes then; its time on the wall clock does not, so in every second round the sides
  take turns.
- Threads that spin while they wait would take the CPUs from the other side. They take turns in all rounds, and the idle
  side is stopped.
"""

import os
import random
import statistics
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

from ntp.case import Case
from ntp.machine.cpus import available_cpus, choose_cpus, read_topology
from ntp.records.pairs import Block, Pair, SideName
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

SWAP_S = 0.025
"""Sides on two CPUs swap them this often: more often, and filling the caches again costs more than it wins."""

SLOWED = 1.15
"""Sides that slow each other by more than this factor do not run on two CPUs: they share a core, or the memory."""

UNLIKE = 1.1
"""Nor do sides whose steps differ by more than this factor: the slower one would have the memory for itself at the end
of each step, and seem faster than it is."""

_PROBES = 3

Places = Mapping[SideName, int]
"""The CPU of each side."""


class _Rounds(NamedTuple):
    """The blocks of a round or two, and how long they took."""

    blocks: list[Block]
    time_ns: int


def cpus_for_both(case: Case) -> tuple[int, int] | None:
    """Return two CPUs, on different cores if possible, of which each side can have one. None if there are none."""
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
    at_once: bool = True,
    steps_s: float = STEPS_S,
) -> Pair:
    """Load and warm up a fresh worker of each side, then let each run one step in each of many rounds.

    Args:
        case: what both sides run.
        workers: just started.
        seed: of the order in which the sides come first, and of which begins on which CPU.
        cpus: those of :func:`cpus_for_both`.
        together: whether each side has a CPU of its own. None: it is tried, and done unless they slow each other down,
            or are unlike.
        at_once: whether they may run at the same time at all.
        steps_s: seconds in which steps are timed.

    Raises:
        SideFailed: one of them died, hung or refused.
    """
    order = random.Random(seed)
    sides: list[SideName] = order.sample(["base", "head"], 2)
    can_share = at_once and (case.runtime.threads == 1 or case.runtime.wait_policy == "passive")
    # Loading and warming up need no quiet.
    with ThreadPoolExecutor(len(sides)) as pool, stopped_on_error(*workers.values()):
        list(pool.map(lambda side: ask(side, workers[side], workers[side].load), sides))
        places: Places = dict(zip(sides, cpus, strict=True)) if cpus else {}
        # Threads of two sides that share their CPUs, and spin, would warm up for ever.
        in_order = pool.map if can_share else map
        list(in_order(lambda side: ask(side, workers[side], partial(_warm_up, workers[side], places.get(side))), sides))
    alike = _Alike(workers, order)
    if together is None:
        together = at_once and bool(places) and alike.suits_two_cpus(places)
    rounds = alike.on_two_cpus(places) if together else alike.on_the_same(can_share)
    return Pair(
        case_id=case.id,
        seed=seed,
        together=together,
        blocks=_filling(steps_s, rounds),
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

    def on_two_cpus(self, places: Places) -> Iterator[_Rounds]:
        """Run rounds in which each side has a CPU of its own. In every second one they begin on swapped CPUs."""
        while True:
            first, second = self._at_once(places), self._at_once(_swapped(places))
            yield _Rounds(first.blocks + second.blocks, first.time_ns + second.time_ns)

    def on_the_same(self, can_share: bool) -> Iterator[_Rounds]:
        """Run rounds on the same CPUs: at once and in turn by turns, or all of them in turn."""
        for shared in cycle([True, False] if can_share else [False]):
            yield self._at_once() if shared else self._in_turn()

    def suits_two_cpus(self, places: Places) -> bool:
        """Try whether the sides can run at once on two CPUs: they must not slow each other, nor be unlike."""
        together: list[int] = []
        alone: dict[SideName, list[int]] = {side: [] for side in places}
        for _ in range(_PROBES):
            together += (block.step_time_ns[0] for block in self._at_once(places).blocks)
            for side in self._in_order():
                self._begin(side, places[side])
                alone[side].append(self._end(side).step_time_ns[0])
        shorter, longer = sorted(statistics.median(times_ns) for times_ns in alone.values())
        slowed = statistics.median(together) / statistics.median([*alone["base"], *alone["head"]])
        return slowed <= SLOWED and longer <= UNLIKE * shorter

    def _at_once(self, places: Places | None = None) -> _Rounds:
        """Let both have a step: each on a CPU of its own, or both on the same CPUs."""
        sides = self._in_order()
        cpus: Mapping[SideName, int | None] = places or {"base": None, "head": None}
        for side in sides:
            self._begin(side, cpus[side])
        if places:
            self._swap_until_one_is_done(sides, places)
        blocks = [self._block(side, self._end(side), cpu=cpus[side], shared=not places) for side in sides]
        return _Rounds(blocks, max(block.step_time_ns[0] for block in blocks))

    def _swap_until_one_is_done(self, sides: list[SideName], places: Places) -> None:
        first = self._workers[sides[0]]
        while not first.answers_within(SWAP_S):
            places = _swapped(places)
            for side in sides:
                self._workers[side].move(places[side])

    def _in_turn(self) -> _Rounds:
        blocks = [
            self._block(side, ask(side, self._workers[side], partial(self._workers[side].run, 1)))
            for side in self._in_order()
        ]
        return _Rounds(blocks, sum(block.step_time_ns[0] for block in blocks))

    def _in_order(self) -> list[SideName]:
        return self._order.sample(sorted(self._workers), 2)

    def _begin(self, side: SideName, cpu: int | None) -> None:
        with blamed(side):
            self._workers[side].begin_step(cpu)

    def _end(self, side: SideName) -> Ran:
        with blamed(side):
            return self._workers[side].end_step()

    def _block(self, side: SideName, ran: Ran, *, cpu: int | None = None, shared: bool = False) -> Block:
        self.endings[side] = ran.ending
        return Block(side=side, step_time_ns=ran.step_time_ns, step_cpu_ns=ran.step_cpu_ns, cpu=cpu, shared=shared)


def _swapped(places: Places) -> Places:
    return {"base": places["head"], "head": places["base"]}


def _filling(steps_s: float, rounds: Iterator[_Rounds]) -> tuple[Block, ...]:
    """Take rounds until their steps fill the time: how long a step takes is known only by then."""
    blocks: list[Block] = []
    timed_ns = 0
    while timed_ns < 1e9 * steps_s or len(blocks) < 2 * MIN_ROUNDS:
        more = next(rounds)
        blocks += more.blocks
        timed_ns += more.time_ns
    return tuple(blocks)
