"""Base against head, until every cell is decided or the budget is spent."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from ntp.case import Case
from ntp.errors import WorkerFailed
from ntp.measure.checkout import WORK_TREE, checkout
from ntp.measure.guard_records import Cell, Counts, GuardRecord, SideName
from ntp.measure.pairs import StartWorker, count, measure_pair, start_worker

NextCell = Callable[[GuardRecord], str | None]
"""From what was seen so far to the id of the case that needs another pair; None when all is decided."""

SIDES: tuple[SideName, SideName] = ("base", "head")


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
        with ThreadPoolExecutor(len(SIDES)) as pool:
            results = dict(zip(SIDES, pool.map(lambda side: self._counts(cell.case_id, side), SIDES), strict=True))
        changes: dict[str, object] = {"wall_time_s": self._clock_s() - started_s}
        for side, result in results.items():
            failure = "base_failure" if side == "base" else "failure"
            changes[side if isinstance(result, Counts) else failure] = result
        return self.replace(cell.model_copy(update=changes))

    def _counts(self, case_id: str, side: SideName) -> Counts | str:
        try:
            with self._start(Case.parse(case_id), self._folders[side]) as worker:
                return count(worker)
        except WorkerFailed as error:
            return str(error)

    def pair(self, cell: Cell) -> GuardRecord:
        """Add a pair to a cell."""
        started_s = self._clock_s()
        case = Case.parse(cell.case_id)
        seed = self.record.seed + len(cell.pairs)
        changes: dict[str, object]
        try:
            with ExitStack() as stack:
                workers = {side: stack.enter_context(self._start(case, self._folders[side])) for side in SIDES}
                changes = {"pairs": (*cell.pairs, measure_pair(cell.case_id, dict(workers), seed))}
        except WorkerFailed as error:
            changes = {"failure": str(error)}
        pair_s = self._clock_s() - started_s
        self.longest_pair_s = max(self.longest_pair_s, pair_s)
        return self.replace(cell.model_copy(update={**changes, "wall_time_s": cell.wall_time_s + pair_s}))


def guard(
    cases: Sequence[Case],
    base: str,
    head: str = WORK_TREE,
    *,
    next_cell: NextCell,
    threshold: float,
    budget_s: float,
    seed: int = 0,
    allowed: Sequence[str] = (),
    command: Sequence[str] = (),
    directory: Path | None = None,
    start: StartWorker = start_worker,
    clock_s: Callable[[], float] = time.perf_counter,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[GuardRecord]:
    """Count every case on both sides, then add pairs where they are needed; yield the record after each step.

    It ends when ``next_cell`` wants no more, or when another pair would not fit into ``budget_s`` seconds. Both sides
    run on the same CPUs, with the same interpreter and libraries, each with the modules of its own folder.

    Raises:
        OptionError: a ref or the folder is wrong. Found before any worker is started.
    """
    with checkout(base, directory) as (base_side, base_folder), checkout(head, directory) as (head_side, head_folder):
        record = GuardRecord(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            wall_time_s=0,
            command=tuple(command),
            base=base_side,
            head=head_side,
            threshold=threshold,
            budget_s=budget_s,
            seed=seed,
            allowed=tuple(allowed),
            cells=tuple(Cell(case_id=case.id) for case in cases),
        )
        run = _Guard(record, {"base": base_folder, "head": head_folder}, start, clock_s)
        for cell in record.cells:
            progress(f"counting what a step of {cell.case_id} does")
            yield run.count(cell)
        while (case_id := next_cell(run.record)) and run.elapsed_s + run.longest_pair_s <= budget_s:
            cell = next(each for each in run.record.cells if each.case_id == case_id)
            progress(f"{run.elapsed_s:.0f} of {budget_s:.0f} s: pair {len(cell.pairs) + 1} of {case_id}")
            yield run.pair(cell)
