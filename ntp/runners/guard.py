"""Base against head, until every case is decided or the budget is spent."""

import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ntp.case import Case
from ntp.errors import WorkerFailed
from ntp.judge.guard import verdict_on
from ntp.records.environment import Software
from ntp.records.guard import WORK_TREE, GuardedCase, GuardRecord, Instructions, Plan, Side, SideName
from ntp.runners.bench import Bench
from ntp.worker.alike_pairs import cpus_for_both, measure_alike
from ntp.worker.callgrind import small
from ntp.worker.checkout import changed_files, checkout, lacking
from ntp.worker.pairs import Counted, SideFailed, count
from ntp.worker.preparing import failure_of, prepare
from ntp.worker.sources import Source, foreign, own_files

if TYPE_CHECKING:
    from ntp.worker.protocol import Worker

NextCase = Callable[[GuardRecord], str | None]
"""Takes the record so far; returns the id of the case that needs another pair, or None when all is decided."""

CountInstructions = Callable[[Case, Mapping[SideName, Source]], Instructions]
"""As :func:`ntp.worker.callgrind.count_instructions`."""

SIDES: tuple[SideName, SideName] = ("base", "head")


SHAPES = ((8, 64), (32, 128))
"""Batch size and sequence length of the cases that are guarded unless others are named: a small step and a large."""


def default_cases(model: str, threads: Sequence[int]) -> tuple[Case, ...]:
    """Return the cases that are guarded unless others are named: each shape on each number of threads.

    Several threads sleep while they wait for each other: only then does the CPU time of the main thread leave out the
    waiting, which is most of what disturbs them (``python evidence/guard policies``).
    """
    return tuple(
        Case.of(
            {
                "model": model,
                "batch_size": batch_size,
                "seq_len": seq_len,
                "threads": count,
                "wait_policy": "passive" if count > 1 else "unset",
            }
        )
        for batch_size, seq_len in SHAPES
        for count in threads
    )


class _Guard:
    """A guard under way."""

    def __init__(self, record: GuardRecord, sources: dict[SideName, Source], bench: Bench) -> None:
        self.record = record
        self._sources = sources
        self._bench = bench
        self._started_s = bench.clock_s()
        self.longest_pair_s = 0.0

    @property
    def elapsed_s(self) -> float:
        return self._bench.clock_s() - self._started_s

    def replace(self, guarded: GuardedCase) -> GuardRecord:
        """Update one case of the record."""
        cases = tuple(guarded if case.case_id == guarded.case_id else case for case in self.record.cases)
        self.record = self.record.model_copy(update={"cases": cases, "wall_time_s": round(self.elapsed_s, 3)})
        return self.record

    def count(self, guarded: GuardedCase) -> GuardRecord:
        """Count what a step of each side does, both at once: counts need no quiet machine."""
        started_s = self._bench.clock_s()
        case = Case.parse(guarded.case_id)
        # The workers end first: a thread that waits for an answer would be waited for.
        with ThreadPoolExecutor(len(SIDES)) as pool, ExitStack() as stack:
            # Started here: a process that a thread starts dies with the thread.
            counting = {
                side: pool.submit(count, stack.enter_context(self._bench.start(case, source)), source)
                for side, source in self._sources.items()
            }
            changes: dict[str, object] = {}
            for side, counting_side in counting.items():
                try:
                    changes |= self._counted(side, counting_side.result())
                except WorkerFailed as error:
                    changes |= _failure(SideFailed(side, error), lacking(self._sources[side], _words(error)))
        changes["wall_time_s"] = self._bench.clock_s() - started_s
        return self.replace(guarded.model_copy(update=changes))

    def _counted(self, side: SideName, counted: Counted) -> dict[str, object]:
        """Return what a side's worker counted, but no counts if it has imported code from elsewhere."""
        files = counted.imported.files
        self._note(side, counted.software, own_files(self._sources[side], files))
        if elsewhere := foreign(self._sources[side], files):
            return {"foreign": f"{side}: {elsewhere}, so both sides may have run the same code: {_FOREIGN_REMEDY}"}
        return {side: counted.counts}

    def _note(self, side: SideName, software: Software, loaded: Sequence[str]) -> None:
        """Keep the software that the first worker of a side has, and the files that any of them has loaded."""
        before: Side = getattr(self.record, side)
        loaded = tuple(sorted({*(before.loaded or ()), *loaded}))
        self._update_side(side, software=before.software or software, loaded=loaded)

    def _update_side(self, side: SideName, **changes: object) -> None:
        updated = getattr(self.record, side).model_copy(update=changes)
        self.record = self.record.model_copy(update={side: updated})

    def prepare(self, command: str) -> bool:
        """Run the user's command in each side's folder. Returns whether it worked; if not, every case has failed."""
        for side, source in self._sources.items():
            preparation = prepare(source.folder, command, self._bench.clock_s)
            self._update_side(side, preparation=preparation)
            if preparation.status:
                failed = _failure(SideFailed(side, failure_of(preparation)))
                cases = tuple(guarded.model_copy(update=failed) for guarded in self.record.cases)
                self.record = self.record.model_copy(update={"cases": cases})
                return False
        return True

    def count_instructions(self, count_instructions: CountInstructions) -> Iterator[GuardRecord]:
        """Count the instructions of a small step of each kind that was counted on both sides."""
        counted = (Case.parse(guarded.case_id) for guarded in self.record.cases if guarded.base and guarded.head)
        for case in dict.fromkeys(map(small, counted)):
            self._bench.progress(f"counting the instructions of {case.id} (about a minute)")
            changes: dict[str, object]
            try:
                changes = {"instructions": (*self.record.instructions, count_instructions(case, self._sources))}
            except WorkerFailed as error:
                changes = {"instructions_failure": str(error)}
            changes["wall_time_s"] = round(self.elapsed_s, 3)
            self.record = self.record.model_copy(update=changes)
            yield self.record

    def pair(self, guarded: GuardedCase) -> GuardRecord:
        """Add a pair to a guarded case."""
        started_s = self._bench.clock_s()
        case = Case.parse(guarded.case_id)
        seed = random.Random(f"{self.record.seed} {guarded.case_id} {len(guarded.pairs)}").getrandbits(32)
        changes: dict[str, object]
        try:
            with ExitStack() as stack:
                workers: dict[SideName, Worker] = {
                    side: stack.enter_context(self._bench.start(case, self._sources[side]))
                    for side in random.Random(seed).sample(SIDES, 2)
                }
                # What the first pair has tried need not be tried again, and all pairs of a case are of one kind.
                together = guarded.pairs[0].together if guarded.pairs else None
                pair = measure_alike(case, workers, seed, cpus=cpus_for_both(case), together=together)
                changes = {"pairs": (*guarded.pairs, pair)}
        except WorkerFailed as error:
            changes = _failure(error)
        pair_s = self._bench.clock_s() - started_s
        self.longest_pair_s = max(self.longest_pair_s, pair_s)
        return self.replace(guarded.model_copy(update={**changes, "wall_time_s": guarded.wall_time_s + pair_s}))


