"""The guard's decision rule: it turns the pairs so far into a verdict, or asks for more pairs of a case.

A *pair* of processes gives one log-ratio, log(head / base), for each *metric* of the plan: positive is slower. The pair
is the unit, for pairs are independent of each other and the steps within one are not. Each case and metric has a
*finding*:

    regression      the interval lies wholly above the threshold
    pass            wholly below it
    improvement     wholly below minus the threshold
    inconclusive    otherwise

**The interval** is a t interval of the mean log-ratio that allows a look after every pair
(:mod:`ntp.judge.sequential`). Its level depends on the whole family of findings: with u of them inconclusive, every
interval has the one-sided error alpha / (u + 1), and u is the smallest number for which that comes true (Hochberg's
step-up rule). So alpha bounds the probability of a false pass or a false regression anywhere in the suite, wherever the
truth lies: only one of an interval's two limits can be on the wrong side of the threshold. That a pass is an
improvement besides is said with the one-sided error alpha for each finding alone.

``docs/guard.md`` explains why this rule and no other; ``tests/judge/test_verdict_methods.py`` holds its figures.

Sources:
    Y. Hochberg, A Sharper Bonferroni Procedure for Multiple Tests of Significance, Biometrika 75 (1988), 800-802.
    H. Finner, Stepwise Multiple Test Procedures and Control of Directional Errors, Ann. Statist. 27 (1999), 274-289:
    the directions hold, too, where findings are independent. Metrics of one case are not; a test simulates them.
    A. C. Tamhane, D. Xi and J. Zhou, Group Sequential Holm and Hochberg Procedures, Statist. Med. 40 (2021), 5333-5350.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from ntp.case import Frozen
from ntp.judge.sequential import Estimate, critical_values, t_quantile
from ntp.judge.statistics import Interval
from ntp.records.guard import Metric, Plan
from ntp.records.pairs import MAX_RATIO

Verdict = Literal["pass", "regression", "improvement", "inconclusive", "not comparable"]
"""None of the five values stands for an error."""

_GRAVEST_FIRST: tuple[Verdict, ...] = ("regression", "not comparable", "inconclusive", "improvement", "pass")

_PRACTICAL_PAIRS = 1000
"""An estimate of more pairs than this says 'never' rather than a number."""

LogRatio = Annotated[float, Field(ge=-math.log(MAX_RATIO), le=math.log(MAX_RATIO))]
"""log(head / base) of one pair."""


class CasePairs(Frozen):
    """The pairs of a case so far."""

    case_id: str
    pairs: tuple[tuple[LogRatio, ...], ...] = ()
    """For each pair, the log-ratio of each metric, in the plan's order."""
    not_comparable: str = ""
    """Why base and head cannot be compared here, in words. If there is a reason, the pairs do not count."""


class Finding(NamedTuple):
    """The verdict on one metric of one case. Ratios are head over base: above 1, the head is slower."""

    metric: Metric
    verdict: Verdict
    pairs: int
    deciding: Interval | None
    """The ratio in the interval that decides. None before the plan's first look."""
    confidence: float
    """The two-sided confidence of the deciding interval over all the plan's looks: 1 - 2 alpha where all is decided,
    more where something is not. It covers the truth more often, 97% for 90%: hardly any run makes all the looks."""
    ratio: Interval | None
    """The ratio in a plain 95% interval, for one case and one look: narrower than the deciding one. None for one pair.
    Early stopping included, it covers the truth in 94 to 96% of runs; in 91% where that lies just on the threshold."""
    smallest_detectable: float | None
    """The ratio above the threshold that as many pairs, this noisy, would call a regression with the plan's power.
    None before the first look. (H. S. Bloom, Minimum Detectable Effects, Evaluation Review 19 (1995), 547-556.)"""
    more_pairs: int | None
    """About how many more pairs would decide an inconclusive finding, if mean and spread stayed as they are. This may
    lie beyond the plan's last look. None for a decided finding, and where no practical number would do."""


class CaseVerdict(NamedTuple):
    """The verdict on a case: the gravest of its findings."""

    case_id: str
    verdict: Verdict
    pairs: int
    findings: tuple[Finding, ...]
    """In the plan's order. Empty where the sides are not comparable."""
    not_comparable: str = ""

    @property
    def fired(self) -> tuple[str, ...]:
        """The names of the metrics that regressed."""
        return tuple(finding.metric.name for finding in self.findings if finding.verdict == "regression")


