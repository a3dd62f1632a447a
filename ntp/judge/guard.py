"""The verdict on what a guard recorded: counts and times of every case, and which case to measure next."""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from ntp.judge.counts import Change, changes, regressions
from ntp.judge.statistics import quantile
from ntp.judge.verdict import CasePairs, CaseVerdict, Finding, SuiteVerdict, Verdict, gravest, judge
from ntp.records.guard import GuardedCase, GuardRecord, Metric, Pair, Plan


def _of_sides(summary: Callable[[Sequence[float]], float]) -> Callable[[Pair], float]:
    """Make a metric that sums up all step times of each process, and takes the log-ratio of the two."""
    return lambda pair: math.log(summary(pair.samples("head")) / summary(pair.samples("base")))


def _of_rounds(pair: Pair) -> float:
    """Take the median of the log-ratios of rounds: what lasts longer than a round disturbs both sides."""
    return median(math.log(median(head) / median(base)) for base, head in pair.rounds)  # numpy is slow on a few values


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
"""The ways to sum up a pair as log(head / base). The trimmed mean leaves out the slowest fifth of the steps."""

TYPICAL, TAIL = "rounds", "mean"
"""The metrics of a guard. The first is the least noisy, and blind to what slows less than half of the steps;
the mean detects that, and every disturbance, too."""

TAIL_THRESHOLD = 5.0
"""The tail's threshold is this many times that of the typical step."""

_PAIR_S = 5.0
"""A pair takes about this long, where steps are much shorter than that."""


class CaseJudgement(NamedTuple):
    """What times and counts say about a case."""

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
        return self.times.case_id

    @property
    def verdict(self) -> Verdict:
        """The graver of what the counts and the times say."""
        return "regression" if self.regressions else self.times.verdict

    @property
    def typical(self) -> Finding | None:
        """The finding on the typical step. None where the sides are not comparable."""
        return self.times.findings[0] if self.times.findings else None


class GuardVerdict(NamedTuple):
    """The verdict on all cases of a guard."""

    verdict: Verdict
    cases: tuple[CaseJudgement, ...]
    next_case: str | None
    """The case that needs another pair. None when the plan allows no pair that could change anything."""

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the head, or a pair, failed."""
        return tuple(case.failure for case in self.cases if case.failure)


def plan_of(case_ids: Sequence[str], threshold: float, budget_s: float) -> Plan:
    """Make the plan of a guard with this budget.

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
    """Return log(head / base) of each metric of a pair."""
    return tuple(METRICS[metric.name](pair) for metric in metrics)


def verdict_on(record: GuardRecord) -> GuardVerdict:
    """Judge what a guard has recorded so far. The record alone decides, so a file gives the same verdict again."""
    differing = _differing_software(record)
    suite = judge(record.plan, [_pairs_of(case, record.plan, differing) for case in record.cases])
    times = {case.case_id: case for case in suite.cases}
    cases = tuple(_judgement(case, times[case.case_id], record.allowed) for case in record.cases)
    return GuardVerdict(gravest([case.verdict for case in cases]), cases, _next_case(record, suite))


def _pairs_of(case: GuardedCase, plan: Plan, differing: str) -> CasePairs:
    reason = differing or case.foreign or case.base_failure or case.failure
    pairs = tuple(log_ratios(pair, plan.metrics) for pair in case.pairs)
    return CasePairs(case_id=case.case_id, pairs=pairs, not_comparable=reason)


def _differing_software(record: GuardRecord) -> str:
    if record.base.brings_ntp != record.head.brings_ntp:
        with_it, without = ("base", "head") if record.base.brings_ntp else ("head", "base")
        return f"the {with_it} has an ntp of its own, the {without} none: it would run the one that is installed"
    base, head = record.base.software, record.head.software
    if base is None or head is None or base.fingerprint == head.fingerprint:
        return ""
    return f"the sides run on different software: {base.fingerprint} against {head.fingerprint}"


def _judgement(case: GuardedCase, times: CaseVerdict, allowed: Sequence[str]) -> CaseJudgement:
    differing = changes(case.base, case.head) if case.base and case.head else ()
    return CaseJudgement(times, differing, regressions(differing, allowed), case.failure, case.wall_time_s)


def _next_case(record: GuardRecord, suite: SuiteVerdict) -> str | None:
    # Once a case has failed, no pair of the others could make the guard succeed.
    return None if any(case.failure for case in record.cases) else suite.next_case


def changed_but_not_loaded(record: GuardRecord) -> tuple[str, ...]:
    """Return the Python files in which the sides differ, if neither imported any: then none of them was judged."""
    loaded = (record.base.loaded, record.head.loaded)
    if None in loaded or {*record.changed} & {file for files in loaded for file in files or ()}:
        return ()
    return record.changed


def summary(verdict: GuardVerdict) -> dict[str, object]:
    """Return the verdict as plain values, for machines to read. Ratios are head over base."""
    return {
        "verdict": verdict.verdict,
        "failures": list(verdict.failures),
        "cases": [
            {
                "case": case.case_id,
                "verdict": case.verdict,
                "pairs": case.times.pairs,
                "changes": [str(change) for change in case.changes],
                "regressions": [change.name for change in case.regressions],
                "not_comparable": case.times.not_comparable,
                "metrics": [_plain(finding) for finding in case.times.findings],
            }
            for case in verdict.cases
        ],
    }


def _plain(finding: Finding) -> dict[str, object]:
    return {
        "metric": finding.metric.name,
        "threshold": finding.metric.threshold,
        "verdict": finding.verdict,
        "ratio": finding.ratio and finding.ratio.value,
        "interval": finding.deciding and [finding.deciding.low, finding.deciding.high],
        "confidence": finding.confidence,
        "smallest_detectable_ratio": finding.smallest_detectable,
        "more_pairs": finding.more_pairs,
    }
