"""The report of a run against a stored baseline: the answer in one sentence, a row for each case, and notes on them."""

from collections.abc import Iterator, Sequence
from functools import partial

from ntp.judge.baseline import BaselineVerdict, CaseJudgement
from ntp.judge.processes import CONFIDENCE
from ntp.report.columns import Column, Table
from ntp.report.document import Report
from ntp.report.sentences import NAMED
from ntp.report.units import duration
from ntp.report.verdicts import change, change_notes, change_range, predicate, worse


def _slowdown(case: CaseJudgement) -> float | None:
    return case.times.slowdown and case.times.slowdown.value


COLUMNS = (
    Column[CaseJudgement]("case", lambda case: case.case.id, is_code=True),
    Column[CaseJudgement]("verdict", lambda case: case.verdict),
    Column[CaseJudgement]("base", lambda case: case.base_ns, duration),
    Column[CaseJudgement]("head", lambda case: case.head_ns, duration),
    Column[CaseJudgement]("slowdown", _slowdown, partial(change, decimals=1)),
    Column[CaseJudgement]("interval", lambda case: case.times.slowdown, partial(change_range, decimals=1)),
)


def report(verdict: BaselineVerdict) -> Report:
    answer = f"{verdict.verdict.capitalize()}: the head {_predicate(verdict)}."
    return Report([answer], [Table(COLUMNS, verdict.cases)], list(_notes(verdict)), _legend(verdict))


def _predicate(verdict: BaselineVerdict) -> str:
    if not verdict.cases:
        return "was compared with a baseline that holds no case"
    slower = [case.times.slowdown for case in verdict.cases if case.times.verdict == "regression"]
    slowdown = max((interval.value - 1 for interval in slower if interval), default=None)
    more = worse(slowdown, [case.regressions for case in verdict.cases])
    return predicate(verdict.verdict, [case.verdict for case in verdict.cases], "the baseline", verdict.threshold, more)


def _notes(verdict: BaselineVerdict) -> Iterator[str]:
    """Say what holds for several cases once."""
    cases_by_note: dict[str, list[str]] = {}
    for case in verdict.cases:
        for note in _notes_on(case):
            cases_by_note.setdefault(note, []).append(case.case.id)
    for note, ids in cases_by_note.items():
        yield f"{_named(ids, len(verdict.cases))}: {note}"
    if verdict.only_head:
        yield f"not in the baseline, and not judged: {', '.join(verdict.only_head)}"


def _named(ids: Sequence[str], of_all: int) -> str:
    if len(ids) == of_all > 1:
        return "all cases"
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(ids[:NAMED]) + more


def _notes_on(case: CaseJudgement) -> Iterator[str]:
    yield from change_notes(case.changes, case.regressions)
    yield from case.times.reasons
    if case.not_counted:
        yield f"not counted on both sides, so not compared: {', '.join(case.not_counted)}"


def _legend(verdict: BaselineVerdict) -> str:
    noise = verdict.noise
    known = f" ({noise.spread:.1%}, learned from {noise.remembered} runs of this machine)" if noise.remembered else ""
    return (
        "Base and head: the step time, a mean over processes. Slowdown: head over base, of the step time over that of "
        f"a calibration kernel in the same process; its {CONFIDENCE:.0%} interval covers the processes of both and the "
        f"noise between runs{known}. A stored baseline detects only larger slowdowns than ntp guard, which runs both "
        "sides in pairs: where the base can be run, use ntp guard."
    )
