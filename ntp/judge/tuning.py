"""The rankings of a search, from its races: which case is the fastest, by how much, and through which levers.

Ratios are step times over step times: below 1, the case is faster than what it is compared with.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ntp.case import GROUPS, Case
from ntp.judge.guard import METRICS
from ntp.judge.sequential import t_quantile
from ntp.judge.statistics import Interval
from ntp.records.pairs import Pair
from ntp.records.tuning import Race, Tuning

GIVEN_UP = math.log(1.05)
"""A case that is slower by more than this after its first pair gets no other pair."""

CLEARLY = math.log(0.98)
"""A case that is faster by more than this after two pairs has won: a pair is off by about 1%."""

MOST_PAIRS = 4
"""A race of the search takes at most this many. A case that has not won by then is no faster, or hardly."""


class Ranking(NamedTuple):
    """A case that was raced, and its place."""

    case_id: str
    ratio: float
    """The ratio to the default, by way of the cases that it was raced against."""


class Contribution(NamedTuple):
    """What one lever of the winner contributes."""

    field: str
    value: str
    instead: str
    """The default's value, which it replaces."""
    ratio: Interval | None
    """The winner without the lever, over the winner. None where that cannot be run at all."""
    message: str = ""


class Winner(NamedTuple):
    """The result of a search."""

    case: Case
    ratio: Interval | None
    """The ratio to the default. None where the default itself has won, or was not raced against it."""
    contributions: tuple[Contribution, ...]
    """The largest first."""
    standings: tuple[Ranking, ...]
    """All cases of the search, the fastest first."""


def log_ratio(pair: Pair) -> float:
    """Return log(head / base) of the typical step: the median over the rounds."""
    return METRICS["rounds"](pair)


def mean_ratio(pairs: Sequence[Pair]) -> Interval | None:
    """Return the ratio of the typical step in its 95% interval of t. None for one pair, whose interval is infinite."""
    if len(pairs) < 2:
        return None
    values = [log_ratio(pair) for pair in pairs]
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = t_quantile(len(values), 0.975) * error
    return Interval(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach))


def wants_another_pair(log_ratios: Sequence[float]) -> bool:
    if not log_ratios:
        return True
    if len(log_ratios) >= MOST_PAIRS or statistics.fmean(log_ratios) > GIVEN_UP / len(log_ratios):
        return False
    return len(log_ratios) < 2 or statistics.fmean(log_ratios) > CLEARLY


def has_won(log_ratios: Sequence[float]) -> bool:
    """Whether a case replaces the one it was raced against: it is faster in most pairs, and on average."""
    faster = sum(ratio < 0 for ratio in log_ratios)
    return len(log_ratios) >= 2 and faster > len(log_ratios) / 2 and statistics.fmean(log_ratios) < -_NOTHING


_NOTHING = 0.002
"""A case that is faster by less than this is not worth a lever."""


def standings(tuning: Tuning) -> tuple[Ranking, ...]:
    """Rank the default and all cases that were raced in the search, the fastest first."""
    to_default = {tuning.default: 0.0}
    for race in tuning.races:
        if race.purpose == "search" and race.outcome == "raced" and race.against in to_default:
            to_default[race.case_id] = to_default[race.against] + statistics.fmean(map(log_ratio, race.pairs))
    ordered = sorted(to_default.items(), key=lambda item: item[1])
    return tuple(Ranking(case_id, math.exp(value)) for case_id, value in ordered)


def incumbent(tuning: Tuning) -> str:
    """Return the case that has won every race since its own: the next one is raced against it."""
    best = tuning.default
    for race in tuning.races:
        won = race.purpose == "search" and race.outcome == "raced" and race.against == best
        if won and has_won([log_ratio(pair) for pair in race.pairs]):
            best = race.case_id
    return best


def levers_of(case: Case, default: Case) -> dict[str, tuple[str, str]]:
    """Return the fields in which two cases of one workload differ: the case's value, and the default's."""
    differing = {}
    for group, model in GROUPS.items():
        for field in model.model_fields:
            value, usual = (str(getattr(getattr(one, group), field)) for one in (case, default))
            if value != usual:
                differing[field] = (value, usual)
    return differing


def with_values(case: Case, values: Mapping[str, object]) -> Case:
    """Return the case with some of its fields changed.

    Raises:
        OptionError: they do not go together.
    """
    fields = case.workload.model_dump() | case.step.model_dump() | case.runtime.model_dump()
    return Case.of(fields | dict(values))


def winner(tuning: Tuning) -> Winner:
    """Return the fastest case, as far as the search has come."""
    case_id = incumbent(tuning)
    case, default = Case.parse(case_id), Case.parse(tuning.default)
    final = _pairs(tuning.races, "final", case_id, tuning.default)
    if not final:  # it may have been raced against the default itself on the way
        final = _pairs(tuning.races, "search", case_id, tuning.default)
    contributions = []
    for field, (value, usual) in levers_of(case, default).items():
        race = _without(tuning, case_id, field)
        if race is not None:
            ratio = mean_ratio(race.pairs)
            contributions.append(Contribution(field, value, usual, ratio, _why_not(race)))
    contributions.sort(key=lambda lever: -lever.ratio.value if lever.ratio else -math.inf)
    return Winner(case, mean_ratio(final), tuple(contributions), standings(tuning))


def _pairs(races: Iterable[Race], purpose: str, case_id: str, against: str) -> tuple[Pair, ...]:
    wanted = (purpose, case_id, against)
    return tuple(pair for race in races if (race.purpose, race.case_id, race.against) == wanted for pair in race.pairs)


def _without(tuning: Tuning, winner_id: str, field: str) -> Race | None:
    """Find the race of the winner without one of its levers against the winner."""
    case, default = Case.parse(winner_id), Case.parse(tuning.default)
    for race in tuning.races:
        if race.purpose == "without" and race.against == winner_id:
            missing = levers_of(case, default).keys() - levers_of(Case.parse(race.case_id), default).keys()
            if missing == {field}:
                return race
    return None


def _why_not(race: Race) -> str:
    if race.outcome == "pruned" and race.pace is not None:
        return f"{race.pace:.2f} times as long in the warm-up"
    return race.message