class SuiteVerdict(NamedTuple):
    """The verdict on all cases: the gravest of theirs. It is a pass only if every case of the plan passed."""

    verdict: Verdict
    cases: tuple[CaseVerdict, ...]
    next_case: str | None
    """The case that needs a pair most. None when the plan allows no pair that could change anything."""


def gravest(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on the whole. Nothing at all is not comparable, never a pass."""
    return min(verdicts, key=_GRAVEST_FIRST.index, default="not comparable")


def judge(plan: Plan, measured: Sequence[CasePairs]) -> SuiteVerdict:
    """Judge the pairs so far, and name the case to measure next.

    This is a pure function of the plan and the pairs; the order of the pairs, and of the cases, does not matter.

    Raises:
        ValueError: a case is not in the plan, or named twice; a pair lacks a metric; or there are more pairs of a
            case than the plan's last look.
    """
    by_case = _checked(plan, measured)
    comparable = {case_id: by_case[case_id] for case_id in plan.cases if not by_case[case_id].not_comparable}
    estimates = {
        (case_id, i): Estimate.of([pair[i] for pair in case.pairs])
        for case_id, case in comparable.items()
        for i in range(len(plan.metrics_of(case_id)))
        if case.pairs
    }
    family = sum(len(plan.metrics_of(case_id)) for case_id in comparable)
    undecided = _step_up(plan, estimates, family)
    cases = tuple(
        _case_verdict(
            plan,
            by_case[case_id],
            [estimates.get((case_id, i)) for i in range(len(plan.metrics_of(case_id)))],
            undecided,
        )
        for case_id in plan.cases
    )
    return SuiteVerdict(
        gravest([case.verdict for case in cases]), cases, _next_case(plan, comparable, estimates, cases)
    )


def _checked(plan: Plan, measured: Sequence[CasePairs]) -> dict[str, CasePairs]:
    by_case: dict[str, CasePairs] = {}
    for case in measured:
        if case.case_id not in plan.cases or case.case_id in by_case:
            raise ValueError(
                f"case {case.case_id!r} is {'given twice' if case.case_id in by_case else 'not in the plan'}"
            )
        metrics = len(plan.metrics_of(case.case_id))
        sizes = {len(pair) for pair in case.pairs} - {metrics}
        if sizes:
            raise ValueError(
                f"a pair of {case.case_id!r} holds {min(sizes)} log-ratios, and the plan {metrics} metrics"
            )
        if len(case.pairs) > plan.max_pairs:
            raise ValueError(
                f"{len(case.pairs)} pairs of {case.case_id!r}, and the plan's last look is at {plan.max_pairs}"
            )
        by_case[case.case_id] = case
    return {case_id: by_case.get(case_id, CasePairs(case_id=case_id)) for case_id in plan.cases}


def _critical_t(plan: Plan, n: int, undecided: int) -> float:
    """Return the half-width of the interval after n pairs, in standard errors, if that many findings are undecided."""
    return critical_values(plan.alpha / (undecided + 1), plan.min_pairs, plan.max_pairs)[n - plan.min_pairs]


def _verdict(plan: Plan, metric: Metric, estimate: Estimate | None, undecided: int) -> Verdict:
    if estimate is None or estimate.n < plan.min_pairs:
        return "inconclusive"
    return verdict_of(estimate.interval(_critical_t(plan, estimate.n, undecided)), metric)


def verdict_of(log_ratio: Interval, metric: Metric) -> Verdict:
    """Say on which side of the thresholds an interval of log(head / base) lies, if wholly on one."""
    _, low, high = log_ratio
    faster, slower = metric.log_limits
    if low > slower:
        return "regression"
    if high < faster:
        return "improvement"
    return "pass" if high < slower else "inconclusive"


def _step_up(plan: Plan, estimates: dict[tuple[str, int], Estimate], family: int) -> int:
    """Find the smallest u for which, at the level alpha / (u + 1), at most u findings of the family are undecided."""
    for undecided in range(family):
        decided = sum(
            _verdict(plan, plan.metrics_of(case_id)[i], estimate, undecided) != "inconclusive"
            for (case_id, i), estimate in estimates.items()
        )
        if family - decided <= undecided:
            return undecided
    # None is decided even by Bonferroni's level, which therefore is the one to show.
    return max(0, family - 1)


def _case_verdict(plan: Plan, case: CasePairs, estimates: Sequence[Estimate | None], undecided: int) -> CaseVerdict:
    if case.not_comparable:
        return CaseVerdict(case.case_id, "not comparable", len(case.pairs), (), case.not_comparable)
    findings = tuple(
        _finding(plan, metric, estimate, undecided)
        for metric, estimate in zip(plan.metrics_of(case.case_id), estimates, strict=True)
    )
    return CaseVerdict(case.case_id, gravest([finding.verdict for finding in findings]), len(case.pairs), findings)


def _finding(plan: Plan, metric: Metric, estimate: Estimate | None, undecided: int) -> Finding:
    verdict = _verdict(plan, metric, estimate, undecided)
    deciding = plain = detectable = None
    if estimate is not None and estimate.n >= 2:
        plain = _ratios(estimate.interval(t_quantile(estimate.n, 0.975)))
    if estimate is not None and estimate.n >= plan.min_pairs:
        t = _critical_t(plan, estimate.n, undecided)
        deciding = _ratios(estimate.interval(t))
        detectable = _ratio(metric.log_limits[1] + (t + t_quantile(estimate.n, plan.power)) * estimate.std_error)
    return Finding(
        metric=metric,
        verdict=verdict,
        pairs=estimate.n if estimate else 0,
        deciding=deciding,
        confidence=1 - 2 * plan.alpha / (undecided + 1),
        ratio=plain,
        smallest_detectable=detectable,
        more_pairs=_more_pairs(plan, metric, estimate, undecided) if verdict == "inconclusive" else None,
    )


def _more_pairs(plan: Plan, metric: Metric, estimate: Estimate | None, undecided: int) -> int | None:
    """Estimate how many more pairs bring the threshold out of the interval, if mean, spread and the others stay."""
    if estimate is None or estimate.n < 2:
        return plan.min_pairs - (estimate.n if estimate else 0)
    distance = abs(estimate.mean - metric.log_limits[1])
    spread = estimate.std_error * math.sqrt(estimate.n)
    # Decided, it would leave one undecided finding fewer.
    level = max(0, undecided - 1)
    for n in range(max(estimate.n + 1, plan.min_pairs), plan.max_pairs + 1):
        if distance > _critical_t(plan, n, level) * spread / math.sqrt(n):
            return n - estimate.n
    # Beyond the last look: what another plan, hardly stricter than this one's last look, would need.
    reach = _critical_t(plan, plan.max_pairs, level) * spread
    if reach >= distance * math.sqrt(_PRACTICAL_PAIRS):
        return None
    return max(math.ceil((reach / distance) ** 2), plan.max_pairs + 1) - estimate.n


def _next_case(
    plan: Plan,
    comparable: dict[str, CasePairs],
    estimates: dict[tuple[str, int], Estimate],
    cases: Sequence[CaseVerdict],
) -> str | None:
    """Take the undecided case with the fewest pairs: this is fair to all, and outlasts the machine's moods.

    First come those that are undecided even at the level alpha: once they are decided, so is the whole family. Then
    come those that need the stricter level of a family in which others have stayed undecided, and last those that pass
    and may prove to be improvements.
    """
    verdicts = {case.case_id: case for case in cases}
    open_cases = {case_id: case for case_id, case in comparable.items() if len(case.pairs) < plan.max_pairs}

    def undecided_alone(case_id: str) -> bool:
        # A case that has regressed in one metric has its verdict, whatever the others would say.
        return verdicts[case_id].verdict != "regression" and any(
            _verdict(plan, metric, estimates.get((case_id, i)), 0) == "inconclusive"
            for i, metric in enumerate(plan.metrics_of(case_id))
        )

    def perhaps_improved(case_id: str) -> bool:
        return any(
            verdicts[case_id].findings[i].verdict == "pass" and estimates[case_id, i].mean < metric.log_limits[0]
            for i, metric in enumerate(plan.metrics_of(case_id))
        )

    for needs_pairs in (undecided_alone, lambda case_id: verdicts[case_id].verdict == "inconclusive", perhaps_improved):
        needy = [case_id for case_id in open_cases if needs_pairs(case_id)]
        if needy:
            return min(needy, key=lambda case_id: len(open_cases[case_id].pairs))
    return None


def _ratio(log_ratio: float) -> float:
    # Two or three pairs can have an interval beyond the largest float; 700 is beyond any ratio of times.
    return math.exp(min(log_ratio, 700.0))


def _ratios(interval: Interval) -> Interval:
    return Interval(*map(_ratio, interval))
