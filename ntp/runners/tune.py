"""The search for the fastest case of a workload on this machine.

Every candidate is raced against the fastest case so far, in pairs of fresh processes that run alternate blocks, as a
guard has them: a machine that slows down does so for both. One lever after the other is tried first, on top of what has
won; what is left of the time goes to combinations that optuna proposes. Then the winner is held against the default,
and against itself without each of its levers.
"""

import math
from collections.abc import Generator, Iterator, Sequence

from ntp.case import Case
from ntp.errors import NtpError, OptionError, WorkerFailed
from ntp.judge.tuning import incumbent, levers_of, log_ratio, standings, wants_another_pair, with_values
from ntp.records.levers import COMPILE
from ntp.records.tuning import Lever, Purpose, Race, Tuning
from ntp.runners.bench import Bench
from ntp.runners.pairing import Entrant, Pairing, Workers
from ntp.runners.proposals import Proposals, one_by_one
from ntp.worker.channel import Refused
from ntp.worker.pairs import Pruned, SideFailed
from ntp.worker.sources import Source

DROP_ABOVE = 1.3
"""A candidate is pruned if its warm-up takes more than this many times as long as the other's."""

FINAL_PAIRS, WITHOUT_PAIRS = 5, 3


class _Search:
    """A search under way."""

    def __init__(self, tuning: Tuning, bench: Bench) -> None:
        self.tuning = tuning
        self.pairing = Pairing(bench, tuning.seed)
        self._before_s = tuning.wall_time_s

    def reserve_s(self) -> float:
        """Return how many seconds the end of the search will need."""
        of_winner = levers_of(Case.parse(incumbent(self.tuning)), Case.parse(self.tuning.default))
        return self.pairing.mean_pair_s * (FINAL_PAIRS + WITHOUT_PAIRS * len(of_winner))

    def time_left_s(self) -> float:
        return self.tuning.budget_s - self.pairing.elapsed_s

    def race(self, purpose: Purpose, case: Case, against: Case, pairs: int | None = None) -> Tuning:
        """Race a case: over this many pairs, or for as long as the race is open."""
        started_s = self.pairing.elapsed_s
        race = Race(purpose=purpose, case_id=case.id, against=against.id, outcome="raced")
        try:
            while self._goes_on(race, pairs):
                race = self._with_pair(race, case, against)
                if race.outcome != "raced":
                    break
        except Pruned as pruned:
            race = race.model_copy(update={"outcome": "pruned", "pace": pruned.ratio})
        except WorkerFailed as error:
            if self._is_defaults_own(error, race):
                raise
            outcome = "refused" if isinstance(error.__cause__, Refused) else "failed"
            race = race.model_copy(update={"outcome": outcome, "message": str(error)})
        except NtpError as error:
            race = race.model_copy(update={"outcome": "refused", "message": str(error)})
        race = race.model_copy(update={"wall_time_s": round(self.pairing.elapsed_s - started_s, 3)})
        wall_time_s = round(self._before_s + self.pairing.elapsed_s, 3)
        self.tuning = self.tuning.model_copy(update={"races": (*self.tuning.races, race), "wall_time_s": wall_time_s})
        return self.tuning

    def _is_defaults_own(self, error: WorkerFailed, race: Race) -> bool:
        """Whether it is the default that cannot be run, and has never run."""
        of_base = isinstance(error, SideFailed) and error.side == "base"
        return (
            of_base and race.against == self.tuning.default and not any(earlier.pairs for earlier in self.tuning.races)
        )

    def _goes_on(self, race: Race, pairs: int | None) -> bool:
        if race.pairs and self.time_left_s() < self.pairing.mean_pair_s:
            return False
        if pairs is not None:
            return len(race.pairs) < pairs
        return wants_another_pair([log_ratio(pair) for pair in race.pairs])

    def _with_pair(self, race: Race, case: Case, against: Case) -> Race:
        peaks_bytes = [race.peak_rss_bytes or 0]

        def read(workers: Workers) -> None:
            peaks_bytes.append(workers["head"].run(1).peak_rss_bytes)

        here = Source.here()
        pair = self.pairing.pair(
            {"base": Entrant(against, here), "head": Entrant(case, here)},
            f"{race.purpose} {race.case_id} {race.against}",
            race.pairs,
            drop_above=DROP_ABOVE if race.purpose == "search" else math.inf,
            read=read,
        )
        peak_rss_bytes = max(peaks_bytes)
        limit = self.tuning.memory_limit_bytes
        changes: dict[str, object] = {"pairs": (*race.pairs, pair), "peak_rss_bytes": peak_rss_bytes}
        if limit is not None and peak_rss_bytes > limit and race.purpose == "search":
            changes |= {
                "outcome": "too large",
                "message": f"used {peak_rss_bytes:,} bytes of memory, {limit:,} are allowed",
            }
        losses = {side: ending.loss for side, ending in pair.endings}
        if _finite(losses.get("base")) and not _finite(losses.get("head")):
            told = f"its loss is {losses['head']}, and that of {against.id} is {losses.get('base')}"
            changes |= {"outcome": "failed", "message": told}
        return race.model_copy(update=changes)


def _finite(loss: float | None) -> bool:
    """Whether a loss is finite. One that was not recorded counts as finite."""
    return loss is None or math.isfinite(loss)


