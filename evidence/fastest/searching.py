"""Every case of a space against the default; and what ``ntp tune`` finds there with a fifth of the pairs."""

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from comparisons import LEVERS, SPACES
from races import Raced, Searched, read, recording_command, write

from ntp.case import Case
from ntp.errors import NtpError, OptionError
from ntp.judge.tuning import incumbent, with_values
from ntp.machine.software import read_git
from ntp.machine.system import read_machine
from ntp.records.guard import Pair, SideName
from ntp.records.tuning import Lever, Tuning
from ntp.runners.bench import forking
from ntp.runners.levers import machine_levers
from ntp.runners.tune import RACE_BLOCK_S, RACE_STEPS_S, tune
from ntp.worker.pairs import STEPS_S, WorkerStarter, measure_pair
from ntp.worker.sources import Source

if TYPE_CHECKING:
    from racing import Tell

    from ntp.worker.protocol import Worker

SHARE = 0.2
"""Of the exhaustive search's pairs: what ``ntp tune`` may use."""

_ENOUGH_S = 3600.0


def space(default: Case, levers: Sequence[Lever]) -> Iterator[Case]:
    """All cases that the levers make, but for what cannot be combined."""
    for values in itertools.product(*(lever.values for lever in levers)):
        try:
            case = with_values(default, dict(zip((lever.field for lever in levers), values, strict=True)))
        except OptionError:
            continue
        if case != default:
            yield case


def record_search(path: Path, name: str, rounds: int, finals: int, seed: int, tell: "Tell") -> None:
    """So many pairs of every case, the cases in turn; then the search; then its winner against the best of all.

    What the file has of the cases already is kept: the search alone is made anew.
    """
    started_s = time.perf_counter()
    default = SPACES[name]
    levers = tuple(lever for lever in machine_levers(exact=False) if lever.field in LEVERS)
    searched = Searched(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_time_s=0,
        command=recording_command(),
        commit=read_git().commit or "",
        machine=read_machine(),
        default=default.id,
        levers=levers,
        cases=tuple(Raced(name="", base=default.id, head=case.id) for case in space(default, levers)),
    )

    known = read(path, Searched)
    if known is not None and [each.head for each in known.cases] == [each.head for each in searched.cases]:
        searched = searched.model_copy(
            update={"cases": known.cases, "cases_commit": known.cases_commit or known.commit}
        )
        started_s -= known.wall_time_s

    def keep(**changes: object) -> Searched:
        wall_time_s = round(time.perf_counter() - started_s, 1)
        kept = searched.model_copy(update={**changes, "wall_time_s": wall_time_s})
        write(path, kept)
        return kept

    with WorkerStarter() as start:
        for turn in range(rounds):
            order = random.Random(f"{seed} {turn}").sample(range(len(searched.cases)), len(searched.cases))
            for at, i in enumerate(order):
                cases = list(searched.cases)
                if len(cases[i].pairs) > turn:
                    continue
                cases[i] = _one_more(start, cases[i], f"{seed} {turn} {i}", RACE_STEPS_S)
                searched = keep(cases=tuple(cases))
                tell(f"{path.name}: round {turn + 1} of {rounds}, case {at + 1} of {len(order)}")
    allowed = int(SHARE * sum(len(each.pairs) for each in searched.cases))
    with forking() as bench:
        for tuning in tune(default, levers, budget_s=_ENOUGH_S, seed=seed, bench=bench):
            searched = keep(tuning=tuning)
            tell(f"{path.name}: {_pairs_of(tuning)} of {allowed} pairs")
            if _pairs_of(tuning) >= allowed:
                break
    if searched.tuning is None:
        return
    final = Raced(name="", base=searched.best, head=incumbent(searched.tuning))
    with WorkerStarter() as start:
        for turn in range(finals if final.base != final.head else 0):
            final = _one_more(start, final, f"{seed} final {turn}", STEPS_S)
            searched = keep(final=final)
            tell(f"{path.name}: the winner against the best of all, pair {turn + 1} of {finals}")


def _pairs_of(tuning: Tuning) -> int:
    return sum(len(race.pairs) for race in tuning.races)


def _one_more(start: WorkerStarter, raced: Raced, seed: str, steps_s: float) -> Raced:
    """One more pair, unless one failed before."""
    if raced.failure:
        return raced
    try:
        pair = _pair(start, raced, random.Random(seed).getrandbits(32), steps_s)
    except NtpError as error:
        return raced.model_copy(update={"failure": str(error)})
    return raced.model_copy(update={"pairs": (*raced.pairs, pair)})


def _pair(start: WorkerStarter, raced: Raced, seed: int, steps_s: float) -> Pair:
    sides: dict[SideName, Case] = {"base": Case.parse(raced.base), "head": Case.parse(raced.head)}
    with ExitStack() as stack:
        workers: dict[SideName, Worker] = {
            side: stack.enter_context(start(case, Source.here())) for side, case in sides.items()
        }
        return measure_pair(raced.head, workers, seed, steps_s, RACE_BLOCK_S)
