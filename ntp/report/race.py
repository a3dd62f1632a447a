"""The report of a race: who is the fastest, a row for each contestant, and in what their steps differ."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ntp.case import Case
from ntp.judge.counts import changes
from ntp.judge.race import Place, RaceVerdict, tokens_of
from ntp.judge.statistics import Interval
from ntp.records.endings import Ending
from ntp.records.pairs import Counts, Pair, SideName
from ntp.records.race import Contestant, RaceRecord
from ntp.report.columns import Column, Table
from ntp.report.document import Report, html
from ntp.report.units import duration, significant, size
from ntp.report.verdicts import doubts, effort_of, limit

_LISTED = 6
"""How many differences between the counts of two contestants a report names."""

_WORDS = {"slower": "slower", "faster": "faster", "tied": "as fast", "open": "not told apart"}


class Row(NamedTuple):
    """A contestant in the table."""

    place: Place
    contestant: Contestant
    step_ns: float | None
    """The median step of all its processes."""
    anonymous_bytes: int | None
    """The most memory that any of its processes had for itself."""

    @property
    def relation(self) -> str:
        if self.contestant.failure:
            return "failed"
        return _WORDS[self.place.relation] if self.place.relation else "first"

    @property
    def tokens_per_s(self) -> float | None:
        return self.step_ns and tokens_of(self.contestant.case_id) / self.step_ns * 1e9


COLUMNS = (
    Column[Row]("contestant", lambda row: row.place.name, is_code=True),
    Column[Row]("place", lambda row: row.place.place),
    Column[Row]("", lambda row: row.relation),
    Column[Row]("time", lambda row: row.place.ratio and row.place.ratio.value, "{:.3f}".format),
    Column[Row]("interval", lambda row: row.place.ratio, lambda of: f"{of.low:.3f} to {of.high:.3f}"),
    Column[Row]("step time", lambda row: row.step_ns, duration, formats=("markdown", "html")),
    Column[Row]("tokens/s", lambda row: row.tokens_per_s, significant),
    Column[Row]("memory", lambda row: row.anonymous_bytes, size),
    Column[Row]("pairs", lambda row: row.place.pairs),
)


class StepCounts(NamedTuple):
    """What a step of a contestant does, exactly."""

    name: str
    counts: Counts

    @property
    def calls(self) -> float | None:
        operators = self.counts.operators
        return None if operators is None else math.fsum(calls for _, calls in operators)


_FEW_GFLOP = 0.1
"""Of fewer, two digits after the point say too little."""


def _gflop(value: float) -> str:
    return significant(value) if value >= _FEW_GFLOP else f"{value:.2g}"


COUNT_COLUMNS = (
    Column[StepCounts]("contestant", lambda row: row.name, is_code=True),
    Column[StepCounts]("parameters", lambda row: row.counts.parameters, "{:,}".format),
    Column[StepCounts]("operators", lambda row: row.calls, "{:,.6g}".format),
    Column[StepCounts]("GFLOP", lambda row: row.counts.flops and row.counts.flops / 1e9, _gflop),
    Column[StepCounts]("allocated", lambda row: row.counts.allocated_bytes, size),
    Column[StepCounts]("peak of tensors", lambda row: row.counts.peak_tensor_bytes, size),
)


def rows_of(record: RaceRecord, verdict: RaceVerdict) -> list[Row]:
    contestants = {contestant.name: contestant for contestant in record.contestants}
    return [_row(record, place, contestants[place.name]) for place in verdict.places]


def _row(record: RaceRecord, place: Place, contestant: Contestant) -> Row:
    samples = [sample for side, pair in _pairs(record, place.name) for sample in pair.samples(side)]
    sizes = [ending.anonymous_bytes for ending in _endings(record, place.name) if ending.anonymous_bytes]
    return Row(place, contestant, statistics.median(samples) if samples else None, max(sizes, default=None))


def _pairs(record: RaceRecord, name: str) -> Iterator[tuple[SideName, Pair]]:
    """All pairs of a contestant, with its side."""
    for duel in record.duels:
        if name in (duel.base, duel.head):
            side: SideName = "base" if name == duel.base else "head"
            yield from ((side, pair) for pair in duel.pairs)


def _endings(record: RaceRecord, name: str) -> list[Ending]:
    return [ending for side, pair in _pairs(record, name) for ending in pair.endings_of(side)]


def report(record: RaceRecord, verdict: RaceVerdict) -> Report:
    rows = rows_of(record, verdict)
    counted = [StepCounts(row.place.name, row.contestant.counts) for row in rows if row.contestant.counts]
    tables = [Table(COLUMNS, rows), Table(COUNT_COLUMNS, counted, "What a step does")]
    return Report([_answer(record, verdict)], tables, list(_notes(record, verdict)), _LEGEND, "The race")


def page(record: RaceRecord, verdict: RaceVerdict) -> str:
    """The report as a web page, with a chart of the ratios."""
    from ntp.report.race_chart import ratios  # here, so that text need not wait for what draws
    from ntp.report.web import figure

    first, *others = verdict.places
    known = {place.name: place.ratio for place in others if place.ratio}
    figures = [figure("ratios", "Ratios", ratios(first.name, known))] if known else []
    return html(report(record, verdict), "The race", record.command, figures)


def _answer(record: RaceRecord, verdict: RaceVerdict) -> str:
    pairs = sum(len(duel.pairs) for duel in record.duels)
    effort = effort_of(pairs, record.wall_time_s)
    running = verdict.running
    if len(running) < 2:
        return f"No race: {len(running)} of {len(verdict.places)} contestants can be run ({effort})."
    first, *others = running
    if verdict.winner:
        return f"Fastest: {first.name}; {_behind(others[0])} ({effort})."
    tied = [first.name, *(place.name for place in others if place.relation == "tied")]
    unknown = [place.name for place in others if place.relation in ("open", "faster")]
    if unknown:
        return f"Not decided: {_listed([*tied, *unknown])} cannot all be told apart ({effort})."
    equal = f"{_listed(tied)} are equally fast, to {limit(record.plan.precision)}"
    behind = next((place for place in others if place.relation == "slower"), None)
    return f"{equal}{f'; {_behind(behind)}' if behind else ''} ({effort})."


def _behind(place: Place) -> str:
    assert place.ratio is not None
    return f"{place.name} takes {place.ratio.value:.3f} times as long ({_range(place.ratio)})"


def _range(ratio: Interval) -> str:
    return f"{ratio.low:.3f} to {ratio.high:.3f}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _notes(record: RaceRecord, verdict: RaceVerdict) -> Iterator[str]:
    contestants = {contestant.name: contestant for contestant in record.contestants}
    for one in record.contestants:
        if one.failure:
            yield f"{one.name}: {one.failure}"
    running = [contestants[place.name] for place in verdict.running]
    for one in running:
        if one.software and one.interpreter:
            yield f"{one.name}: torch {one.software.torch}, {one.software.python}"
    if len(running) > 1 and all(_does_the_same(running[0], other) for other in running[1:]):
        yield "a step of each does exactly the same: the same operators, operations and bytes"
    for other in running[1:]:
        if differing := _differing(running[0], other):
            more = len(differing) - _LISTED
            listed = ", ".join(differing[:_LISTED]) + (f" and {more} more" if more > 0 else "")
            yield f"a step of {other.name} differs from one of {running[0].name}: {listed}"
    for one in running:
        for doubt in doubts(_endings(record, one.name), Case.parse(one.case_id).step):
            yield f"{one.name}: {doubt}"
    if not verdict.decided:
        seen = f" (a difference of {verdict.detectable - 1:.1%} would have been seen)" if verdict.detectable else ""
        yield f"some places are open{seen}: a larger --budget or --precision would decide more"


def _does_the_same(first: Contestant, other: Contestant) -> bool:
    return first.counts is not None and not first.counts.missing and first.counts == other.counts


def _differing(first: Contestant, other: Contestant) -> list[str]:
    """The counts in which two contestants differ that train on the same tokens; with others, all counts do."""
    alike = Case.parse(first.case_id).workload == Case.parse(other.case_id).workload
    if not alike or first.counts is None or other.counts is None:
        return []
    return [str(change) for change in changes(first.counts, other.counts)]


_LEGEND = (
    "Time: that of a token over that of the first, from pairs of processes that ran side by side. The intervals allow "
    "for every look and for all contestants: all of them hold the truth in at least 95% of races. Tokens/s: by the "
    "median step of all processes. Memory: what a process had for itself, at its largest. What a step does is counted: "
    "calls of operators, operations, bytes that it allocates, and the most that its tensors take at once."
)
