"""Base against head, until every case is decided or the budget is spent."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ntp.case import Case
from ntp.errors import OptionError, WorkerFailed
from ntp.judge.guard import verdict_on
from ntp.records.environment import Software
from ntp.records.guard import GuardedCase, GuardRecord, Instructions, Plan
from ntp.records.pairs import WORK_TREE, Side, SideName
from ntp.runners.bench import Bench
from ntp.runners.pairing import Entrant, Pairing
from ntp.worker.callgrind import small
from ntp.worker.checkout import changed_files, checkout, lacking
from ntp.worker.pairs import Counted, SideFailed
from ntp.worker.preparing import failure_of, prepare
from ntp.worker.sources import Source, foreign, own_files

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
        self.pairing = Pairing(bench, record.seed)
        self._sources = sources
        self._bench = bench

    def _entrants(self, guarded: GuardedCase) -> dict[SideName, Entrant]:
        case = Case.parse(guarded.case_id)
        return {side: Entrant(case, source) for side, source in self._sources.items()}

    def replace(self, guarded: GuardedCase, started_s: float, changes: Mapping[str, object]) -> GuardRecord:
        """Update one case of the record, for which something was done since."""
        wall_time_s = guarded.wall_time_s + self.pairing.elapsed_s - started_s
        changed = guarded.model_copy(update={**changes, "wall_time_s": wall_time_s})
        cases = tuple(changed if case.case_id == guarded.case_id else case for case in self.record.cases)
        self.record = self.record.model_copy(update={"cases": cases, "wall_time_s": round(self.pairing.elapsed_s, 3)})
        return self.record

    def count(self, guarded: GuardedCase) -> GuardRecord:
        """Count what a step of each side does."""
        started_s = self.pairing.elapsed_s
        changes: dict[str, object] = {}
        for side, counted in self.pairing.count(self._entrants(guarded)):
            if isinstance(counted, WorkerFailed):
                changes |= _failure(SideFailed(side, counted), lacking(self._sources[side], _words(counted)))
            elif isinstance(counted, OptionError):  # this machine lacks what the case needs, on whichever side
                raise counted
            else:
                changes |= self._counted(side, counted)
        return self.replace(guarded, started_s, changes)

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
            changes["wall_time_s"] = round(self.pairing.elapsed_s, 3)
            self.record = self.record.model_copy(update=changes)
            yield self.record

    def pair(self, guarded: GuardedCase) -> GuardRecord:
        """Add a pair to a guarded case."""
        started_s = self.pairing.elapsed_s
        changes: dict[str, object]
        try:
            pair = self.pairing.pair(self._entrants(guarded), guarded.case_id, guarded.pairs)
            changes = {"pairs": (*guarded.pairs, pair)}
        except WorkerFailed as error:
            changes = _failure(error)
        return self.replace(guarded, started_s, changes)


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
        while (case_id := next_case(run.record)) and run.pairing.fits_into(budget_s):
            guarded = next(case for case in run.record.cases if case.case_id == case_id)
            elapsed = f"{run.pairing.elapsed_s:.0f} of {budget_s:.0f} s"
            bench.progress(f"{elapsed}: pair {len(guarded.pairs) + 1} of {case_id}")
            yield run.pair(guarded)
