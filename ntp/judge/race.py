"""The places of a race: who is the fastest, by how much, and who cannot be told apart.

Each contestant is compared with the leader in pairs of their own, by the time that a token takes, since steps may be of
unlike sizes. The interval of the mean log-ratio may be looked at after every pair (:mod:`ntp.judge.sequential`), and
allows for every two of the contestants (Bonferroni), so that a false difference anywhere has a probability of at most
alpha. Against another, a contestant is

    tied      if the interval lies wholly within the precision
    slower    wholly above 0
    faster    wholly below
    open      otherwise

Whoever is faster than the leader leads from then on, and those that are not slower meet it. One that has been found
slower than a leader gets no more pairs against leaders: whoever leads later is faster still. Its ratio to the first is
a product of ratios then, and its interval has the variances of all of them. Those that are slower meet each other only
if their places are open when all else is decided.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from ntp.case import Case
from ntp.judge.guard import METRICS, WALL
from ntp.judge.sequential import Estimate, critical_values
from ntp.judge.statistics import Interval
from ntp.records.race import RaceRecord

Relation = Literal["tied", "slower", "faster", "open"]


class Place(NamedTuple):
    """A contestant and its place."""

    name: str
    place: int | None
    """1 for the leader, and for those that share its place. None for one that failed."""
    relation: Relation | None
    """To the first. None for the first itself, and for one that failed."""
    ratio: Interval | None
    """Its time per token over that of the first, in the interval that decides. None before there is one."""
    pairs: int


class RaceVerdict(NamedTuple):
    """What a race has come to."""

    places: tuple[Place, ...]
    """The fastest first; those that failed last."""
    winner: str | None
    """The one that all others are slower than. None if there is none, or not yet."""
    decided: bool
    """Whether every place is."""
    next_duel: tuple[str, str] | None
    """The two that should meet next. None when all is decided, or the plan allows no more pairs of the others."""
    detectable: float | None
    """The ratio that the open duels could have told from 1. None if nothing is open, or an open one has no interval."""

    @property
    def running(self) -> tuple[Place, ...]:
        """The places of those that did not fail."""
        return tuple(place for place in self.places if place.place is not None)


def tokens_of(case_id: str) -> int:
    """Return how many tokens a step of a case trains on."""
    workload = Case.parse(case_id).workload
    return workload.batch_size * workload.seq_len


class _Standings:
    """The duels of a race, and what they say of any two contestants. Those that failed are left out."""

    def __init__(self, record: RaceRecord) -> None:
        self.plan = record.plan
        self.names = [contestant.name for contestant in record.contestants if not contestant.failure]
        log_tokens = {one.name: math.log(tokens_of(one.case_id)) for one in record.contestants}
        self._estimates = {
            (duel.base, duel.head): Estimate.of(
                [METRICS[WALL](pair) - log_tokens[duel.head] + log_tokens[duel.base] for pair in duel.pairs]
            )
            for duel in record.duels
            if duel.pairs
        }
        couples = math.comb(len(record.contestants), 2)
        self._critical = critical_values(self.plan.alpha / 2 / couples, self.plan.min_pairs, self.plan.max_pairs)

    def pairs(self, one: str, other: str) -> int:
        estimate = self._estimates.get((one, other)) or self._estimates.get((other, one))
        return estimate.n if estimate else 0

    def pairs_of(self, name: str) -> int:
        return sum(self.pairs(name, other) for other in self.names if other != name)

    def _step(self, base: str, head: str) -> Estimate | None:
        """Return what their own pairs say of log(head / base). None before the first look."""
        estimate = self._estimates.get((base, head))
        if estimate is None and (turned := self._estimates.get((head, base))):
            estimate = turned._replace(mean=-turned.mean)
        return estimate if estimate and estimate.n >= self.plan.min_pairs else None

    def _interval(self, steps: Sequence[Estimate]) -> Interval:
        n = min(step.n for step in steps)
        error = math.sqrt(math.fsum(step.std_error**2 for step in steps))
        chained = Estimate(n, math.fsum(step.mean for step in steps), error)
        return chained.interval(self._critical[n - self.plan.min_pairs])

    def direct(self, base: str, head: str) -> Interval | None:
        """Return log(head / base) in the interval that decides, from their own pairs. None before the first look."""
        step = self._step(base, head)
        return step and self._interval([step])

    def between(self, base: str, head: str) -> Interval | None:
        """Return log(head / base) from their own pairs, or by way of as few others as possible. None: no way."""
        found: dict[str, list[Estimate]] = {base: []}
        waiting = deque([base])
        while waiting and head not in found:
            here = waiting.popleft()
            for there in self.names:
                if there not in found and (step := self._step(here, there)):
                    found[there] = [*found[here], step]
                    waiting.append(there)
        return self._interval(found[head]) if head in found else None

    def relation(self, log_ratio: Interval | None) -> Relation:
        """Say what an interval of log(head / base) says of the head."""
        if log_ratio is None:
            return "open"
        reach = math.log1p(self.plan.precision)
        if -reach < log_ratio.low and log_ratio.high < reach:
            return "tied"
        return "slower" if log_ratio.low > 0 else "faster" if log_ratio.high < 0 else "open"

    def leader(self) -> str:
        """Return the one that nobody has beaten, starting from the first named."""
        leader, seen = self.names[0], set[str]()
        while True:
            seen.add(leader)
            intervals = {name: self.direct(leader, name) for name in self.names if name not in seen}
            faster = {
                name: interval
                for name, interval in intervals.items()
                if interval and self.relation(interval) == "faster"
            }
            if not faster:
                return leader
            leader = min(faster, key=lambda name: faster[name].value)


def verdict_on(record: RaceRecord) -> RaceVerdict:
    """Judge what a race has recorded so far. The record alone decides, so a file gives the same verdict again."""
    standings = _Standings(record)
    failed = tuple(Place(one.name, None, None, None, 0) for one in record.contestants if one.failure)
    if not standings.names:
        return RaceVerdict(failed, None, decided=True, next_duel=None, detectable=None)
    places = _places(standings, standings.leader())
    first, *others = places
    open_duels = list(_open_duels(standings, places))
    free = [duel for duel in open_duels if standings.pairs(*duel) < standings.plan.max_pairs]
    return RaceVerdict(
        places=(*places, *failed),
        winner=first.name if others and all(place.relation == "slower" for place in others) else None,
        decided=not open_duels,
        next_duel=min(free, key=lambda duel: standings.pairs(*duel), default=None),
        detectable=_detectable([standings.between(*duel) for duel in open_duels]),
    )


def _places(standings: _Standings, leader: str) -> tuple[Place, ...]:
    """Rank the contestants. One that cannot be told from the first of a place shares it."""
    log_ratios = {name: standings.between(leader, name) for name in standings.names if name != leader}
    unknown = [name for name, log_ratio in log_ratios.items() if log_ratio is None]
    known = {name: log_ratio for name, log_ratio in log_ratios.items() if log_ratio is not None}
    relations = {name: standings.relation(log_ratio) for name, log_ratio in known.items()}
    # Whoever is not slower than the first shares its place, whatever the ratios seem to say.
    ordered = sorted(known, key=lambda name: (relations[name] == "slower", known[name].value))
    with_first = [name for name in ordered if relations[name] != "slower"]
    places = [Place(leader, 1, None, None, standings.pairs_of(leader))]
    group = leader
    for name in (*with_first, *unknown, *ordered[len(with_first) :]):
        relation = relations.get(name, "open")
        place = places[-1].place
        if relation == "slower" and (group == leader or standings.relation(standings.between(group, name)) == "slower"):
            group, place = name, len(places) + 1
        log_ratio = log_ratios[name]
        ratio = log_ratio and Interval(*(math.exp(min(limit, 700.0)) for limit in log_ratio))
        places.append(Place(name, place, relation, ratio, standings.pairs_of(name)))
    return tuple(places)


def _open_duels(standings: _Standings, places: Sequence[Place]) -> Iterator[tuple[str, str]]:
    """Yield the couples whose order is open: first those with the leader, then neighbours among the others."""
    leader, *others = places
    with_leader = [(leader.name, place.name) for place in others if place.relation in ("open", "faster")]
    yield from with_leader
    if not with_leader:
        slower = [place.name for place in others if place.relation == "slower"]
        for one, other in pairwise(slower):
            if standings.relation(standings.between(one, other)) == "open":
                yield one, other


def _detectable(log_ratios: Sequence[Interval | None]) -> float | None:
    known = [log_ratio for log_ratio in log_ratios if log_ratio is not None]
    if not known or len(known) < len(log_ratios):
        return None
    return math.exp(min(700.0, max(log_ratio.high - log_ratio.low for log_ratio in known) / 2))


def summary(verdict: RaceVerdict) -> dict[str, object]:
    """Return the verdict as plain values, for machines to read. Ratios are times per token over that of the first."""
    return {
        "winner": verdict.winner,
        "decided": verdict.decided,
        "places": [
            {
                "contestant": place.name,
                "place": place.place,
                "relation": place.relation,
                "ratio": place.ratio and place.ratio.value,
                "interval": place.ratio and [place.ratio.low, place.ratio.high],
                "pairs": place.pairs,
            }
            for place in verdict.places
        ],
    }
