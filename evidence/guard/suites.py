"""Whole guards, made of recorded pairs and judged by the code that judges real ones.

A *suite* is one run of ``ntp guard``: its pairs are drawn from a pool with replacement, for each cell from its own, and
:func:`ntp.judge.verdict.judge` says after each pair which cell needs the next one, until it wants no more or the budget
is spent. Every pair takes the time that the pairs of its cell took when they were recorded.

What is drawn depends on the name of the pool and on the number of the suite alone: the first suites of a thousand are
the same as the first of twenty.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from recordings import CASES, Pool

from ntp.judge.guard import METRICS, log_ratios, plan_of
from ntp.judge.statistics import Interval
from ntp.judge.verdict import CasePairs, SuiteVerdict, Verdict, judge
from ntp.records.guard import Metric, Pair, Plan

THRESHOLD, BUDGET_S = 0.01, 300.0
"""What ``ntp guard`` takes where it is not told otherwise."""

COUNTING_S = 3.0
"""What it costs, about, to count what a step does, in seconds a cell. A guard starts with that."""

LETTERS: dict[Verdict, str] = {
    "pass": "p",
    "regression": "r",
    "improvement": "i",
    "inconclusive": "u",
    "not comparable": "n",
}

LogRatios = Mapping[str, Sequence[tuple[float, ...]]]
"""By cell, for each pair the log-ratio of each guarded statistic."""

Summary = Callable[[Pair], float]
"""From a pair to its log-ratio, log(head / base)."""


class Outcome(NamedTuple):
    """How a suite ended."""

    verdict: Verdict
    pairs: int
    elapsed_s: float
    ratios: tuple[Interval | None, ...]
    """Of each cell, the ratio of the typical step in its plain 95% interval."""


@cache
def summed_up(pool: Pool, summary: Summary) -> dict[str, tuple[float, ...]]:
    """The log-ratios of all pairs of a pool, by cell."""
    return {cell: tuple(map(summary, pairs)) for cell, pairs in pool.pairs.items()}


def usual_plan() -> Plan:
    """The plan of ``ntp guard`` where it is not told otherwise."""
    return plan_of(CASES, THRESHOLD, BUDGET_S)


def guarded_log_ratios(pool: Pool, plan: Plan) -> LogRatios:
    """What a guard with this plan would see of a pool's pairs."""
    by_statistic = [summed_up(pool, METRICS[each.name]) for each in plan.metrics]
    return {cell: list(zip(*(each[cell] for each in by_statistic), strict=True)) for cell in pool.pairs}


def resampled(ratios: LogRatios, plan: Plan, name: str, number: int) -> LogRatios:
    """The pairs of one suite, as many as it may need."""
    draw = random.Random(f"{name} {number}")
    return {cell: draw.choices(ratios[cell], k=plan.max_pairs) for cell in plan.cases}


def consecutive(ratios: LogRatios, plan: Plan, start: int) -> LogRatios:
    """The pairs of one suite in the order in which they were taken, from there on; after the last comes the first."""
    return {cell: [ratios[cell][(start + i) % len(ratios[cell])] for i in range(plan.max_pairs)] for cell in plan.cases}


def run(plan: Plan, ratios: LogRatios, pair_s: Mapping[str, float], budget_s: float = BUDGET_S) -> Outcome:
    """The loop of :func:`ntp.runners.guard.guard`, with pairs that are known beforehand."""
    taken = dict.fromkeys(plan.cases, 0)
    elapsed_s, longest_s = COUNTING_S * len(plan.cases), 0.0
    suite = None
    while True:
        cell, suite = _next_cell(plan, ratios, taken)
        if cell is None or elapsed_s + longest_s > budget_s:
            break
        taken[cell] += 1
        elapsed_s += pair_s[cell]
        longest_s = max(longest_s, pair_s[cell])
    suite = suite or _judged(plan, ratios, taken)
    typical = tuple(each.findings[0].ratio for each in suite.cases)
    return Outcome(suite.verdict, sum(taken.values()), elapsed_s, typical)


def _next_cell(plan: Plan, ratios: LogRatios, taken: Mapping[str, int]) -> tuple[str | None, SuiteVerdict | None]:
    fewest = min(plan.cases, key=lambda cell: taken[cell])
    if taken[fewest] < plan.min_pairs:
        return fewest, None  # as it is judged, too: nothing is decided before the first look, and this cell is behind
    suite = _judged(plan, ratios, taken)
    return suite.next_case, suite


def _judged(plan: Plan, ratios: LogRatios, taken: Mapping[str, int]) -> SuiteVerdict:
    return judge(plan, [CasePairs(case_id=cell, pairs=tuple(ratios[cell][: taken[cell]])) for cell in plan.cases])


def drawn(pool: Pool, suites: int) -> dict[str, Any]:
    """So many suites of a pool, and how they ended: what the tables need of it."""
    plan = usual_plan()
    ratios = guarded_log_ratios(pool, plan)
    return _ends([run(plan, resampled(ratios, plan, pool.name, i), pool.pair_s) for i in range(suites)], ratios)


