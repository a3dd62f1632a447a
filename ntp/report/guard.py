"""The report of a guard: its verdict in one sentence, a row for each case, and what else there is to say of them."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import get_args

from ntp.case import Case
from ntp.judge.guard import (
    CPU,
    MEAN,
    WALL,
    CaseJudgement,
    GuardVerdict,
    InstructionsJudgement,
    changed_but_not_loaded,
)
from ntp.judge.statistics import Interval
from ntp.judge.verdict import Finding
from ntp.records.guard import GuardRecord
from ntp.records.pairs import WORK_TREE, Side, SideName
from ntp.report.columns import Column, Table
from ntp.report.document import Report
from ntp.report.verdicts import change, change_notes, change_range, counted, doubts, effort_of, limit, predicate, worse

_NAMED_FILES = 3
_PRACTICAL_BUDGET_S = 3600
"""Longer than that, nobody waits for a verdict."""


_percent, _range = partial(change, decimals=2), partial(change_range, decimals=2)


def _ratio(finding: Finding | None) -> float | None:
    return finding.ratio.value if finding and finding.ratio else None


def _interval(finding: Finding | None) -> Interval | None:
    """The interval that decides; before the first look, the plain one."""
    return finding and (finding.deciding or finding.ratio)


COLUMNS = (
    Column[CaseJudgement]("case", lambda case: case.case_id, is_code=True),
    Column[CaseJudgement]("verdict", lambda case: "failed" if case.failure else case.verdict),
    Column[CaseJudgement]("slowdown", lambda case: _ratio(case.first), _percent),
    Column[CaseJudgement]("interval", lambda case: _interval(case.first), _range),
    Column[CaseJudgement](WALL, lambda case: _ratio(case.finding(WALL)), _percent),
    Column[CaseJudgement](MEAN, lambda case: _ratio(case.finding(MEAN)), _percent),
    Column[CaseJudgement]("pairs", lambda case: case.times.pairs),
    Column[CaseJudgement]("detectable", lambda case: case.first and case.first.smallest_detectable, _percent),
)


INSTRUCTION_COLUMNS = (
    Column[InstructionsJudgement]("small step", lambda judged: judged.counted.case_id, is_code=True),
    Column[InstructionsJudgement]("verdict", lambda judged: judged.verdict),
    Column[InstructionsJudgement]("instructions", lambda judged: judged.ratio, _percent),
    Column[InstructionsJudgement]("base", lambda judged: judged.counted.base, "{:,}".format),
    Column[InstructionsJudgement]("head", lambda judged: judged.counted.head, "{:,}".format),
)


def report(record: GuardRecord, verdict: GuardVerdict) -> Report:
    tables = [Table(COLUMNS, verdict.cases)]
    if verdict.instructions:
        tables.append(Table(INSTRUCTION_COLUMNS, verdict.instructions))
    return Report([_answer(record, verdict)], tables, list(_notes(record, verdict)), _legend(verdict))


def _answer(record: GuardRecord, verdict: GuardVerdict) -> str:
    pairs = sum(case.times.pairs for case in verdict.cases)
    effort = effort_of(pairs, record.wall_time_s)
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
    cases = [case.verdict for case in verdict.cases]
    if verdict.verdict == "regression" and "regression" not in cases:
        most = max(judged.ratio for judged in verdict.instructions)
        return f"executes {_percent(most).lstrip('+')} more instructions in a small step than {base}"
    more = worse(max(slower, default=None), [case.regressions for case in verdict.cases])
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
            endings = [ending for pair in measured.pairs for ending in pair.endings_of(side)]
            for doubt in doubts(endings, Case.parse(measured.case_id).step):
                yield f"{measured.case_id}: {side}: {doubt}"
    if record.instructions_failure:
        yield f"instructions were not counted: {record.instructions_failure}"
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
            yield f"{_name(finding)} grew by {_range(interval)}, {allowed} is allowed{_need(finding)}"
    cpu = case.finding(CPU)
    if case.times.fired == (WALL,) and cpu and cpu.verdict != "inconclusive":
        yield "its CPU time did not: the step waits longer, for other threads, the disk, a lock or a timer"


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
    larger = _larger_threshold(record, undecided)
    if math.isinf(share_missing) or budget_s > _PRACTICAL_BUDGET_S:
        return f"a quieter machine (ntp doctor) or {larger} would decide it"
    return f"--budget {math.ceil(budget_s / 60)}min would probably decide it; so would {larger}"


def _larger_threshold(record: GuardRecord, undecided: Sequence[CaseJudgement]) -> str:
    """Name the threshold that is too small for what is known so far: the smallest that would do, where CPU times do."""
    findings = [finding for case in undecided for finding in case.times.findings if finding.verdict == "inconclusive"]
    usual = {metric.name: metric.threshold for metric in record.plan.metrics}
    if WALL not in usual or any(finding.metric.name == CPU for finding in findings):
        return "a larger --threshold"
    scales = [
        (finding.deciding.high - 1) / finding.metric.threshold if finding.deciding else math.inf for finding in findings
    ]
    share = usual[WALL] * max(scales, default=math.inf)
    return f"--wall-threshold {math.ceil(100 * share)}%" if share < 0.99 else "a larger --wall-threshold"


_SHORT = {CPU: "CPU time", WALL: "wall time", MEAN: "the mean"}
_NAMES = {CPU: "the CPU time of a step", WALL: "the time of a step", MEAN: "the mean of all steps"}


def _name(finding: Finding) -> str:
    return _NAMES.get(finding.metric.name, finding.metric.name)


def _legend(verdict: GuardVerdict) -> str:
    confidence = min((finding.confidence for case in verdict.cases for finding in case.times.findings), default=0.9)
    return (
        "Slowdown: how much more CPU time a step takes of its main thread on the head than on the base, over the "
        "rounds of a pair and over all pairs. Its interval decides, and holds the truth in at least "
        f"{confidence:.0%} of runs, however often it is looked at. Wall: the time of a step, which contains waiting, "
        "too. Mean: that of all steps, the slowest included. Each has a threshold of its own"
        f"{_seen(verdict)}."
    )


def _seen(verdict: GuardVerdict) -> str:
    """What the pairs so far would have found of each metric, in every case."""
    detectable: dict[str, float] = {}
    for case in verdict.cases:
        for finding in case.times.findings:
            if finding.smallest_detectable is not None:
                name = finding.metric.name
                detectable[name] = max(detectable.get(name, 0.0), finding.smallest_detectable)
    if not detectable:
        return ""
    found = ", ".join(f"{_percent(ratio)} of {_SHORT.get(name, name)}" for name, ratio in detectable.items())
    return f"; in 4 of 5 runs, this many pairs would have found {found}, in whichever case"
