"""Whole guards, made of recorded pairs and judged by the code that judges real ones.

A *suite* is one run of ``ntp guard``: its pairs are drawn from a pool with replacement, for each case from its own
pairs, and :func:`ntp.judge.verdict.judge` says after each pair which case needs the next one, until it wants no more or
the budget is spent. Every pair takes the time that the pairs of its case took when they were recorded.

What is drawn depends only on the name of the pool and on the number of the suite: the first suites of a thousand are
those of the first twenty.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from pools import CASES, Pool

from ntp.judge.guard import METRICS, log_ratios, plan_of
from ntp.judge.statistics import Interval
from ntp.judge.verdict import CasePairs, SuiteVerdict, Verdict, judge
from ntp.records.guard import Metric, Plan
from ntp.records.pairs import Pair

THRESHOLD, BUDGET_S = 0.01, 300.0
"""The defaults of ``ntp guard``."""

COUNTING_S = 3.0
"""About what it costs to count what a step does, in seconds a case. A guard starts with that."""

LETTERS: dict[Verdict, str] = {
    "pass": "p",
    "regression": "r",
    "improvement": "i",
    "inconclusive": "u",
    "not comparable": "n",
}

LogRatios = Mapping[str, Sequence[tuple[float, ...]]]
"""By case, the log-ratio of each metric for each pair."""

Summary = Callable[[Pair], float]
"""Sums up a pair as log(head / base)."""


class Outcome(NamedTuple):
    verdict: Verdict
    pairs: int
    elapsed_s: float
    ratios: tuple[Interval | None, ...]
    """For each case, the ratio of the CPU time in its plain 95% interval."""


@cache
def summed_up(pool: Pool, summary: Summary) -> dict[str, tuple[float, ...]]:
    return {case: tuple(map(summary, pairs)) for case, pairs in pool.pairs.items()}


def usual_plan(wall_threshold: float | None = None, budget_s: float = BUDGET_S) -> Plan:
    return plan_of(CASES, THRESHOLD, budget_s, wall_threshold)


def guarded_log_ratios(pool: Pool, plan: Plan) -> LogRatios:
    """Return what a guard with this plan would make of a pool's pairs."""
    return {
        case: list(zip(*(summed_up(pool, METRICS[metric.name])[case] for metric in plan.metrics_of(case)), strict=True))
        for case in pool.pairs
    }


def resampled(ratios: LogRatios, plan: Plan, name: str, number: int) -> LogRatios:
    draw = random.Random(f"{name} {number}")
    return {case: draw.choices(ratios[case], k=plan.max_pairs) for case in plan.cases}


def consecutive(ratios: LogRatios, plan: Plan, start: int) -> LogRatios:
    """Return the pairs of one suite in the order in which they were taken, going on with the first after the last."""
    return {case: [ratios[case][(start + i) % len(ratios[case])] for i in range(plan.max_pairs)] for case in plan.cases}


def run(plan: Plan, ratios: LogRatios, pair_s: Mapping[str, float], budget_s: float = BUDGET_S) -> Outcome:
    """Run the loop of :func:`ntp.runners.guard.guard` with pairs that are known beforehand."""
    taken = dict.fromkeys(plan.cases, 0)
    elapsed_s, longest_s = COUNTING_S * len(plan.cases), 0.0
    suite = None
    while True:
        case, suite = next_case(plan, ratios, taken)
        if case is None or elapsed_s + longest_s > budget_s:
            break
        taken[case] += 1
        elapsed_s += pair_s[case]
        longest_s = max(longest_s, pair_s[case])
    suite = suite or _judged(plan, ratios, taken)
    typical = tuple(judged.findings[0].ratio for judged in suite.cases)
    return Outcome(suite.verdict, sum(taken.values()), elapsed_s, typical)


def next_case(plan: Plan, ratios: LogRatios, taken: Mapping[str, int]) -> tuple[str | None, SuiteVerdict | None]:
    fewest = min(plan.cases, key=lambda case: taken[case])
    if taken[fewest] < plan.min_pairs:
        return fewest, None  # judging says so, too: nothing is decided before the first look, and this case is behind
    suite = _judged(plan, ratios, taken)
    return suite.next_case, suite


def _judged(plan: Plan, ratios: LogRatios, taken: Mapping[str, int]) -> SuiteVerdict:
    return judge(plan, [CasePairs(case_id=case, pairs=tuple(ratios[case][: taken[case]])) for case in plan.cases])


def drawn(
    pool: Pool, suites: int, in_order: bool = False, wall_threshold: float | None = None, budget_s: float = BUDGET_S
) -> dict[str, Any]:
    """Resample suites of a pool; ``in_order``, run one from each pair on: what was near in time stays so."""
    plan = usual_plan(wall_threshold, budget_s)
    ratios = guarded_log_ratios(pool, plan)
    if in_order:
        pairs = [consecutive(ratios, plan, start) for start in range(min(suites, pool.rounds))]
    else:
        pairs = [resampled(ratios, plan, pool.name, i) for i in range(suites)]
    return _ends([run(plan, of_suite, pool.pair_s, budget_s) for of_suite in pairs], ratios)