_FOREIGN_REMEDY = "make it importable from the model's own file, or through an editable installation"


def _words(error: WorkerFailed) -> str:
    return f"{error} {error.stderr_tail}"


def _failure(error: WorkerFailed, more: str = "") -> dict[str, object]:
    of_base = isinstance(error, SideFailed) and error.side == "base"
    message = "; ".join(filter(None, (str(error), more)))
    return {"base_failure" if of_base else "failure": message, "stderr_tail": error.stderr_tail}


class Sides(NamedTuple):
    """The two sides of a guard, and how their trees are prepared."""

    base: str
    """A commit."""
    head: str = WORK_TREE
    """A commit, or the work tree."""
    directory: Path | None = None
    """A folder in the repository. None: the current one."""
    links: Sequence[Path] = ()
    """Paths of the work tree that the checkouts share with it."""
    setup: str = ""
    """A shell command that is run in each side's folder first."""


def guard(
    plan: Plan,
    sides: Sides,
    *,
    bench: Bench,
    budget_s: float,
    seed: int = 0,
    allowed: Sequence[str] = (),
    next_case: NextCase = lambda record: verdict_on(record).next_case,
    count_instructions: CountInstructions | None = None,
) -> Generator[GuardRecord, None, None]:
    """Count every case of the plan on both sides, then add pairs where they are needed. Each step yields the record.

    It ends when ``next_case`` wants no more, or when another pair would not fit into ``budget_s`` seconds. Both sides
    run on the same CPUs, with the same interpreter and libraries, each with the modules of its own tree.

    Args:
        plan: what is guarded, and when a verdict is reached.
        sides: base and head.
        bench: starts the workers, and is told what comes next.
        budget_s: seconds, from the first count on.
        seed: random seed of the order of blocks.
        allowed: names of counts that may rise, or patterns of them.
        next_case: the rule.
        count_instructions: counts the instructions of a case on both sides. None: nobody does.

    Raises:
        OptionError: a ref, the folder or a link is wrong. Found before any worker is started.
    """
    with (
        checkout(sides.base, sides.directory, sides.links) as (base, base_source),
        checkout(sides.head, sides.directory, sides.links) as (head, head_source),
    ):
        record = GuardRecord(
            **bench.provenance(),
            wall_time_s=0,
            base=base,
            head=head,
            plan=plan,
            budget_s=budget_s,
            seed=seed,
            allowed=tuple(allowed),
            changed=changed_files(base, head, sides.directory),
            cases=tuple(GuardedCase(case_id=case_id) for case_id in plan.cases),
        )
        run = _Guard(record, {"base": base_source, "head": head_source}, bench)
        if sides.setup:
            bench.progress(f"preparing both sides: {sides.setup}")
            if not run.prepare(sides.setup):
                yield run.record
                return
        for guarded in record.cases:
            bench.progress(f"counting what a step of {guarded.case_id} does")
            yield run.count(guarded)
        if count_instructions is not None:
            yield from run.count_instructions(count_instructions)
        while (case_id := next_case(run.record)) and run.elapsed_s + run.longest_pair_s <= budget_s:
            guarded = next(case for case in run.record.cases if case.case_id == case_id)
            bench.progress(f"{run.elapsed_s:.0f} of {budget_s:.0f} s: pair {len(guarded.pairs) + 1} of {case_id}")
            yield run.pair(guarded)
