"""A guard's verdict: the answer in one sentence, a row a case, then what else there is to say of each."""

import math
from collections.abc import Iterator
from typing import get_args

from ntp.case import Case
from ntp.judge.guard import TAIL, CaseJudgement, GuardVerdict, changed_but_not_loaded
from ntp.judge.verdict import Finding
from ntp.records.guard import WORK_TREE, GuardRecord, Side, SideName
from ntp.report.markup import code, prose, table
from ntp.report.terminal import id_table, wrapped
from ntp.report.units import UNKNOWN, duration
from ntp.report.verdicts import change_notes, counted, doubts, finding, limit, worse

HEADERS = ("case", "verdict", "slowdown", "interval", TAIL, "pairs", "could tell", "time")
_NAMED_FILES = 3
_PRACTICAL_BUDGET_S = 3600
"""Longer than that, nobody waits for a verdict."""


def terminal(record: GuardRecord, verdict: GuardVerdict) -> str:
    """The answer, the table and the notes."""
    parts = [wrapped(answer(record, verdict)), id_table(HEADERS, [_row(judged) for judged in verdict.cases])]
    parts += ["\n".join(wrapped(f"- {note}", "  ") for note in _notes(record, verdict)), wrapped(_legend(verdict))]
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown(record: GuardRecord, verdict: GuardVerdict) -> str:
    """The same as Markdown, for a pull request."""
    rows = [(code(case_id), *cells) for case_id, *cells in map(_row, verdict.cases)]
    notes = "\n".join(f"- {prose(note)}" for note in _notes(record, verdict))
    parts = [f"**{prose(answer(record, verdict))}**", table(HEADERS, rows), notes, prose(_legend(verdict))]
    return "\n\n".join(filter(None, parts)) + "\n"


def answer(record: GuardRecord, verdict: GuardVerdict) -> str:
    """The verdict in one sentence: on what, why, and from how much."""
    pairs = sum(judged.times.pairs for judged in verdict.cases)
    effort = f"{counted(pairs, 'pair')} of processes in {duration(record.wall_time_s * 1e9)}"
    head, base = _side(record.head), _side(record.base)
    if verdict.failures and verdict.verdict != "regression":
        return f"Failed: {head} could not be measured against {base} ({effort})."
    return f"{verdict.verdict.capitalize()}: {head} {_finding(record, verdict, base)} ({effort})."


def _side(side: Side) -> str:
    name = "the work tree" if side.ref == WORK_TREE else side.ref
    details = [side.commit[:12]] if not side.commit.startswith(side.ref) else []
    details += ["with uncommitted changes"] if side.dirty else []
    return f"{name} ({', '.join(details)})" if details else name


def _finding(record: GuardRecord, verdict: GuardVerdict, base: str) -> str:
    slower = [found for judged in verdict.cases for found in judged.times.findings if found.verdict == "regression"]
    slowdown = max((found.ratio.value - 1 for found in slower if found.ratio), default=None)
    more = worse(slowdown, [judged.regressions for judged in verdict.cases])
    cases = [judged.verdict for judged in verdict.cases]
    return finding(verdict.verdict, cases, base, record.plan.metrics[0].threshold, more)


def _row(judged: CaseJudgement) -> tuple[str, ...]:
    typical, tail = (*judged.times.findings, None, None)[:2]
    return (
        judged.case_id,
        "failed" if judged.failure else judged.verdict,
        _point(typical),
        _interval(typical),
        _point(tail),
        str(judged.times.pairs),
        UNKNOWN if typical is None or typical.smallest_detectable is None else _percent(typical.smallest_detectable),
        duration(judged.wall_time_s * 1e9),
    )


def _point(found: Finding | None) -> str:
    return UNKNOWN if found is None or found.ratio is None else _percent(found.ratio.value)


def _interval(found: Finding | None) -> str:
    """The interval that decides; before the first look, the plain one."""
    interval = found and (found.deciding or found.ratio)
    return f"{_percent(interval.low)} to {_percent(interval.high)}" if interval else UNKNOWN


def _percent(ratio: float) -> str:
    return f"{ratio - 1:+z.2%}" if ratio < 10 else ">+900%"


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
    for judged in verdict.cases:
        for note in _notes_on(judged, record.plan.min_pairs):
            yield f"{judged.case_id}: {note}"
    for measured in record.cases:
        for side in get_args(SideName):
            endings = [ending for pair in measured.pairs for name, ending in pair.endings if name == side]
            for doubt in doubts(endings, Case.parse(measured.case_id).step):
                yield f"{measured.case_id}: {side}: {doubt}"
    if verdict.verdict == "inconclusive":
        yield _remedy(record, verdict)


def _notes_on(judged: CaseJudgement, min_pairs: int) -> Iterator[str]:
    if reason := judged.failure or judged.times.not_comparable:
        yield reason.replace(f"{judged.case_id}: ", "", 1)  # a worker's message names its case, as the note does
    yield from change_notes(judged.changes, judged.regressions)
    if judged.times.findings and judged.times.pairs < min_pairs:
        yield f"{counted(judged.times.pairs, 'pair')} of the {min_pairs} that the first verdict needs"
        return
    for found in judged.times.findings:
        if found.verdict == "regression" or (found.verdict == judged.verdict == "inconclusive"):
            yield (
                f"{_name(found)} is slower by {_interval(found)}, allowed are {limit(found.metric.threshold)}"
                f"{_need(found)}"
            )


def _need(found: Finding) -> str:
    if found.verdict == "regression":
        return ""
    if found.more_pairs is None:
        return "; no practical number of pairs would decide that"
    return f"; about {counted(found.more_pairs, 'more pair')} would decide it"


def _remedy(record: GuardRecord, verdict: GuardVerdict) -> str:
    """What to do about a verdict that is open: the budget that would do, at the pace so far, if there is one."""
    undecided = [judged for judged in verdict.cases if judged.verdict == "inconclusive"]
    wanted = [
        max((found.more_pairs or math.inf) for found in judged.times.findings if found.verdict == "inconclusive")
        for judged in undecided
    ]
    pairs = sum(judged.times.pairs for judged in verdict.cases)
    if not pairs:
        return "not one pair fitted into the budget: raise --budget"
    share_missing = sum(wanted) / pairs
    budget_s = record.wall_time_s * (1 + share_missing)
    if math.isinf(share_missing) or budget_s > _PRACTICAL_BUDGET_S:
        return "a quieter machine (ntp doctor) or a larger --threshold would decide it"
    return f"--budget {math.ceil(budget_s / 60)}min would probably decide it; so would a larger --threshold"


def _name(found: Finding) -> str:
    return "the mean step" if found.metric.name == TAIL else "the typical step"


def _legend(verdict: GuardVerdict) -> str:
    confidence = min((found.confidence for judged in verdict.cases for found in judged.times.findings), default=0.9)
    return (
        "Slowdown: of the head against the base, over the rounds of a pair and over pairs; its interval decides, and "
        f"holds the truth in {confidence:.0%} of runs at least, however often it was looked at. Could tell: the "
        "slowdown that so many pairs would have found in 4 of 5 runs."
    )
