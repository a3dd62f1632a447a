"""Run against run, case by case: ratios of medians. Shows; judges nothing."""

from typing import TYPE_CHECKING, NamedTuple

from ntp.case import Case
from ntp.judge.statistics import Interval, median_interval
from ntp.measure.records import Measurement, Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntp.measure.environment import Environment


class ComparedRow(NamedTuple):
    """One case in both runs."""

    case: Case
    base_ns: Interval
    head_ns: Interval
    ratio: Interval
    """Head over base, of the medians: above 1, the head is slower. Its limits are those of the two intervals, divided
    the unfavourable way: wider than need be for the steps of these two processes, and mute on all others."""


class Comparison(NamedTuple):
    """What two runs have in common, and in what they differ."""

    rows: tuple[ComparedRow, ...]
    only_base: tuple[str, ...]
    """Ids of cases that the head lacks."""
    only_head: tuple[str, ...]
    differences: tuple[str, ...]
    """Of machine and software, in words: times from different ones compare those, and not the code."""


def compare(base: Run, head: Run) -> Comparison:
    """Compare the cases that both runs hold, in the head's order. A case measured twice counts by its last time."""
    bases = {each.case: each for each in base.measurements}
    heads = {each.case: each for each in head.measurements}
    return Comparison(
        rows=tuple(_row(bases[case], measurement) for case, measurement in heads.items() if case in bases),
        only_base=tuple(case.id for case in bases if case not in heads),
        only_head=tuple(case.id for case in heads if case not in bases),
        differences=_differences(base, head),
    )


def _row(base: Measurement, head: Measurement) -> ComparedRow:
    base_ns, head_ns = (median_interval(each.samples_ns) for each in (base, head))
    ratio = Interval(head_ns.value / base_ns.value, head_ns.low / base_ns.high, head_ns.high / base_ns.low)
    return ComparedRow(head.case, base_ns, head_ns, ratio)


def _differences(base: Run, head: Run) -> tuple[str, ...]:
    prints: dict[str, Callable[[Environment], str]] = {
        "machine": lambda environment: environment.machine.fingerprint,
        "software": lambda environment: environment.software.fingerprint,
    }
    found = []
    for name, fingerprint in prints.items():
        sides = [sorted({fingerprint(each.environment) for each in run.measurements}) for run in (base, head)]
        if sides[0] != sides[1]:
            found.append(f"{name}: {' and '.join(sides[0]) or 'none'} against {' and '.join(sides[1]) or 'none'}")
    return tuple(found)
