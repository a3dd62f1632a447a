"""The report of a guard: its verdict in one sentence, a row for each case, and what else there is to say of them."""

import math
from collections.abc import Iterator
from functools import partial
from typing import get_args

from ntp.case import Case
from ntp.judge.guard import TAIL, CaseJudgement, GuardVerdict, changed_but_not_loaded
from ntp.judge.statistics import Interval
from ntp.judge.verdict import Finding
from ntp.records.guard import WORK_TREE, GuardRecord, Side, SideName
from ntp.report.columns import Column, Table
from ntp.report.document import Report
from ntp.report.units import duration
from ntp.report.verdicts import change, change_notes, change_range, counted, doubts, limit, predicate, worse

_NAMED_FILES = 3
_PRACTICAL_BUDGET_S = 3600
"""Longer than that, nobody waits for a verdict."""


_percent, _range = partial(change, decimals=2), partial(change_range, decimals=2)


def _ratio(finding: Finding | None) -> float | None:
    return finding.ratio.value if finding and finding.ratio else None


def _interval(finding: Finding | None) -> Interval | None:
    """The interval that decides; before the first look, the plain one."""
    return finding and (finding.deciding or finding.ratio)


def _tail(case: CaseJudgement) -> Finding | None:
    return case.times.findings[1] if len(case.times.findings) > 1 else None


COLUMNS = (
    Column[CaseJudgement]("case", lambda case: case.case_id, is_code=True),
    Column[CaseJudgement]("verdict", lambda case: "failed" if case.failure else case.verdict),
    Column[CaseJudgement]("slowdown", lambda case: _ratio(case.typical), _percent),
    Column[CaseJudgement]("interval", lambda case: _interval(case.typical), _range),
    Column[CaseJudgement](TAIL, lambda case: _ratio(_tail(case)), _percent),
    Column[CaseJudgement]("pairs", lambda case: case.times.pairs),
    Column[CaseJudgement]("detectable", lambda case: case.typical and case.typical.smallest_detectable, _percent),
    Column[CaseJudgement]("time", lambda case: case.wall_time_s * 1e9, duration),
)


def report(record: GuardRecord, verdict: GuardVerdict) -> Report:
    notes = list(_notes(record, verdict))
    return Report([_answer(record, verdict)], [Table(COLUMNS, verdict.cases)], notes, _legend(verdict))


def _answer(record: GuardRecord, verdict: GuardVerdict) -> str:
    pairs = sum(case.times.pairs for case in verdict.cases)
    effort = f"{counted(pairs, 'pair')} of processes in {duration(record.wall_time_s * 1e9)}"
    head, base = _side(record.head), _side(record.base)
    if verdict.failures and verdict.verdict != "regression":
        return f"Failed: {head} could not be measured against {base} ({effort})."
    return f"{verdict.verdict.capitalize()}: {head} {_predicate(record, verdict, base)} ({effort})."


def _side(side: Side) -> str:
    name = "the work tree" if side.ref == WORK_TREE else side.ref
    details = [side.commit[:12]] if not side.commit.startswith(side.ref) else []
    details += ["with uncommitted changes"] if side.dirty else []
    return f"{name} ({', '.join(details)})" if details else name


def _predicate(record: GuardRecord, verdict: GuardVerdict, base: str) -> str:
    findings = [finding for case in verdict.cases for finding in case.times.findings]
    slower = [finding.ratio.value - 1 for finding in findings if finding.verdict == "regression" and finding.ratio]
    more = worse(max(slower, default=None), [case.regressions for case in verdict.cases])
    cases = [case.verdict for case in verdict.cases]
    return predicate(verdict.verdict, cases, base, record.plan.metrics[0].threshold, more)


def _notes(record: GuardRecord, verdict: GuardVerdict) -> Iterator[str]:
    if unseen := changed_but_not_loaded(record):
        files = f"{', '.join(unseen[:_NAMED_FILES])}{', ...' if len(unseen) > _NAMED_FILES else ''}"
        which = "the 1 Python file that differs was not" if len(unseen) == 1 else (
            f"none of the {len(unseen)} Python files that differ was"
        )  # fmt: skip
        yield (
            f"{which} loaded by either side ({files}): the verdict says nothing about the change; guard a case "
            "whose model imports what has changed"
        )
    for case in verdict.cases:
        for note in _notes_on(case, record.plan.min_pairs):
            yield f"{case.case_id}: {note}"
    for measured in record.cases:
        for side in get_args(SideName):
            endings = [ending for pair in measured.pairs for name, ending in pair.endings if name == side]
            for doubt in doubts(endings, Case.parse(measured.case_id).step):
                yield f"{measured.case_id}: {side}: {doubt}"
    if verdict.verdict == "inconclusive":
        yield _remedy(record, verdict)


def _notes_on(case: CaseJudgement, min_pairs: int) -> Iterator[str]:
    if reason := case.failure or case.times.not_comparable:
        yield reason.replace(f"{case.case_id}: ", "", 1)  # a worker's message names its case, as the note does
    yield from change_notes(case.changes, case.regressions)
    if case.times.findings and case.times.pairs < min_pairs:
        yield f"{case.times.pairs} of the {min_pairs} pairs that the first verdict needs"
        return
    for finding in case.times.findings:
        interval = _interval(finding)
        if interval and (finding.verdict == "regression" or finding.verdict == case.verdict == "inconclusive"):
            allowed = limit(finding.metric.threshold)
            yield f"{_name(finding)} is slower by {_range(interval)}, {allowed} is allowed{_need(finding)}"


def _need(finding: Finding) -> str:
    if finding.verdict == "regression":
        return ""
    if finding.more_pairs is None:
        return "; no practical number of pairs would decide it"
    return f"; about {counted(finding.more_pairs, 'more pair')} would decide it"


def _remedy(record: GuardRecord, verdict: GuardVerdict) -> str:
    """What to do about a verdict that is open: the budget that would do, at the pace so far, if there is one."""
    undecided = [case for case in verdict.cases if case.verdict == "inconclusive"]
    wanted = [
        max((finding.more_pairs or math.inf) for finding in case.times.findings if finding.verdict == "inconclusive")
        for case in undecided
    ]
    pairs = sum(case.times.pairs for case in verdict.cases)
    if not pairs:
        return "not one pair fitted into the budget: raise --budget"
    share_missing = sum(wanted) / pairs
    budget_s = record.wall_time_s * (1 + share_missing)
    if math.isinf(share_missing) or budget_s > _PRACTICAL_BUDGET_S:
        return "a quieter machine (ntp doctor) or a larger --threshold would decide it"
    return f"--budget {math.ceil(budget_s / 60)}min would probably decide it; so would a larger --threshold"


def _name(finding: Finding) -> str:
    return "the mean step" if finding.metric.name == TAIL else "the typical step"


def _legend(verdict: GuardVerdict) -> str:
    confidence = min((finding.confidence for case in verdict.cases for finding in case.times.findings), default=0.9)
    return (
        "Slowdown: how much slower the head is than the base, over the rounds of a pair and over all pairs. Its "
        f"interval decides, and holds the truth in at least {confidence:.0%} of runs, however often it is looked at. "
        "Detectable: the slowdown that this many pairs would have found in 4 of 5 runs."
    )
