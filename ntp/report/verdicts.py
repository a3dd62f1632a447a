"""What a verdict says in words, whether it is a guard's or a baseline's."""

from collections.abc import Iterator, Sequence

from ntp.case import StepConfig
from ntp.judge.counts import Change
from ntp.judge.verdict import Verdict
from ntp.judge.warnings import warnings_of_endings
from ntp.records.endings import Ending

_NAMED_CHANGES = 2
"""In the answer. The notes name more."""

_LISTED_CHANGES = 4


def finding(verdict: Verdict, cases: Sequence[Verdict], base: str, threshold: float, more: str) -> str:
    """What a verdict says of the head, as the rest of a sentence that begins with it.

    Args:
        verdict: on the whole.
        cases: on each case, one at least.
        base: what the head is compared with, in words.
        threshold: as a fraction.
        more: of a regression, in what the head is worse.
    """
    of_all = counted(len(cases), "case")
    found = f"{sum(each == verdict for each in cases)} of {of_all}"
    return {
        "regression": f"{more} than {base} in {found}",
        "not comparable": f"cannot be compared with {base} in {found}",
        "inconclusive": f"may be {limit(threshold)} slower than {base}, or not: {found} undecided",
        "improvement": f"is more than {limit(threshold)} faster than {base} in {found}, slower in none",
        "pass": f"is not {limit(threshold)} slower than {base} in any of {of_all}",
    }[verdict]


def worse(slowdown: float | None, regressions: Sequence[Sequence[Change]]) -> str:
    """In what the head is worse: the slowdown, as a fraction, if there is one; else the counts of the first case."""
    if slowdown is not None:
        return f"is up to {slowdown:.1%} slower"
    return f"does more a step ({_listed(next(filter(None, regressions), ()), _NAMED_CHANGES)})"


def change_notes(changes: Sequence[Change], regressions: Sequence[Change]) -> Iterator[str]:
    """What a step does more and less, as far as it changed: a note each for what is, and is not, a regression."""
    allowed = [change for change in changes if change.worse and change not in regressions]
    less = [change for change in changes if not change.worse]
    for what, found in (("does more", regressions), ("does more, as allowed", allowed), ("does less", less)):
        if found:
            yield f"{what}: {_listed(found, _LISTED_CHANGES)}"


def _listed(found: Sequence[Change], at_most: int) -> str:
    more = len(found) - at_most
    return ", ".join(map(str, found[:at_most])) + (f" and {more} more" if more > 0 else "")


def doubts(endings: Sequence[Ending], config: StepConfig) -> Iterator[str]:
    """A note for each reason to doubt steps that left their process so."""
    for warning in warnings_of_endings(endings, config):
        yield f"{warning.kind}: {warning.message}; {warning.advice}"


def limit(threshold: float) -> str:
    """A threshold, given as a fraction."""
    return f"{threshold * 100:.3g}%"


def counted(number: int, thing: str) -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