def drawn_in_order(pool: Pool, suites: int) -> dict[str, Any]:
    """A suite from each pair of a pool on, without chance: what was near in time stays so."""
    plan = usual_plan()
    ratios = guarded_log_ratios(pool, plan)
    starts = range(min(suites, pool.rounds))
    return _ends([run(plan, consecutive(ratios, plan, start), pool.pair_s) for start in starts], ratios)


def drawn_normal(pool: Pool, suites: int, again: bool) -> dict[str, str]:
    """Simulated suites, for comparison: normal pairs, with the means and standard deviations of a pool's cells.

    By cell, for each suite whether the plain interval of the typical step holds the mean that its pairs come from.
    ``again``: they are drawn with replacement from as many as the pool has, as those of recorded suites are; else each
    is new.
    """
    plan = usual_plan()
    ratios = guarded_log_ratios(pool, plan)
    held: dict[str, str] = dict.fromkeys(plan.cases, "")
    for number in range(suites):
        seed = random.Random(f"normal {pool.name} {again} {number}").getrandbits(64)
        pairs, truths = _normal(ratios, plan, np.random.default_rng(seed), again)
        outcome = run(plan, pairs, pool.pair_s)
        for i, (cell, truth) in enumerate(truths.items()):
            held[cell] += _digit(outcome.ratios[i], truth)
    return held


def _normal(
    ratios: LogRatios, plan: Plan, chance: np.random.Generator, again: bool
) -> tuple[LogRatios, dict[str, float]]:
    """The pairs of one such suite, and the ratios of the typical step that they come from."""
    pairs, truths = {}, {}
    for cell in plan.cases:
        recorded = np.array(ratios[cell])
        mean, sd = recorded.mean(axis=0), recorded.std(axis=0, ddof=1)
        new = chance.normal(mean, sd, (len(recorded) if again else plan.max_pairs, len(mean)))
        if again:
            mean = new.mean(axis=0)
            new = new[chance.integers(0, len(new), plan.max_pairs)]
        pairs[cell] = [tuple(map(float, pair)) for pair in new]
        truths[cell] = math.exp(float(mean[0]))
    return pairs, truths


def drawn_by_statistic(pool: Pool, summaries: Mapping[str, Summary], suites: int) -> dict[str, str]:
    """How suites end that guard one statistic alone, by statistic."""
    ends = {}
    for name, summary in summaries.items():
        plan = usual_plan().model_copy(update={"metrics": (Metric(name=name, threshold=THRESHOLD),)})
        ratios = {cell: [(value,) for value in values] for cell, values in summed_up(pool, summary).items()}
        outcomes = (run(plan, resampled(ratios, plan, pool.name, i), pool.pair_s) for i in range(suites))
        ends[name] = "".join(LETTERS[each.verdict] for each in outcomes)
    return ends


def drawn_longer(pool: Pool, times: int, suites: int) -> str:
    """How suites end whose pairs have so many times as many turns: those of recorded pairs, one after the other.

    A longer pair takes the time of a recorded one, and that of the steps of the others. It is a little better than one
    measured so long would be: what differs from process to process is averaged as well.
    """
    plan = usual_plan()
    steps_s = {cell: _steps_s(pairs) for cell, pairs in pool.pairs.items()}
    pair_s = {cell: pool.pair_s[cell] + (times - 1) * steps_s[cell] for cell in pool.pairs}
    ends = ""
    for number in range(suites):
        draw = random.Random(f"longer {pool.name} {times} {number}")
        ratios = {
            cell: [
                log_ratios(joined(draw.choices(pool.pairs[cell], k=times)), plan.metrics) for _ in range(plan.max_pairs)
            ]
            for cell in plan.cases
        }
        ends += LETTERS[run(plan, ratios, pair_s).verdict]
    return ends


def joined(pairs: Sequence[Pair]) -> Pair:
    """The turns of these pairs as if they were of one."""
    return pairs[0].model_copy(update={"blocks": tuple(block for pair in pairs for block in pair.blocks)})


def _steps_s(pairs: Sequence[Pair]) -> float:
    """The seconds of timed steps in a pair, on average."""
    return math.fsum(sum(block.step_time_ns) for pair in pairs for block in pair.blocks) / 1e9 / len(pairs)


def _ends(outcomes: Sequence[Outcome], ratios: LogRatios) -> dict[str, Any]:
    means = {cell: math.exp(math.fsum(pair[0] for pair in ratios[cell]) / len(ratios[cell])) for cell in CASES}
    return {
        "verdicts": "".join(LETTERS[each.verdict] for each in outcomes),
        "pairs": [each.pairs for each in outcomes],
        "elapsed_s": [round(each.elapsed_s, 1) for each in outcomes],
        "holds_mean": _held(outcomes, means),
        "holds_one": _held(outcomes, dict.fromkeys(CASES, 1.0)),
    }


def _held(outcomes: Sequence[Outcome], truths: Mapping[str, float]) -> dict[str, str]:
    """By cell, for each suite whether its interval holds the truth: 1 or 0."""
    return {
        cell: "".join(_digit(each.ratios[i], truth) for each in outcomes)
        for i, (cell, truth) in enumerate(truths.items())
    }


def _digit(interval: Interval | None, truth: float) -> str:
    return str(int(interval is not None and interval.low <= truth <= interval.high))
