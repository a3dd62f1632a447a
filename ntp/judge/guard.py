"""The verdict on what a guard recorded: counts and times of every case, and which case to measure next."""

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, median
from typing import NamedTuple

import numpy as np

from ntp.case import Case
from ntp.judge.counts import Change, changes, regressions
from ntp.judge.statistics import quantile
from ntp.judge.verdict import CasePairs, CaseVerdict, Finding, Verdict, gravest, judge
from ntp.records.guard import GuardedCase, GuardRecord, Instructions, Metric, Plan
from ntp.records.pairs import Block, Clock, Pair


def _of_sides(summary: Callable[[Sequence[float]], float]) -> Callable[[Pair], float]:
    """Make a metric that sums up all step times of each process, and takes the log-ratio of the two."""
    return lambda pair: math.log(summary(pair.samples("head")) / summary(pair.samples("base")))


def log_ratios_of_rounds(pair: Pair, clock: Clock = "wall") -> list[float]:
    """Return log(head / base) of each round, of the medians of its blocks: what lasts longer disturbs both sides.

    Sides that ran at once on two CPUs had swapped them in every second round: the mean of two rounds leaves out what
    differs between the CPUs.
    """
    return _of_both_cpus(pair, [_log_ratio(both, clock) for both in pair.rounds_on(clock)])


def _log_ratio(both: tuple[Block, Block], clock: Clock) -> float:
    base, head = (median(block.times_ns(clock)) for block in both)  # numpy is slow on a few values
    return math.log(head / base)


def _of_both_cpus(pair: Pair, rounds: list[float]) -> list[float]:
    return [fmean(swapped) for swapped in zip(rounds[::2], rounds[1::2], strict=True)] if pair.together else rounds


def _trimmed(ratios: Iterable[float]) -> float:
    ordered = sorted(ratios)
    cut = int(TRIMMED * len(ordered))
    return fmean(ordered[cut : len(ordered) - cut])


def _cpu(pair: Pair) -> float:
    return _trimmed(log_ratios_of_rounds(pair, "cpu"))


def _wall(pair: Pair) -> float:
    """Take the log-ratio of the time of a step.

    Where sides shared their CPUs, it is that of the CPU time, and what waiting adds to it in the rounds in which they
    took turns: what slows both clocks alike from one turn to the next is not in it.
    """
    if not pair.has_shared_rounds:
        return _trimmed(log_ratios_of_rounds(pair))
    waiting = (_log_ratio(both, "wall") - _log_ratio(both, "cpu") for both in pair.rounds_on("wall"))
    return _cpu(pair) + _trimmed(waiting)


def _mean(pair: Pair) -> float:
    """Take the log-ratio of the means of all steps: of their times, or put together as that of a step is."""

    def total(clock: Clock, rounds: Sequence[tuple[Block, Block]], side: int) -> float:
        return math.fsum(fmean(both[side].times_ns(clock)) for both in rounds)

    def change(clock: Clock, rounds: Sequence[tuple[Block, Block]]) -> float:
        return math.log(total(clock, rounds, 1) / total(clock, rounds, 0))

    in_turn = pair.rounds_on("wall")
    if not pair.has_shared_rounds:
        return change("wall", in_turn)
    return change("cpu", pair.rounds_on("cpu")) + change("wall", in_turn) - change("cpu", in_turn)


TRIMMED = 0.2
"""The share of the rounds that the trimmed mean leaves out at either end."""

CPU, WALL, MEAN = "cpu", "wall", "mean"
"""The metrics of a guard: the CPU time of a step's main thread, the time of a step, and the mean of all steps."""

METRICS: dict[str, Callable[[Pair], float]] = {
    CPU: _cpu,
    WALL: _wall,
    "rounds": lambda pair: median(log_ratios_of_rounds(pair)),
    "min": _of_sides(lambda samples: float(np.min(samples))),
    "q10": _of_sides(lambda samples: quantile(samples, 0.10)),
    "q25": _of_sides(lambda samples: quantile(samples, 0.25)),
    "median": _of_sides(lambda samples: quantile(samples, 0.50)),
    "trimmed mean": _of_sides(lambda samples: float(np.mean(np.sort(samples)[: math.ceil(0.8 * len(samples))]))),
    MEAN: _mean,
    "p95": _of_sides(lambda samples: quantile(samples, 0.95)),
}
"""The ways to sum up a pair as log(head / base). "trimmed mean" leaves out the slowest fifth of the steps."""

WALL_THRESHOLD, MEAN_THRESHOLD = 3.0, 5.0
"""The thresholds of the time of a step and of the mean are this many times that of the CPU time, which is the steadiest
of the three, but blind to waiting. One thread never waits for another: its time has the threshold of its CPU time. The
trimmed means are blind to what slows only some steps; the mean detects that, and every disturbance, too. Where a plan
has a threshold of its own for the time of a step, that of the mean, and that on one thread, keep their proportion."""

