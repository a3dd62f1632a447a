"""A race: contestants in pairs against the leader, until every place is decided or the budget is spent."""

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ntp.contestants import Wanted
from ntp.errors import NtpError, WorkerFailed
from ntp.judge.race import verdict_on
from ntp.records.pairs import Side
from ntp.records.race import Contestant, Duel, RacePlan, RaceRecord
from ntp.runners.bench import Bench
from ntp.runners.pairing import Entrant, Pairing
from ntp.worker.checkout import checkout
from ntp.worker.environments import check_python, environment
from ntp.worker.pairs import Counted, SideFailed
from ntp.worker.sources import Source, foreign

_PAIR_S = 4.0
"""A pair takes about this long, where steps are much shorter than that."""

NextDuel = Callable[[RaceRecord], tuple[str, str] | None]
"""Takes the record so far; returns the two contestants that should meet next, or None when all is decided."""


def plan_of(contestants: int, precision: float, budget_s: float) -> RacePlan:
    """Make the plan of a race with this budget: the last look is at nearly twice the pairs that it holds for each."""
    fair_share = budget_s / (_PAIR_S * (contestants - 1))
    return RacePlan(precision=precision, max_pairs=min(100, max(10, round(1.75 * fair_share))))


class _Race:
    """A race under way."""

    def __init__(self, record: RaceRecord, entrants: Mapping[str, Entrant], bench: Bench) -> None:
        self.record = record
        self.pairing = Pairing(bench, record.seed)
        self._entrants = entrants

    def count(self) -> Iterator[RaceRecord]:
        """Count what a step of each contestant does."""
        for name, counted in self.pairing.count(self._entrants):
            yield self._changed(
                name, self._of(name, counted) if isinstance(counted, Counted) else self._failure(name, counted)
            )

    def _of(self, name: str, counted: Counted) -> dict[str, object]:
        source = self._entrants[name].source
        if source.tree is not None and (elsewhere := foreign(source, counted.imported.files)):
            return {"failure": f"{elsewhere}: this is not the code of its commit"}
        return {"counts": counted.counts, "software": counted.software}

    def pair(self, one: str, other: str) -> RaceRecord:
        """Let two contestants meet once more."""
        couple = {one, other}
        duel = next(
            (duel for duel in self.record.duels if {duel.base, duel.head} == couple), Duel(base=one, head=other)
        )
        started_s = self.pairing.elapsed_s
        try:
            pair = self.pairing.pair(
                {"base": self._entrants[duel.base], "head": self._entrants[duel.head]},
                f"{duel.base} {duel.head}",
                duel.pairs,
            )
        except SideFailed as error:
            name, cause = getattr(duel, error.side), error.__cause__
            return self._changed(name, self._failure(name, cause if isinstance(cause, WorkerFailed) else error))
        except WorkerFailed as error:  # no worker can be started: it is nobody's fault, and nobody can be told apart
            self._changed(one, self._failure(one, error))
            return self._changed(other, self._failure(other, error))
        wall_time_s = round(duel.wall_time_s + self.pairing.elapsed_s - started_s, 3)
        longer = duel.model_copy(update={"pairs": (*duel.pairs, pair), "wall_time_s": wall_time_s})
        others = (other for other in self.record.duels if {other.base, other.head} != couple)
        return self._update(duels=(*others, longer))

    def _failure(self, name: str, error: NtpError) -> dict[str, object]:
        interpreter = next(one.interpreter for one in self.record.contestants if one.name == name)
        tail = error.stderr_tail if isinstance(error, WorkerFailed) else ""
        return {"failure": f"{error}{_remedy(interpreter, f'{error} {tail}')}", "stderr_tail": tail}

    def _changed(self, name: str, changes: Mapping[str, object]) -> RaceRecord:
        return self._update(
            contestants=tuple(
                contestant.model_copy(update=changes) if contestant.name == name else contestant
                for contestant in self.record.contestants
            )
        )

    def _update(self, **changes: object) -> RaceRecord:
        self.record = self.record.model_copy(update={**changes, "wall_time_s": round(self.pairing.elapsed_s, 3)})
        return self.record


def _remedy(interpreter: str, said: str) -> str:
    """Say how to install what another interpreter lacks, if that is why a worker failed."""
    missing = re.search(r"No module named '(\w+)", said)
    if not missing or not interpreter:
        return ""
    if interpreter.startswith("torch=="):
        return f"; --with {missing[1]} adds it to the environments"
    return f"; install it: {interpreter} -m pip install {missing[1]}"


def race(
    wanted: Sequence[Wanted],
    *,
    bench: Bench,
    precision: float,
    budget_s: float,
    seed: int = 0,
    requirements: Sequence[str] = (),
    directory: Path | None = None,
    next_duel: NextDuel = lambda record: verdict_on(record).next_duel,
) -> Generator[RaceRecord, None, None]:
    """Count what a step of each contestant does, then let them meet in pairs. Each step yields the record.

    It ends when every place is decided, when another pair would not fit into ``budget_s`` seconds, or when fewer than
    two contestants can be run.

    Args:
        wanted: two contestants or more, whose names differ.
        bench: starts the workers, and is told what comes next.
        precision: contestants that differ by less share a place. A fraction.
        budget_s: seconds, from the first count on.
        seed: random seed of the order of blocks.
        requirements: what an environment that is made for a torch holds besides, as pip reads them.
        directory: a folder in the repository of the commits. None: the current one.
        next_duel: the rule.

    Raises:
        OptionError: a commit, an interpreter or a torch is not to be had. Found before anything is measured.
    """
    with ExitStack() as stack:
        contestants, entrants = [], {}
        for one in wanted:
            side, source = stack.enter_context(checkout(one.commit, directory)) if one.commit else (None, Source.here())
            python = _python(one, requirements, bench)
            entrants[one.name] = Entrant(one.case, source.model_copy(update={"python": python}))
            contestants.append(_contestant(one, side))
        record = RaceRecord(
            **bench.provenance(),
            wall_time_s=0,
            plan=plan_of(len(wanted), precision, budget_s),
            budget_s=budget_s,
            seed=seed,
            contestants=tuple(contestants),
        )
        run = _Race(record, entrants, bench)
        bench.progress("counting what a step of each contestant does")
        yield from run.count()
        while (duel := next_duel(run.record)) and run.pairing.fits_into(budget_s):
            bench.progress(f"{run.pairing.elapsed_s:.0f} of {budget_s:.0f} s: {' against '.join(duel)}")
            yield run.pair(*duel)


def _python(one: Wanted, requirements: Sequence[str], bench: Bench) -> Path | None:
    """Return the interpreter that a contestant names, or that of the environment of its torch."""
    if not one.python and not one.torch:
        return None
    made = environment(one.torch, requirements, bench.progress).python if one.torch else Path(one.python).absolute()
    check_python(made)
    return made


def _contestant(one: Wanted, side: Side | None) -> Contestant:
    interpreter = f"torch=={one.torch}" if one.torch else one.python
    return Contestant(name=one.name, case_id=one.case.id, side=side, interpreter=interpreter)
