"""Base and head in pairs, the unit of all statistics of a comparison; and the exact counts of each side."""

import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from ntp.case import Case, Runtime
from ntp.errors import WorkerFailed
from ntp.records.environment import Software
from ntp.records.pairs import Block, Counts, Pair, SideName
from ntp.worker.driver import PipeWorker
from ntp.worker.launch import ForkServer
from ntp.worker.protocol import PROTOCOL, Imported, Worker, stopped_on_error
from ntp.worker.sources import WORKER, Source

MIN_BLOCKS = 8
"""The fewest blocks of each side, however long a step takes: the median of fewer says little."""

FORKS = 16
"""How many workers, two a pair, one process forks before it is renewed."""

if TYPE_CHECKING:
    from pathlib import Path

    from ntp.records.endings import Ending

Answer = TypeVar("Answer")

StartWorker = Callable[[Case, Source], PipeWorker]


class WorkerStarter:
    """Starts workers, each with the modules of its source.

    On Linux they are forks of a process that has torch loaded, one for each runtime, since a pair of new interpreters
    spends more time on imports than on steps. Forks share where the libraries lie in memory, and with it what that does
    to speed; so that no such place becomes part of the answer, the process is renewed after :data:`FORKS` workers.

    Args:
        timeout_s: how long one request to a worker may take.
        forks: how many workers a process forks before it is renewed. None: it never is.
    """

    def __init__(self, timeout_s: float = 300.0, forks: int | None = FORKS) -> None:
        self._timeout_s = timeout_s
        self._limit = forks
        self._servers: dict[tuple[Runtime, Path | None], ForkServer] = {}
        """By runtime and interpreter."""
        self._forks: Counter[tuple[Runtime, Path | None]] = Counter()
        self._retired: ForkServer | None = None

    def __call__(self, case: Case, source: Source) -> PipeWorker:
        if sys.platform != "linux":
            return PipeWorker(case, timeout_s=self._timeout_s, source=source)
        key = case.runtime, source.python
        if self._forks[key] == self._limit:
            # Its last fork may be the other half of a pair, and still at work: it ends when the next is renewed.
            self._retire(self._servers.pop(key))
            del self._forks[key]
        if key not in self._servers:
            self._servers[key] = ForkServer(case.runtime, python=source.python)
        self._forks[key] += 1
        launch = self._servers[key].launch
        return PipeWorker(case, timeout_s=self._timeout_s, source=source, launch=launch)

    def prepare(self, runtimes: Iterable[Runtime], source: Source | None = None) -> None:
        """Start what forks the workers of these runtimes, all at once, and wait until it can.

        Args:
            runtimes: those of all cases.
            source: the source of all workers, if they have the same. They start in half the time if it is known.

        Raises:
            WorkerFailed: torch cannot be imported.
        """
        if sys.platform != "linux":
            return
        python = source.python if source else None
        for runtime in runtimes:
            if (runtime, python) not in self._servers:
                self._servers[runtime, python] = ForkServer(runtime, source, python)
        for server in self._servers.values():
            server.wait_until_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End what forks the workers, and with it the workers."""
        self._retire(None)
        for server in self._servers.values():
            server.stop()

    def _retire(self, server: ForkServer | None) -> None:
        if self._retired is not None:
            self._retired.stop()
        self._retired = server


class Counted(NamedTuple):
    """What a worker counted, with its software and its modules."""

    counts: Counts
    software: Software
    imported: Imported


def count(worker: Worker, source: Source) -> Counted:
    """Count what a step of a worker's case does, after two steps that bring it to its steady state.

    Raises:
        WorkerFailed: the worker is gone, its ntp is too old to be started, or an observer cannot handle the model.
    """
    if not source.has_worker:
        raise WorkerFailed(
            f"the ntp of this commit is too old to be started from here: it has no {WORKER}; name a later commit"
        )
    loaded = worker.load()
    if loaded.protocol != PROTOCOL:
        age, other = ("old", "a later") if loaded.protocol < PROTOCOL else ("new", "an earlier")
        raise WorkerFailed(
            f"the ntp of this commit is too {age} to be measured from here: its workers speak version "
            f"{loaded.protocol} of the protocol, this ntp speaks {PROTOCOL}; name {other} commit"
        )
    worker.run(2)
    memory, flops, profile = worker.ask("memory"), worker.ask("flops"), worker.ask("operators", steps=1)
    counts = Counts(
        parameters=loaded.parameters,
        flops=flops.total_flops,
        operators=tuple(profile.calls_per_step.items()),
        allocated_bytes=profile.allocated_bytes_per_step,
        peak_tensor_bytes=memory.peak_bytes,
    )
    folders = {str(folder) for folder in (source.top, source.tree) if folder is not None}
    imported = worker.imported(sorted(folders), [name for name, _ in source.packages])
    return Counted(counts, loaded.software, imported)


class Pruned(Exception):
    """The head was much slower than the base in the warm-up. This is not an error."""

    def __init__(self, ratio: float) -> None:
        super().__init__(f"{ratio:.2f} times as long")
        self.ratio = ratio


def measure_pair(
    case_id: str,
    workers: Mapping[SideName, Worker],
    seed: int,
    steps_s: float,
    block_s: float,
    drop_above: float = math.inf,
) -> Pair:
    """Load and warm up a fresh worker of each side, then let them run alternate blocks, in an order drawn from
    ``seed``.

    The sides may be unlike: each has blocks of ``block_s`` seconds of its own steps, until ``steps_s`` seconds are
    filled. Which of the two goes first is drawn again for each round. A worker is paused whenever it has answered, so
    that threads that spin while they wait take no CPU from the other side. Sides that are alike have a better way
    (:mod:`ntp.worker.alike_pairs`).

    Raises:
        SideFailed: one of them died, hung or refused.
        Pruned: the head took more than ``drop_above`` times as long as the base in the warm-up.
    """
    order = random.Random(seed)
    sides: list[SideName] = ["base", "head"]
    pace_s: dict[SideName, float] = {}
    # Importing torch takes seconds, and needs no quiet.
    with ThreadPoolExecutor(len(sides)) as pool, stopped_on_error(*workers.values()):
        list(pool.map(lambda side: ask(side, workers[side], workers[side].load), order.sample(sides, 2)))
    for side in order.sample(sides, 2):
        warm_up = ask(side, workers[side], workers[side].warm_up)
        pace_s[side] = statistics.median(warm_up.step_time_ns[len(warm_up.step_time_ns) // 2 :]) / 1e9
    if pace_s["head"] > drop_above * pace_s["base"]:
        raise Pruned(pace_s["head"] / pace_s["base"])
    rounds, steps = unlike_rounds(pace_s, steps_s, block_s)
    blocks = []
    endings: dict[SideName, Ending] = {}
    for _ in range(rounds):
        for side in order.sample(sides, 2):
            expected_s = steps[side] * pace_s[side]
            ran = ask(side, workers[side], partial(workers[side].run, steps[side], expected_s=expected_s))
            blocks.append(Block(side=side, step_time_ns=ran.step_time_ns, step_cpu_ns=ran.step_cpu_ns))
            endings[side] = ran.ending
    return Pair(case_id=case_id, seed=seed, blocks=tuple(blocks), endings=tuple(endings.items()))


class SideFailed(WorkerFailed):
    """One worker of a pair died, hung or refused."""

    def __init__(self, side: SideName, error: WorkerFailed) -> None:
        super().__init__(f"{side}: {error}", error.stderr_tail, error.kind)
        self.side = side


@contextmanager
def blamed(side: SideName) -> Iterator[None]:
    """Name the side of the worker that fails inside the block."""
    try:
        yield
    except WorkerFailed as error:
        raise SideFailed(side, error) from error


def ask(side: SideName, worker: Worker, request: Callable[[], Answer]) -> Answer:
    """Ask a worker, and pause it once it has answered.

    Raises:
        SideFailed: it failed.
    """
    with blamed(side):
        answer = request()
    worker.pause()
    return answer


def unlike_rounds(pace_s: dict[SideName, float], steps_s: float, block_s: float) -> tuple[int, dict[SideName, int]]:
    """The rounds for sides whose steps take unlike times: a block of either is ``block_s`` seconds, or one step."""
    steps = {side: max(1, round(block_s / step_s)) for side, step_s in pace_s.items()}
    round_s = sum(steps[side] * step_s for side, step_s in pace_s.items())
    return max(MIN_BLOCKS, math.ceil(steps_s / round_s)), steps
