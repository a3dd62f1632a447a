"""From what a guard recorded to its verdict: counts and times of every cell, and what to measure next."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ntp.judge.counts import Change, changes, regressions
from ntp.judge.statistics import quantile
from ntp.judge.verdict import CellPairs, CellVerdict, Finding, SuiteVerdict, Verdict, gravest, judge
from ntp.records.guard import Cell, Guarded, GuardRecord, Pair, Plan


def _of_sides(summary: Callable[[Sequence[float]], float]) -> Callable[[Pair], float]:
    """Sum up all step times of each process, and take the log-ratio of the two."""
    return lambda pair: math.log(summary(pair.samples("head")) / summary(pair.samples("base")))


def _of_turns(pair: Pair) -> float:
    """The median of the log-ratios of turns: what disturbs the machine for longer than a turn, disturbs both sides."""
    return float(np.median([math.log(np.median(head) / np.median(base)) for base, head in pair.turns]))


STATISTICS: dict[str, Callable[[Pair], float]] = {
    "turns": _of_turns,
    "min": _of_sides(lambda samples: float(np.min(samples))),
    "q10": _of_sides(lambda samples: quantile(samples, 0.10)),
    "q25": _of_sides(lambda samples: quantile(samples, 0.25)),
    "median": _of_sides(lambda samples: quantile(samples, 0.50)),
    "trimmed mean": _of_sides(lambda samples: float(np.mean(np.sort(samples)[: math.ceil(0.8 * len(samples))]))),
    "mean": _of_sides(lambda samples: float(np.mean(samples))),
    "p95": _of_sides(lambda samples: quantile(samples, 0.95)),
}
"""What a pair can be summed up by: log(head / base). The trimmed mean leaves out the slowest fifth."""

TYPICAL, TAIL = "turns", "mean"
"""The statistics that are guarded. The first is the least noisy, and blind to what slows less than half of the steps;
the mean sees that, and every disturbance, too."""

TAIL_THRESHOLD = 5.0
"""The tail's threshold, in thresholds of the typical step."""

_PAIR_S = 5.0
"""About what a pair costs, where steps are much shorter than that."""


class CellJudgement(NamedTuple):
    """One cell: its times, and its counts."""

    times: CellVerdict
    changes: tuple[Change, ...]
    """All counts that differ."""
    regressions: tuple[Change, ...]
    """Those for the worse that nobody has allowed."""
    failure: str
    """Why the head could not run it to the end."""
    wall_time_s: float

    @property
    def case_id(self) -> str:
        """The case."""
        return self.times.cell

    @property
    def verdict(self) -> Verdict:
        """The graver of what the counts and the times say."""
        return "regression" if self.regressions else self.times.verdict

    @property
    def typical(self) -> Finding | None:
        """What was found of the typical step. None where the sides are not comparable."""
        return self.times.findings[0] if self.times.findings else None


class GuardVerdict(NamedTuple):
    """All cells of a guard."""

    verdict: Verdict
    cells: tuple[CellJudgement, ...]
    next_case: str | None
    """The case that needs another pair; None when nothing that the plan allows is left to be found out."""

    @property
    def failures(self) -> tuple[str, ...]:
        """What the head, or a pair, failed of."""
        return tuple(cell.failure for cell in self.cells if cell.failure)


def plan_of(cells: Sequence[str], threshold: float, budget_s: float) -> Plan:
    """The plan of a guard that may take so many seconds.

    The last look is at nearly twice the pairs that the budget holds for each cell, since those that are decided early
    leave theirs to the others.
    """
    fair_share = budget_s / (_PAIR_S * len(cells))
    smallest: int = Plan.model_fields["min_pairs"].default
    return Plan(
        cells=tuple(cells),
        guarded=(
            Guarded(statistic=TYPICAL, threshold=threshold),
            Guarded(statistic=TAIL, threshold=min(0.99, TAIL_THRESHOLD * threshold)),
        ),
        max_pairs=min(100, max(2 * smallest, round(1.75 * fair_share))),
    )


def log_ratios(pair: Pair, guarded: Sequence[Guarded]) -> tuple[float, ...]:
    """log(head / base) of each guarded statistic of a pair."""
    return tuple(STATISTICS[each.statistic](pair) for each in guarded)


def verdict_on(record: GuardRecord) -> GuardVerdict:
    """The verdict on what a guard has recorded so far. A function of the record alone, so a file gives it again."""
    differing = _differing_software(record)
    suite = judge(record.plan, [_known(cell, record.plan, differing) for cell in record.cells])
    times = {each.cell: each for each in suite.cells}
    cells = tuple(_judgement(cell, times[cell.case_id], record.allowed) for cell in record.cells)
    return GuardVerdict(gravest([cell.verdict for cell in cells]), cells, _next_case(record, suite))


def _known(cell: Cell, plan: Plan, differing: str) -> CellPairs:
    reason = differing or cell.foreign or cell.base_failure or cell.failure
    pairs = tuple(log_ratios(pair, plan.guarded) for pair in cell.pairs)
    return CellPairs(cell=cell.case_id, pairs=pairs, not_comparable=reason)


def _differing_software(record: GuardRecord) -> str:
    if record.base.brings_ntp != record.head.brings_ntp:
        with_it, without = ("base", "head") if record.base.brings_ntp else ("head", "base")
        return f"the {with_it} has an ntp of its own, the {without} none: it would run the one that is installed"
    base, head = record.base.software, record.head.software
    if base is None or head is None or base.fingerprint == head.fingerprint:
        return ""
    return f"the sides run on different software: {base.fingerprint} against {head.fingerprint}"


def _judgement(cell: Cell, times: CellVerdict, allowed: Sequence[str]) -> CellJudgement:
    found = changes(cell.base, cell.head) if cell.base and cell.head else ()
    return CellJudgement(times, found, regressions(found, allowed), cell.failure, cell.wall_time_s)


def _next_case(record: GuardRecord, suite: SuiteVerdict) -> str | None:
    """Nothing more once a case has failed: no pair of the others could make the guard succeed."""
    if any(cell.failure for cell in record.cells):
        return None
    return suite.next_cell


def changed_but_not_loaded(record: GuardRecord) -> tuple[str, ...]:
    """The Python files in which the sides differ, if neither has imported any of them: the verdict is not on them."""
    loaded = (record.base.loaded, record.head.loaded)
    if None in loaded or {*record.changed} & {file for files in loaded for file in files or ()}:
        return ()
    return record.changed


def summary(verdict: GuardVerdict) -> dict[str, object]:
    """The verdict as plain values, for machines to read. Ratios are head over base."""
    return {
        "verdict": verdict.verdict,
        "failures": list(verdict.failures),
        "cases": [
            {
                "case": cell.case_id,
                "verdict": cell.verdict,
                "pairs": cell.times.pairs,
                "changes": [str(change) for change in cell.changes],
                "regressions": [change.name for change in cell.regressions],
                "not_comparable": cell.times.not_comparable,
                "statistics": [_finding(found) for found in cell.times.findings],
            }
            for cell in verdict.cells
        ],
    }


def _finding(found: Finding) -> dict[str, object]:
    return {
        "statistic": found.guarded.statistic,
        "threshold": found.guarded.threshold,
        "verdict": found.verdict,
        "ratio": found.ratio and found.ratio.value,
        "interval": found.deciding and [found.deciding.low, found.deciding.high],
        "confidence": found.confidence,
        "smallest_detectable_ratio": found.smallest_detectable,
        "more_pairs": found.more_pairs,
    }