_PAIR_S = 4.0
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
    def first(self) -> Finding | None:
        """The finding on the metric with the smallest threshold. None where the sides are not comparable."""
        return self.times.findings[0] if self.times.findings else None

    def finding(self, metric: str) -> Finding | None:
        """The finding on a metric. None where it is not guarded, or the sides are not comparable."""
        return next((finding for finding in self.times.findings if finding.metric.name == metric), None)


INSTRUCTIONS = "instructions"
"""The name under which more instructions may be allowed."""

MAX_MORE_INSTRUCTIONS = 0.001
"""The count of unchanged code repeats to 0.0003."""


class InstructionsJudgement(NamedTuple):
    """What the instructions of a small step say."""

    counted: Instructions
    verdict: Verdict
    """A regression if there are more than chance explains and nobody has allowed it; a pass otherwise."""

    @property
    def ratio(self) -> float:
        """Head over base."""
        return self.counted.head / self.counted.base


class GuardVerdict(NamedTuple):
    """The verdict on all cases of a guard."""

    verdict: Verdict
    cases: tuple[CaseJudgement, ...]
    instructions: tuple[InstructionsJudgement, ...]
    next_case: str | None
    """The case that needs another pair. None when the plan allows no pair that could change anything."""
    failures: tuple[str, ...]
    """Why the head, a pair, or the count of instructions failed."""


def plan_of(case_ids: Sequence[str], threshold: float, budget_s: float, wall_threshold: float | None = None) -> Plan:
    """Make the plan of a guard with this budget.

    ``threshold`` is that of the CPU time, ``wall_threshold`` that of a step's time on several threads: by default, a
    multiple of the other.

    The last look is at nearly twice the pairs that the budget holds for each case, since those that are decided early
    leave theirs to the others.
    """
    fair_share = budget_s / (_PAIR_S * len(case_ids))
    smallest: int = Plan.model_fields["min_pairs"].default
    waiting = threshold if wall_threshold is None else wall_threshold / WALL_THRESHOLD
    metrics = _metrics(threshold, waiting, threads=2)
    own = {case_id: _own_metrics(Case.parse(case_id), threshold, waiting) for case_id in case_ids}
    return Plan(
        cases=tuple(case_ids),
        metrics=metrics,
        own_metrics={case_id: of_case for case_id, of_case in own.items() if of_case != metrics},
        max_pairs=min(100, max(2 * smallest, round(1.75 * fair_share))),
    )


def _metrics(threshold: float, waiting: float, threads: int) -> tuple[Metric, ...]:
    """Return the metrics of a step on this many threads. What waiting adds is held to multiples of ``waiting``."""
    wall = waiting if threads == 1 else WALL_THRESHOLD * waiting
    limits = ((CPU, threshold), (WALL, wall), (MEAN, MEAN_THRESHOLD * waiting))
    return tuple(Metric(name=name, threshold=min(0.99, limit)) for name, limit in limits)


def _own_metrics(case: Case, threshold: float, waiting: float) -> tuple[Metric, ...]:
    """Return the metrics of a case. The CPU time of a part of a step is not measured."""
    metrics = _metrics(threshold, waiting, case.runtime.threads)
    return metrics if case.workload.part == "step" else metrics[1:]


def log_ratios(pair: Pair, metrics: Sequence[Metric]) -> tuple[float, ...]:
    """Return log(head / base) of each metric of a pair."""
    return tuple(METRICS[metric.name](pair) for metric in metrics)


def verdict_on(record: GuardRecord) -> GuardVerdict:
    """Judge what a guard has recorded so far. The record alone decides, so a file gives the same verdict again."""
    differing = _differing_software(record)
    suite = judge(record.plan, [_pairs_of(case, record.plan, differing) for case in record.cases])
    times = {case.case_id: case for case in suite.cases}
    cases = tuple(_judgement(case, times[case.case_id], record.allowed) for case in record.cases)
    instructions = tuple(_judged_instructions(counted, record.allowed) for counted in record.instructions)
    verdicts = [*(case.verdict for case in cases), *(judged.verdict for judged in instructions)]
    failures = tuple(filter(None, (*(case.failure for case in cases), record.instructions_failure)))
    # Once anything has failed, no pair could make the guard succeed.
    next_case = None if failures else suite.next_case
    return GuardVerdict(gravest(verdicts), cases, instructions, next_case, failures)


def _judged_instructions(counted: Instructions, allowed: Sequence[str]) -> InstructionsJudgement:
    change = Change(INSTRUCTIONS, counted.base, counted.head)
    is_more = counted.head > (1 + MAX_MORE_INSTRUCTIONS) * counted.base and regressions((change,), allowed)
    return InstructionsJudgement(counted, "regression" if is_more else "pass")


def _pairs_of(case: GuardedCase, plan: Plan, differing: str) -> CasePairs:
    reason = differing or case.foreign or case.base_failure or case.failure
    pairs = tuple(log_ratios(pair, plan.metrics_of(case.case_id)) for pair in case.pairs)
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
        "instructions": [
            {"case": judged.counted.case_id, "verdict": judged.verdict, "ratio": judged.ratio}
            for judged in verdict.instructions
        ],
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
