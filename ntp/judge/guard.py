"""From what a guard recorded to its verdict: counts and times of every case, and what to measure next."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ntp.judge.counts import Change, changes, regressions
from ntp.judge.statistics import quantile
from ntp.judge.verdict import CasePairs, CaseVerdict, Finding, SuiteVerdict, Verdict, gravest, judge
from ntp.records.guard import GuardedCase, GuardRecord, Metric, Pair, Plan


def _of_sides(summary: Callable[[Sequence[float]], float]) -> Callable[[Pair], float]:
    """Sum up all step times of each process, and take the log-ratio of the two."""
    return lambda pair: math.log(summary(pair.samples("head")) / summary(pair.samples("base")))


def _of_rounds(pair: Pair) -> float:
    """The median of the log-ratios of rounds: what disturbs the machine for longer than a round disturbs both sides."""
    return float(np.median([math.log(np.median(head) / np.median(base)) for base, head in pair.rounds]))


METRICS: dict[str, Callable[[Pair], float]] = {
    "rounds": _of_rounds,
    "min": _of_sides(lambda samples: float(np.min(samples))),
    "q10": _of_sides(lambda samples: quantile(samples, 0.10)),
    "q25": _of_sides(lambda samples: quantile(samples, 0.25)),
    "median": _of_sides(lambda samples: quantile(samples, 0.50)),
    "trimmed mean": _of_sides(lambda samples: float(np.mean(np.sort(samples)[: math.ceil(0.8 * len(samples))]))),
    "mean": _of_sides(lambda samples: float(np.mean(samples))),
    "p95": _of_sides(lambda samples: quantile(samples, 0.95)),
}
"""What a pair can be summed up by: log(head / base). The trimmed mean leaves out the slowest fifth."""

TYPICAL, TAIL = "rounds", "mean"
"""The metrics of a guard. The first is the least noisy, and blind to what slows less than half of the steps;
the mean sees that, and every disturbance, too."""

TAIL_THRESHOLD = 5.0
"""The tail's threshold, in thresholds of the typical step."""

_PAIR_S = 5.0
"""About what a pair costs, where steps are much shorter than that."""


class CaseJudgement(NamedTuple):
    """One case: its times, and its counts."""

    times: CaseVerdict
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
        return self.times.case_id

    @property
    def verdict(self) -> Verdict:
        """The graver of what the counts and the times say."""
        return "regression" if self.regressions else self.times.verdict

    @property
    def typical(self) -> Finding | None:
        """What was found of the typical step. None where the sides are not comparable."""
        return self.times.findings[0] if self.times.findings else None


class GuardVerdict(NamedTuple):
    """All cases of a guard."""

    verdict: Verdict
    cases: tuple[CaseJudgement, ...]
    next_case: str | None
    """The case that needs another pair; None when nothing that the plan allows is left to be found out."""

    @property
    def failures(self) -> tuple[str, ...]:
        """What the head, or a pair, failed of."""
        return tuple(judged.failure for judged in self.cases if judged.failure)


def plan_of(case_ids: Sequence[str], threshold: float, budget_s: float) -> Plan:
    """The plan of a guard that may take so many seconds.

    The last look is at nearly twice the pairs that the budget holds for each case, since those that are decided early
    leave theirs to the others.
    """
    fair_share = budget_s / (_PAIR_S * len(case_ids))
    smallest: int = Plan.model_fields["min_pairs"].default
    return Plan(
        cases=tuple(case_ids),
        metrics=(
            Metric(name=TYPICAL, threshold=threshold),
            Metric(name=TAIL, threshold=min(0.99, TAIL_THRESHOLD * threshold)),
        ),
        max_pairs=min(100, max(2 * smallest, round(1.75 * fair_share))),
    )


def log_ratios(pair: Pair, metrics: Sequence[Metric]) -> tuple[float, ...]:
    """log(head / base) of each metric of a pair."""
    return tuple(METRICS[each.name](pair) for each in metrics)


def verdict_on(record: GuardRecord) -> GuardVerdict:
    """The verdict on what a guard has recorded so far. A function of the record alone, so a file gives it again."""
    differing = _differing_software(record)
    suite = judge(record.plan, [_known(guarded, record.plan, differing) for guarded in record.cases])
    times = {each.case_id: each for each in suite.cases}
    cases = tuple(_judgement(guarded, times[guarded.case_id], record.allowed) for guarded in record.cases)
    return GuardVerdict(gravest([judged.verdict for judged in cases]), cases, _next_case(record, suite))


def _known(guarded: GuardedCase, plan: Plan, differing: str) -> CasePairs:
    reason = differing or guarded.foreign or guarded.base_failure or guarded.failure
    pairs = tuple(log_ratios(pair, plan.metrics) for pair in guarded.pairs)
    return CasePairs(case_id=guarded.case_id, pairs=pairs, not_comparable=reason)


def _differing_software(record: GuardRecord) -> str:
    if record.base.brings_ntp != record.head.brings_ntp:
        with_it, without = ("base", "head") if record.base.brings_ntp else ("head", "base")
        return f"the {with_it} has an ntp of its own, the {without} none: it would run the one that is installed"
    base, head = record.base.software, record.head.software
    if base is None or head is None or base.fingerprint == head.fingerprint:
        return ""
    return f"the sides run on different software: {base.fingerprint} against {head.fingerprint}"


def _judgement(guarded: GuardedCase, times: CaseVerdict, allowed: Sequence[str]) -> CaseJudgement:
    found = changes(guarded.base, guarded.head) if guarded.base and guarded.head else ()
    return CaseJudgement(times, found, regressions(found, allowed), guarded.failure, guarded.wall_time_s)


def _next_case(record: GuardRecord, suite: SuiteVerdict) -> str | None:
    """Nothing more once a case has failed: no pair of the others could make the guard succeed."""
    if any(guarded.failure for guarded in record.cases):
        return None
    return suite.next_case


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
                "case": judged.case_id,
                "verdict": judged.verdict,
                "pairs": judged.times.pairs,
                "changes": [str(change) for change in judged.changes],
                "regressions": [change.name for change in judged.regressions],
                "not_comparable": judged.times.not_comparable,
                "metrics": [_finding(found) for found in judged.times.findings],
            }
            for judged in verdict.cases
        ],
    }


def _finding(found: Finding) -> dict[str, object]:
    return {
        "metric": found.metric.name,
        "threshold": found.metric.threshold,
        "verdict": found.verdict,
        "ratio": found.ratio and found.ratio.value,
        "interval": found.deciding and [found.deciding.low, found.deciding.high],
        "confidence": found.confidence,
        "smallest_detectable_ratio": found.smallest_detectable,
        "more_pairs": found.more_pairs,
    }