def tune(
    default: Case,
    levers: Sequence[Lever],
    *,
    budget_s: float,
    memory_limit_bytes: int | None = None,
    seed: int = 0,
    earlier: Tuning | None = None,
    bench: Bench,
) -> Generator[Tuning, None, None]:
    """Search until the budget is spent or nothing is left to try. Each step yields the search so far.

    Args:
        default: the case that the search starts from.
        levers: what may be varied.
        budget_s: seconds of this session.
        memory_limit_bytes: a candidate that needs more is dropped.
        seed: random seed of the order of blocks, and of the sampler.
        earlier: an earlier session of the same search, to resume from.
        bench: starts the workers, and is told what comes next.

    Raises:
        OptionError: ``earlier`` is another search.
        WorkerFailed, StepError: the default itself cannot be run.
    """
    tuning = Tuning(
        **bench.provenance(),
        wall_time_s=0,
        default=default.id,
        levers=tuple(levers),
        budget_s=budget_s,
        memory_limit_bytes=memory_limit_bytes,
        seed=seed,
    )
    if earlier is not None:
        if earlier.task != tuning.task:
            raise OptionError(
                "the file holds a search of another workload, levers, limit or machine: give --fresh or another file"
            )
        tuning = earlier.model_copy(update={"budget_s": budget_s})
    search = _Search(tuning, bench)
    for case in _candidates(search):
        best = incumbent(search.tuning)
        bench.progress(f"{search.pairing.elapsed_s:.0f} of {budget_s:.0f} s: {case.id} against {best}")
        yield search.race("search", case, Case.parse(best))
    yield from _last_races(search)


def _candidates(search: _Search) -> Iterator[Case]:
    """Yield what to try next, while there is time: whatever is one lever away from the best, while that gives a new
    best, then compiling, then what the sampler proposes; and from a best that it found, one lever away again.
    """
    default = Case.parse(search.tuning.default)
    tried = {default} | {Case.parse(race.case_id) for race in search.tuning.races if race.purpose == "search"}
    levers = [lever for lever in search.tuning.levers if lever.field != COMPILE]
    of_compiling = [lever for lever in search.tuning.levers if lever.field == COMPILE]
    settled, compiled, proposals, told = "", False, None, 0
    while _has_time(search):
        if settled != (best := incumbent(search.tuning)):
            settled = best
            yield from _one_lever_away(search, levers, tried)
        elif not compiled:
            compiled = True
            if _has_time(search, of_compiling=True):
                yield from _one_lever_away(search, of_compiling, tried)
        else:
            proposals = proposals or Proposals(default, _settled(search), search.tuning.seed)
            told = _tell(proposals, search.tuning, told)
            case = proposals.next(tried)
            if case is None:
                return
            tried.add(case)
            yield case


def _one_lever_away(search: _Search, levers: Sequence[Lever], tried: set[Case]) -> Iterator[Case]:
    """Yield each value of each lever, on top of what has won until then."""
    default = Case.parse(search.tuning.default)
    for lever in levers:
        for case in one_by_one(Case.parse(incumbent(search.tuning)), default, [lever]):
            if not _has_time(search, of_compiling=lever.field == COMPILE):
                return
            if case not in tried:
                tried.add(case)
                yield case


COMPILING_S = 60.0
"""Seconds that compiling a step takes, roughly. Compiled cases are tried only if there is time for it."""


def _has_time(search: _Search, *, of_compiling: bool = False) -> bool:
    needed_s = COMPILING_S if of_compiling else 0.0
    return search.time_left_s() - needed_s > search.reserve_s() + 2 * search.pairing.mean_pair_s


def _settled(search: _Search) -> list[Lever]:
    """Return the levers for the sampler. Compiling stays as in the best case, since each try would cost a minute."""
    best = Case.parse(incumbent(search.tuning))
    return [
        lever.model_copy(update={"values": (best.step.compile,)}) if lever.field == COMPILE else lever
        for lever in search.tuning.levers
    ]


def _tell(proposals: Proposals, tuning: Tuning, told: int) -> int:
    """Let the sampler learn what is new. Returns how many races it knows."""
    ratios = {ranking.case_id: ranking.ratio for ranking in standings(tuning)}
    compiled = Case.parse(incumbent(tuning)).step.compile
    for race in tuning.races[told:]:
        case = Case.parse(race.case_id)
        if race.purpose == "search" and case.step.compile == compiled:
            pace = ratios.get(race.against, 1.0) * race.pace if race.pace else None
            proposals.tell(case, ratios.get(race.case_id, pace))
    return len(tuning.races)


def _last_races(search: _Search) -> Iterator[Tuning]:
    """Race the winner against the default, and against itself without each of its levers."""
    default, best = Case.parse(search.tuning.default), Case.parse(incumbent(search.tuning))
    if best == default:
        return
    search.pairing.bench.progress(f"{search.pairing.elapsed_s:.0f} s: the winner, {best.id}, against the default")
    yield search.race("final", best, default, FINAL_PAIRS)
    for field, (_, usual) in levers_of(best, default).items():
        if search.time_left_s() < search.pairing.mean_pair_s:
            return
        try:
            without = with_values(best, {field: usual})
        except OptionError:
            continue
        search.pairing.bench.progress(f"{search.pairing.elapsed_s:.0f} s: the winner without {field}")
        yield search.race("without", without, best, WITHOUT_PAIRS)
