"""How the tables say things: shares, times, and what there is none of."""

from spread import clopper_pearson

from ntp.judge.statistics import Interval
from ntp.report.units import UNKNOWN, duration

NOT_RECORDED = "not recorded"

CONDITION = {"quiet": "nothing else running", "neighbour": "a busy process beside it"}
"""What each of :data:`recordings.CONDITIONS` is."""

Row = tuple[str, ...]


def share(letters: str, wanted: str) -> Interval:
    """Of those letters, in its interval."""
    return clopper_pearson(letters.count(wanted), len(letters))


def shares(letters: str, wanted: str, bounds: bool = True) -> str:
    """A share in words, with its interval unless that would mislead."""
    if not letters:
        return UNKNOWN
    value, low, high = share(letters, wanted)
    return f"{value:.1%} ({low:.1%} to {high:.1%})" if bounds else f"{value:.1%}"


def seconds(value: float) -> str:
    """A duration."""
    return duration(value * 1e9)


def missing(label: str, columns: int) -> Row:
    """The row of what was not recorded."""
    return (label, NOT_RECORDED, *[UNKNOWN] * (columns - 2))
