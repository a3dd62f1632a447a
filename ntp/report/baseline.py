"""A run against a stored baseline: the answer in one sentence, a row a case, then what else there is to say."""

from collections.abc import Callable, Iterator, Sequence

from ntp.judge.baseline import CONFIDENCE, BaselineVerdict, CaseJudgement
from ntp.judge.statistics import Interval
from ntp.report.markup import code, prose, table
from ntp.report.sentences import NAMED
from ntp.report.terminal import id_table, wrapped
from ntp.report.units import UNKNOWN, duration
from ntp.report.verdicts import change_notes, finding, worse

HEADERS = ("case", "verdict", "base", "head", "slowdown", "interval")


def terminal(verdict: BaselineVerdict) -> str:
    """The answer, the table, the notes, and what the columns mean."""
    parts = [wrapped(_answer(verdict))]
    if verdict.cases:
        parts.append(id_table(HEADERS, [_row(case) for case in verdict.cases]))
    parts += ["\n".join(wrapped(f"- {note}", "  ") for note in _notes(verdict)), wrapped(_legend(verdict))]
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown(verdict: BaselineVerdict) -> str:
    """The same as Markdown."""
    parts = [f"**{prose(_answer(verdict))}**"]
    if verdict.cases:
        parts.append(table(HEADERS, [(code(case_id), *cells) for case_id, *cells in map(_row, verdict.cases)]))
    parts += ["\n".join(f"- {prose(note)}" for note in _notes(verdict)), prose(_legend(verdict))]
    return "\n\n".join(filter(None, parts)) + "\n"


FORMATS: dict[str, Callable[[BaselineVerdict], str]] = {"terminal": terminal, "markdown": markdown}
"""What ``ntp compare --gate --format`` can write."""


def _answer(verdict: BaselineVerdict) -> str:
    return f"{verdict.verdict.capitalize()}: the head {_finding(verdict)}."


def _finding(verdict: BaselineVerdict) -> str:
    if not verdict.cases:
        return "was compared with a baseline that holds no case"
    slower = [case.times.slowdown for case in verdict.cases if case.times.verdict == "regression"]
    slowdown = max((each.value - 1 for each in slower if each), default=None)
    more = worse(slowdown, [case.regressions for case in verdict.cases])
    return finding(verdict.verdict, [case.verdict for case in verdict.cases], "the baseline", verdict.threshold, more)


def _row(case: CaseJudgement) -> tuple[str, ...]:
    slowdown = case.times.slowdown
    return (
        case.case.id,
        case.verdict,
        duration(case.base_ns),
        UNKNOWN if case.head_ns is None else duration(case.head_ns),
        UNKNOWN if slowdown is None else _percent(slowdown.value),
        UNKNOWN if slowdown is None else _range(slowdown),
    )


def _range(slowdown: Interval) -> str:
    return f"{_percent(slowdown.low)} to {_percent(slowdown.high)}"


def _percent(ratio: float) -> str:
    return f"{ratio - 1:+.1%}" if ratio < 10 else ">+900%"


def _notes(verdict: BaselineVerdict) -> Iterator[str]:
    """What is said of several cases in the same words is said once."""
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
    lines = [
        "Base and head: median step time. Slowdown: head over base, of the step time over that of a calibration kernel "
        f"in the same process; its interval holds the truth in {CONFIDENCE:.0%} of runs, as far as the noise between "
        "runs was known"
    ]
    if verdict.calibrated:
        lines.append(f" (calibrated {', '.join(verdict.calibrated)})")
    lines.append(
        ". A stored baseline detects only larger slowdowns than ntp guard, which runs both sides in pairs: where the "
        "base can be run, use ntp guard."
    )
    return "".join(lines)
