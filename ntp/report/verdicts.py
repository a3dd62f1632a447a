"""The words of a verdict, whether it is a guard's or a baseline's."""

from collections.abc import Iterator, Sequence

from ntp.case import StepConfig
from ntp.judge.counts import Change
from ntp.judge.statistics import Interval
from ntp.judge.verdict import Verdict
from ntp.judge.warnings import warnings_of_endings
from ntp.records.endings import Ending
from ntp.report.units import duration

_NAMED_CHANGES = 2
"""How many the answer names. The notes name more."""

_LISTED_CHANGES = 4


def predicate(verdict: Verdict, cases: Sequence[Verdict], base: str, threshold: float, more: str) -> str:
    """What a verdict says of the head: the rest of a sentence that begins with it.

    Args:
        verdict: the one on all cases.
        cases: the verdict on each case; there is at least one.
        base: what the head is compared with, in words.
        threshold: as a fraction.
        more: in what the head is worse, if it is.
    """
    of_all = counted(len(cases), "case")
    those = f"{sum(case == verdict for case in cases)} of {of_all}"
    return {
        "regression": f"{more} than {base} in {those}",
        "not comparable": f"cannot be compared with {base} in {those}",
        "inconclusive": f"may or may not be {limit(threshold)} slower than {base}: {those} could not be decided",
        "improvement": f"is more than {limit(threshold)} faster than {base} in {those}, slower in none",
        "pass": f"is not {limit(threshold)} slower than {base} in any of {of_all}",
    }[verdict]


def worse(slowdown: float | None, regressions: Sequence[Sequence[Change]]) -> str:
    """Say in what the head is worse: the slowdown, as a fraction, if there is one; else the first case's counts."""
    if slowdown is not None:
        return f"is up to {slowdown:.1%} slower"
    return f"does more in a step ({_listed(next(filter(None, regressions), ()), _NAMED_CHANGES)})"


def change_notes(changes: Sequence[Change], regressions: Sequence[Change]) -> Iterator[str]:
    """Note what a step does more often, or less, than before: what regressed, what is allowed, what is better."""
    allowed = [change for change in changes if change.worse and change not in regressions]
    less = [change for change in changes if not change.worse]
    for what, group in (("does more", regressions), ("does more, as allowed", allowed), ("does less", less)):
        if group:
            yield f"{what}: {_listed(group, _LISTED_CHANGES)}"


def _listed(some: Sequence[Change], at_most: int) -> str:
    more = len(some) - at_most
    return ", ".join(map(str, some[:at_most])) + (f" and {more} more" if more > 0 else "")


def doubts(endings: Sequence[Ending], config: StepConfig) -> Iterator[str]:
    """Note each reason to doubt steps that left their process in such a state."""
    for warning in warnings_of_endings(endings, config):
        yield f"{warning.kind}: {warning.message}; {warning.advice}"


def change(ratio: float, decimals: int) -> str:
    """By how much head over base differs from 1: ``+3.1%``."""
    return f"{ratio - 1:+z.{decimals}%}" if ratio < 10 else ">+900%"


def change_range(ratio: Interval, decimals: int) -> str:
    return f"{change(ratio.low, decimals)} to {change(ratio.high, decimals)}"


def limit(threshold: float) -> str:
    """Show a threshold, which is a fraction, as a percentage."""
    return f"{threshold * 100:.3g}%"


def counted(number: int, thing: str) -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def effort_of(pairs: int, wall_time_s: float) -> str:
    """What a verdict has taken: ``12 pairs of processes in 50.0 s``."""
    return f"{counted(pairs, 'pair')} of processes in {duration(wall_time_s * 1e9)}"
