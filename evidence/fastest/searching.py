"""Measures every case of a space against the default, and what ``ntp tune`` finds there with a fifth of the pairs."""

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from comparisons import LEVERS, SPACES
from races import Raced, Searched, kept
from recordings import SEED, provenance, tell, write

from ntp.case import Case
from ntp.errors import NtpError, OptionError
from ntp.judge.tuning import incumbent, with_values
from ntp.records.tuning import Lever, Tuning
from ntp.runners.bench import forking
from ntp.runners.levers import machine_levers
from ntp.runners.pairing import BLOCK_S, STEPS_S
from ntp.runners.tune import tune
from ntp.worker.pairs import WorkerStarter, measure_pair
from ntp.worker.sources import Source

ROUNDS, FINALS = 2, 8
"""The pairs of each case, and those of the search's winner and the best of all."""

FINAL_STEPS_S = 3.0
"""Seconds of timed steps in a pair of these two."""

SHARE = 0.2
"""``ntp tune`` may use this share of the exhaustive search's pairs."""

_ENOUGH_S = 3600.0


def space(default: Case, levers: Sequence[Lever]) -> Iterator[Case]:
    """Combine the values of the levers into cases, leaving out what does not go together."""
    for values in itertools.product(*(lever.values for lever in levers)):
        try:
            case = with_values(default, dict(zip((lever.field for lever in levers), values, strict=True)))
        except OptionError:
            continue
        if case != default:
            yield case


def record_search(path: Path, name: str) -> None:
    """Record pairs of every case, then the search, and then its winner against the best of all.

    Cases that the file holds already are kept: only the search is repeated.
    """
    started_s = time.perf_counter()
    default = SPACES[name]
    levers = tuple(lever for lever in machine_levers(exact=False) if lever.field in LEVERS)
    cases = tuple(Raced(base=default.id, head=case.id) for case in space(default, levers))
    searched = Searched(**provenance(), default=default.id, levers=levers, cases=cases)
    before = kept(path, Searched)
    if before is not None and [raced.head for raced in before.cases] == [raced.head for raced in cases]:
        commit = before.cases_commit or before.commit
        searched = searched.model_copy(update={"cases": before.cases, "cases_commit": commit})
        started_s -= before.wall_time_s

    def keep(**changes: object) -> Searched:
        wall_time_s = round(time.perf_counter() - started_s, 1)
        changed = searched.model_copy(update={**changes, "wall_time_s": wall_time_s})
        write(path, changed.model_dump_json())
        return changed

    with WorkerStarter() as start:
        for done in range(ROUNDS):
            order = random.Random(f"{SEED} {done}").sample(range(len(cases)), len(cases))
            for at, i in enumerate(order, 1):
                raced = list(searched.cases)
                if len(raced[i].pairs) <= done:
                    raced[i] = _one_more(start, raced[i], f"{SEED} {done} {i}", STEPS_S)
                    searched = keep(cases=tuple(raced))
                    tell(f"{path.name}: round {done + 1} of {ROUNDS}, case {at} of {len(order)}")
    allowed = int(SHARE * sum(len(raced.pairs) for raced in searched.cases))
    with forking() as bench:
        for tuning in tune(default, levers, budget_s=_ENOUGH_S, seed=SEED, bench=bench):
            searched = keep(tuning=tuning)
            tell(f"{path.name}: {_pairs_of(tuning)} of {allowed} pairs")
            if _pairs_of(tuning) >= allowed:
                break
    if searched.tuning is None:
        return
    final = Raced(base=searched.best, head=incumbent(searched.tuning))
    with WorkerStarter() as start:
        for done in range(FINALS if final.base != final.head else 0):
            final = _one_more(start, final, f"{SEED} final {done}", FINAL_STEPS_S)
            searched = keep(final=final)
            tell(f"{path.name}: the winner against the best of all, pair {done + 1} of {FINALS}")


def _pairs_of(tuning: Tuning) -> int:
    return sum(len(race.pairs) for race in tuning.races)


def _one_more(start: WorkerStarter, raced: Raced, seed: str, steps_s: float) -> Raced:
    """Measure one more pair, unless one failed before."""
    if raced.failure:
        return raced
    try:
        with ExitStack() as stack:
            workers = {
                side: stack.enter_context(start(Case.parse(case_id), Source.here()))
                for side, case_id in (("base", raced.base), ("head", raced.head))
            }
            pair = measure_pair(raced.head, workers, random.Random(seed).getrandbits(32), steps_s, BLOCK_S)
    except NtpError as error:
        return raced.model_copy(update={"failure": str(error)})
    return raced.model_copy(update={"pairs": (*raced.pairs, pair)})