def drawn_normal(pool: Pool, suites: int, again: bool) -> dict[str, str]:
    """Simulate suites of normal pairs, for comparison, with the means and standard deviations of a pool's cases.

    Returns by case, for each suite, whether the plain interval of the CPU time holds the mean that its pairs come
    from. With ``again`` they are drawn with replacement from as many as the pool has, as those of recorded suites are;
    without it each pair is new.
    """
    plan = usual_plan()
    ratios = guarded_log_ratios(pool, plan)
    held: dict[str, str] = dict.fromkeys(plan.cases, "")
    for number in range(suites):
        seed = random.Random(f"normal {pool.name} {again} {number}").getrandbits(64)
        pairs, truths = _normal(ratios, plan, np.random.default_rng(seed), again)
        outcome = run(plan, pairs, pool.pair_s)
        for i, (case, truth) in enumerate(truths.items()):
            held[case] += _digit(outcome.ratios[i], truth)
    return held


def _normal(
    ratios: LogRatios, plan: Plan, chance: np.random.Generator, again: bool
) -> tuple[LogRatios, dict[str, float]]:
    """Simulate the pairs of one suite, and return them with the ratios of the CPU time that they come from."""
    pairs, truths = {}, {}
    for case in plan.cases:
        recorded = np.array(ratios[case])
        mean, sd = recorded.mean(axis=0), recorded.std(axis=0, ddof=1)
        new = chance.normal(mean, sd, (len(recorded) if again else plan.max_pairs, len(mean)))
        if again:
            mean = new.mean(axis=0)
            new = new[chance.integers(0, len(new), plan.max_pairs)]
        pairs[case] = [tuple(map(float, pair)) for pair in new]
        truths[case] = math.exp(float(mean[0]))
    return pairs, truths


def drawn_by_summary(pool: Pool, summaries: Mapping[str, Summary], suites: int) -> dict[str, str]:
    ends = {}
    for name, summary in summaries.items():
        plan = usual_plan().model_copy(update={"metrics": (Metric(name=name, threshold=THRESHOLD),), "own_metrics": {}})
        ratios = {case: [(value,) for value in values] for case, values in summed_up(pool, summary).items()}
        outcomes = (run(plan, resampled(ratios, plan, pool.name, i), pool.pair_s) for i in range(suites))
        ends[name] = "".join(LETTERS[outcome.verdict] for outcome in outcomes)
    return ends


def drawn_longer(pool: Pool, times: int, suites: int) -> str:
    """Return how suites end whose pairs have this many times as many rounds: those of recorded pairs, joined.

    A longer pair takes the time of a recorded one, and that of the steps of the others. It is a little less noisy than
    a pair measured that long: what differs from process to process is averaged as well.
    """
    plan = usual_plan()
    pair_s = {}
    for case, pairs in pool.pairs.items():
        steps_s = math.fsum(sum(block.step_time_ns) for pair in pairs for block in pair.blocks) / 1e9 / len(pairs)
        pair_s[case] = pool.pair_s[case] + (times - 1) * steps_s
    ends = ""
    for number in range(suites):
        draw = random.Random(f"longer {pool.name} {times} {number}")
        ratios = {
            case: [
                log_ratios(joined(draw.choices(pool.pairs[case], k=times)), plan.metrics_of(case))
                for _ in range(plan.max_pairs)
            ]
            for case in plan.cases
        }
        ends += LETTERS[run(plan, ratios, pair_s).verdict]
    return ends


def joined(pairs: Sequence[Pair]) -> Pair:
    return pairs[0].model_copy(update={"blocks": tuple(block for pair in pairs for block in pair.blocks)})


def _ends(outcomes: Sequence[Outcome], ratios: LogRatios) -> dict[str, Any]:
    means = {case: math.exp(math.fsum(pair[0] for pair in ratios[case]) / len(ratios[case])) for case in CASES}
    return {
        "verdicts": "".join(LETTERS[outcome.verdict] for outcome in outcomes),
        "pairs": [outcome.pairs for outcome in outcomes],
        "elapsed_s": [round(outcome.elapsed_s, 1) for outcome in outcomes],
        "holds_mean": _held(outcomes, means),
        "holds_one": _held(outcomes, dict.fromkeys(CASES, 1.0)),
    }


def _held(outcomes: Sequence[Outcome], truths: Mapping[str, float]) -> dict[str, str]:
    return {
        case: "".join(_digit(outcome.ratios[i], truth) for outcome in outcomes)
        for i, (case, truth) in enumerate(truths.items())
    }


def _digit(interval: Interval | None, truth: float) -> str:
    return str(int(interval is not None and interval.low <= truth <= interval.high))
