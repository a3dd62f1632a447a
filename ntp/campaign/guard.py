"""Base against head, until every cell is decided or the budget is spent."""

import random
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ntp.case import Case
from ntp.errors import WorkerFailed
from ntp.judge.guard import verdict_on
from ntp.measure.checkout import checkout
from ntp.measure.environment import Software
from ntp.measure.guard_records import WORK_TREE, Cell, GuardRecord, Plan, Side, SideName
from ntp.measure.pairs import SideFailed, StartWorker, WorkerStarter, count, measure_pair
from ntp.measure.system import read_machine

if TYPE_CHECKING:
    from ntp.measure.protocol import Worker

NextCell = Callable[[GuardRecord], str | None]
"""From what was seen so far to the id of the case that needs another pair; None when all is decided."""

SIDES: tuple[SideName, SideName] = ("base", "head")


SHAPES = ((8, 64), (32, 128))
"""Batch size and sequence length of the cases that are guarded unless others are named: a small step and a large."""


def default_cases(model: str, threads: Sequence[int]) -> tuple[Case, ...]:
    """The cases that are guarded unless others are named: a small step and a large, on each number of threads."""
    return tuple(
        Case.of({"model": model, "batch_size": batch_size, "seq_len": seq_len, "threads": count})
        for batch_size, seq_len in SHAPES
        for count in threads
    )


class _Guard:
    """A run of the guard under way."""

    def __init__(
        self, record: GuardRecord, folders: dict[SideName, Path], start: StartWorker, clock_s: Callable[[], float]
    ) -> None:
        self.record = record
        self._folders = folders
        self._start = start
        self._clock_s = clock_s
        self._started_s = clock_s()
        self.longest_pair_s = 0.0

    @property
    def elapsed_s(self) -> float:
        return self._clock_s() - self._started_s

    def replace(self, cell: Cell) -> GuardRecord:
        """The record with one cell renewed."""
        cells = tuple(cell if each.case_id == cell.case_id else each for each in self.record.cells)
        self.record = self.record.model_copy(update={"cells": cells, "wall_time_s": round(self.elapsed_s, 3)})
        return self.record

    def count(self, cell: Cell) -> GuardRecord:
        """Count what a step of each side does. Both at once: counts need no quiet."""
        started_s = self._clock_s()
        case = Case.parse(cell.case_id)
        with ExitStack() as stack, ThreadPoolExecutor(len(SIDES)) as pool:
            # Started here: a process that a thread starts dies with the thread.
            counting = {
                side: pool.submit(count, stack.enter_context(self._start(case, self._folders[side]))) for side in SIDES
            }
            changes: dict[str, object] = {}
            for side, counted in counting.items():
                try:
                    changes[side], software = counted.result()
                    self._found(side, software)
                except WorkerFailed as error:
                    changes |= _failure(SideFailed(side, error))
        changes["wall_time_s"] = self._clock_s() - started_s
        return self.replace(cell.model_copy(update=changes))

    def _found(self, side: SideName, software: Software) -> None:
        """Keep what the first worker of a side found."""
        known: Side = getattr(self.record, side)
        if known.software is None:
            self.record = self.record.model_copy(update={side: known.model_copy(update={"software": software})})

    def pair(self, cell: Cell) -> GuardRecord:
        """Add a pair to a cell."""
        started_s = self._clock_s()
        case = Case.parse(cell.case_id)
        seed = random.Random(f"{self.record.seed} {cell.case_id} {len(cell.pairs)}").getrandbits(32)
        changes: dict[str, object]
        try:
            with ExitStack() as stack:
                workers: dict[SideName, Worker] = {
                    side: stack.enter_context(self._start(case, self._folders[side]))
                    for side in random.Random(seed).sample(SIDES, 2)
                }
                changes = {"pairs": (*cell.pairs, measure_pair(cell.case_id, workers, seed))}
        except WorkerFailed as error:
            changes = _failure(error)
        pair_s = self._clock_s() - started_s
        self.longest_pair_s = max(self.longest_pair_s, pair_s)
        return self.replace(cell.model_copy(update={**changes, "wall_time_s": cell.wall_time_s + pair_s}))


def _failure(error: WorkerFailed) -> dict[str, object]:
    of_base = isinstance(error, SideFailed) and error.side == "base"
    return {"base_failure" if of_base else "failure": str(error), "stderr_tail": error.stderr_tail}


def guard(
    plan: Plan,
    base: str,
    head: str = WORK_TREE,
    *,
    next_cell: NextCell = lambda record: verdict_on(record).next_case,
    budget_s: float,
    seed: int = 0,
    allowed: Sequence[str] = (),
    command: Sequence[str] = (),
    directory: Path | None = None,
    start: StartWorker | None = None,
    clock_s: Callable[[], float] = time.perf_counter,
    progress: Callable[[str], None] = lambda _: None,
) -> Generator[GuardRecord, None, None]:
    """Count every case of the plan on both sides, then add pairs where they are needed. Each step yields the record.

    It ends when ``next_cell`` wants no more, or when another pair would not fit into ``budget_s`` seconds. Both sides
    run on the same CPUs, with the same interpreter and libraries, each with the modules of its own folder.

    Raises:
        OptionError: a ref or the folder is wrong. Found before any worker is started.
    """
    with (
        checkout(base, directory) as (base_side, base_folder),
        checkout(head, directory) as (head_side, head_folder),
        WorkerStarter() as starter,
    ):
        record = GuardRecord(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            wall_time_s=0,
            command=tuple(command),
            base=base_side,
            head=head_side,
            plan=plan,
            budget_s=budget_s,
            seed=seed,
            allowed=tuple(allowed),
            machine=read_machine(),
            cells=tuple(Cell(case_id=case_id) for case_id in plan.cells),
        )
        run = _Guard(record, {"base": base_folder, "head": head_folder}, start or starter, clock_s)
        for cell in record.cells:
            progress(f"counting what a step of {cell.case_id} does")
            yield run.count(cell)
        while (case_id := next_cell(run.record)) and run.elapsed_s + run.longest_pair_s <= budget_s:
            cell = next(each for each in run.record.cells if each.case_id == case_id)
            progress(f"{run.elapsed_s:.0f} of {budget_s:.0f} s: pair {len(cell.pairs) + 1} of {case_id}")
            yield run.pair(cell)
