"""The engine of all comparisons: it starts the two sides of a pair, has them measured, and keeps the time.

``ntp guard`` compares two commits in many cases, ``ntp tune`` the best case with each proposal, ``ntp race`` whatever
its user names. What to compare next, and when to stop, is theirs.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from statistics import fmean
from typing import NamedTuple, TypeVar

from ntp.case import Case
from ntp.errors import OptionError, WorkerFailed
from ntp.records.pairs import Pair, SideName
from ntp.runners.bench import Bench
from ntp.worker.alike_pairs import cpus_for_both, measure_alike
from ntp.worker.pairs import Counted, count, measure_pair
from ntp.worker.protocol import Worker
from ntp.worker.sources import Source

STEPS_S = 2.0
"""Seconds of timed steps in a pair of unlike sides: less than in others, so that there is time for more pairs."""

BLOCK_S = 0.125
"""Seconds of a block of such a pair, equally long on both sides, since their steps take unlike times."""

FIRST_PAIR_S = 5.0
"""Seconds of a pair, before one was measured."""

Name = TypeVar("Name", bound=str)


class Entrant(NamedTuple):
    """What takes part in a comparison: a case, and the code and interpreter that run it."""

    case: Case
    source: Source


Workers = Mapping[SideName, Worker]


class Pairing:
    """The pairs of one comparison, and the time that they take.

    Args:
        bench: starts the workers, and has the clock.
        seed: of the order within all pairs.
    """

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self._seed = seed
        self._started_s = bench.clock_s()
        self._pairs_s: list[float] = []

    @property
    def elapsed_s(self) -> float:
        return self.bench.clock_s() - self._started_s

    def fits_into(self, budget_s: float) -> bool:
        """Whether another pair, as long as the longest so far, would be over by then."""
        return self.elapsed_s + max(self._pairs_s, default=0.0) <= budget_s

    @property
    def mean_pair_s(self) -> float:
        return fmean(self._pairs_s) if self._pairs_s else FIRST_PAIR_S

    def pair(
        self,
        entrants: Mapping[SideName, Entrant],
        label: str,
        earlier: Sequence[Pair] = (),
        *,
        drop_above: float = math.inf,
        read: Callable[[Workers], None] | None = None,
    ) -> Pair:
        """Measure a fresh process of each side: step by step where both run the same case, in blocks otherwise.

        Args:
            entrants: the two sides.
            label: tells these pairs from others with the same seed.
            earlier: the pairs of the two so far. What the first of them has tried need not be tried again, and all are
                of one kind.
            drop_above: a head that takes this many times as long as the base in the warm-up is given up.
            read: is shown the workers before they end.

        Raises:
            SideFailed: one of them died, hung or refused.
            Pruned: the head was given up.
        """
        started_s = self.bench.clock_s()
        seed = random.Random(f"{self._seed} {label} {len(earlier)}").getrandbits(32)
        base, head = entrants["base"].case, entrants["head"].case
        try:
            with ExitStack() as stack:
                workers = {
                    side: stack.enter_context(self.bench.start(*entrants[side]))
                    for side in random.Random(seed).sample(sorted(entrants), 2)
                }
                if base == head:
                    together = earlier[0].together if earlier else None
                    pair = measure_alike(head, workers, seed, cpus=cpus_for_both(head), together=together)
                else:
                    pair = measure_pair(head.id, workers, seed, STEPS_S, BLOCK_S, drop_above)
                if read is not None:
                    read(workers)
        finally:
            self._pairs_s.append(self.bench.clock_s() - started_s)
        return pair

    def count(self, entrants: Mapping[Name, Entrant]) -> Iterator[tuple[Name, Counted | OptionError | WorkerFailed]]:
        """Count what a step of each entrant does, two at a time: counts need no quiet machine.

        Yields what was counted, or why it could not be: this machine cannot run such a worker, or it failed.

        Raises:
            WorkerFailed: no worker can be started.
        """
        names = list(entrants)
        for start in range(0, len(names), 2):
            outcomes: dict[Name, Future[Counted] | OptionError] = {}
            # The workers end first: a thread that waits for an answer would be waited for.
            with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
                for name in names[start : start + 2]:
                    try:
                        # Started here: a process that a thread starts dies with the thread.
                        worker = stack.enter_context(self.bench.start(*entrants[name]))
                        outcomes[name] = pool.submit(count, worker, entrants[name].source)
                    except OptionError as error:
                        outcomes[name] = error
                for name, outcome in outcomes.items():
                    try:
                        yield name, outcome if isinstance(outcome, OptionError) else outcome.result()
                    except WorkerFailed as error:
                        yield name, error
