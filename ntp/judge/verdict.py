"""The guard's decision rule: from the pairs so far to a verdict, or to 'more pairs of this case'.

A *pair* of processes of a case gives one log-ratio, log(head / base), for each *metric* (a low quantile of the step
times, say, and their tail, each with a threshold of its own): positive is slower. The pair is the unit: pairs are
independent of each other, the steps within are not. For each case and metric there is a *finding*:

    regression      its interval lies wholly above the threshold
    pass            wholly below it
    improvement     wholly below minus the threshold
    inconclusive    otherwise

**The interval** is a t interval that stands repeated looks (:mod:`ntp.judge.sequential`). How sure it is depends on the
whole family of findings: with u of them inconclusive, every interval has the one-sided error alpha / (u + 1), and u is
the smallest number for which that comes true. This is Hochberg's step-up rule, which decides whatever Holm's would:
where every finding is decided at the level alpha itself, all of them stand. Any threshold has the truth on one side of
it, so only one of the two limits can mislead: the probability that a suite holds a false pass or a false regression is
at most alpha, wherever the truth lies, and next to nothing where no case has changed. That a pass is an improvement
besides is said with the one-sided error alpha for each finding alone.

Sources:
    Y. Hochberg, A Sharper Bonferroni Procedure for Multiple Tests of Significance, Biometrika 75 (1988), 800-802.
    H. Finner, Stepwise Multiple Test Procedures and Control of Directional Errors, Ann. Statist. 27 (1999), 274-289:
    the directions hold, too, where findings are independent. Two statistics of one case are not; a test simulates them.
    A. C. Tamhane, D. Xi and J. Zhou, Group Sequential Holm and Hochberg Procedures, Statist. Med. 40 (2021), 5333-5350.

**Why this rule.** Simulated with 4 cases, 44 pairs in all, normal log-ratios of sd 0.9%: unchanged suites pass in 94%
of runs; with Holm for Hochberg in 76%, with O'Brien-Fleming spending in 76%, with a t mixture (Lai 1976, Wang and
Ramdas 2024) in 72%. Asymptotic sequences (Waudby-Smith et al. 2024): 92%, and they err twice as often as promised.
The figures are those of ``tests/judge/test_verdict_methods.py``.

**Why the mean** of the log-ratios, and none that is trimmed: a process is summed up robustly before it gets here, and
base and head are exchangeable, so that what is left has no skew. The t interval widens for a stray pair, it does not
give way. Simulated with one case whose truth lies on the threshold, alpha 5%: false calls in 4.8% with normal noise, in
3.9% with that of t with 3 degrees of freedom. A pair trimmed on each side wins 4 points of power with the latter, loses
4 with the former, and errs in 5.7%.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from ntp.case import Frozen
from ntp.judge.sequential import Estimate, critical_values, t_quantile
from ntp.judge.statistics import Interval
from ntp.records.guard import MAX_RATIO, Metric, Plan

Verdict = Literal["pass", "regression", "improvement", "inconclusive", "not comparable"]
"""Five values. None of them stands for an error."""

_GRAVEST_FIRST: tuple[Verdict, ...] = ("regression", "not comparable", "inconclusive", "improvement", "pass")

_PRACTICAL_PAIRS = 1000
"""An estimate of more pairs than this says 'never' rather than a number."""

LogRatio = Annotated[float, Field(ge=-math.log(MAX_RATIO), le=math.log(MAX_RATIO))]
"""log(head / base) of one pair."""


class CasePairs(Frozen):
    """What is known of a case so far."""

    case_id: str
    pairs: tuple[tuple[LogRatio, ...], ...] = ()
    """For each pair, the log-ratio of each guarded statistic, in the plan's order."""
    not_comparable: str = ""
    """Why base and head cannot be compared here, in words. With a reason, pairs do not count."""


class Finding(NamedTuple):
    """One statistic of one case. Ratios are head over base: above 1, the head is slower."""

    metric: Metric
    verdict: Verdict
    pairs: int
    deciding: Interval | None
    """The ratio, in the interval that decides. None before the plan's first look."""
    confidence: float
    """Of the deciding interval, both sides together, over all the plan's looks: 1 - 2 alpha where all is decided, more
    where something is not. It covers the truth more often, 97% for 90%: hardly any run makes all the looks."""
    ratio: Interval | None
    """The ratio in a plain 95% interval, for one case and one look: narrower than the deciding one. None of one pair.
    Early stopping included, it covers the truth in 94 to 96% of runs; in 91% where that lies just on the threshold."""
    smallest_detectable: float | None
    """The ratio above the threshold that as many pairs, this noisy, would call a regression with the plan's power.
    None before the first look. (H. S. Bloom, Minimum Detectable Effects, Evaluation Review 19 (1995), 547-556.)"""
    more_pairs: int | None
    """Of an inconclusive finding: about how many more would decide it, if mean and spread stayed as they are. May lie
    beyond the plan's last look. None of a decided finding, and where no practical number would do."""


class CaseVerdict(NamedTuple):
    """One case: the gravest of its findings."""

    case_id: str
    verdict: Verdict
    pairs: int
    findings: tuple[Finding, ...]
    """In the plan's order. None where the sides are not comparable."""
    not_comparable: str = ""

    @property
    def fired(self) -> tuple[str, ...]:
        """The statistics that regressed."""
        return tuple(each.metric.name for each in self.findings if each.verdict == "regression")


class SuiteVerdict(NamedTuple):
    """All cases: the gravest of them. A pass needs that every case of the plan passed."""

    verdict: Verdict
    cases: tuple[CaseVerdict, ...]
    next_case: str | None
    """The case that needs a pair most. None: nothing that the plan allows is left to be found out."""


def gravest(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on the whole. Of nothing at all: not comparable, never a pass."""
    return min(verdicts, key=_GRAVEST_FIRST.index, default="not comparable")


def judge(plan: Plan, known: Sequence[CasePairs]) -> SuiteVerdict:
    """The verdict on what is known so far, and the case to measure next.

    A pure function of the plan and the pairs: the order of the pairs, and of the cases, is nothing to it.

    Raises:
        ValueError: a case is not in the plan, or named twice; a pair lacks a statistic; or there are more pairs of a
            case than the plan's last look.
    """
    by_case = _checked(plan, known)
    judged = {case_id: by_case[case_id] for case_id in plan.cases if not by_case[case_id].not_comparable}
    estimates = {
        (case_id, i): Estimate.of([pair[i] for pair in each.pairs])
        for case_id, each in judged.items()
        for i in range(len(plan.metrics))
        if each.pairs
    }
    family = len(judged) * len(plan.metrics)
    undecided = _step_up(plan, estimates, family)
    cases = tuple(
        _case_verdict(
            plan, by_case[case_id], [estimates.get((case_id, i)) for i in range(len(plan.metrics))], undecided
        )
        for case_id in plan.cases
    )
    return SuiteVerdict(gravest([each.verdict for each in cases]), cases, _next_case(plan, judged, estimates, cases))


def _checked(plan: Plan, known: Sequence[CasePairs]) -> dict[str, CasePairs]:
    by_case = {case_id: CasePairs(case_id=case_id) for case_id in plan.cases}
    seen = set()
    for each in known:
        if each.case_id not in by_case or each.case_id in seen:
            raise ValueError(f"case {each.case_id!r} is {'given twice' if each.case_id in seen else 'not in the plan'}")
        sizes = {len(pair) for pair in each.pairs} - {len(plan.metrics)}
        if sizes:
            raise ValueError(
                f"a pair of {each.case_id!r} holds {min(sizes)} log-ratios, and the plan {len(plan.metrics)} metrics"
            )
        if len(each.pairs) > plan.max_pairs:
            raise ValueError(
                f"{len(each.pairs)} pairs of {each.case_id!r}, and the plan's last look is at {plan.max_pairs}"
            )
        seen.add(each.case_id)
        by_case[each.case_id] = each
    return by_case


def _critical_t(plan: Plan, n: int, undecided: int) -> float:
    """The half-width of the interval after n pairs, in standard errors, in a family with so many undecided findings."""
    return critical_values(plan.alpha / (undecided + 1), plan.min_pairs, plan.max_pairs)[n - plan.min_pairs]


def _verdict(plan: Plan, metric: Metric, estimate: Estimate | None, undecided: int) -> Verdict:
    """Read it off the interval, if there is one yet."""
    if estimate is None or estimate.n < plan.min_pairs:
        return "inconclusive"
    return verdict_of(estimate.interval(_critical_t(plan, estimate.n, undecided)), metric)


def verdict_of(log_ratio: Interval, metric: Metric) -> Verdict:
    """On which side of the thresholds an interval of log(head / base) lies, if wholly on one."""
    _, low, high = log_ratio
    faster, slower = metric.log_limits
    if low > slower:
        return "regression"
    if high < faster:
        return "improvement"
    return "pass" if high < slower else "inconclusive"


def _step_up(plan: Plan, estimates: dict[tuple[str, int], Estimate], family: int) -> int:
    """The smallest u for which, at the level alpha / (u + 1), no more than u findings of the family are undecided."""
    for undecided in range(family):
        decided = sum(
            _verdict(plan, plan.metrics[i], estimate, undecided) != "inconclusive"
            for (_, i), estimate in estimates.items()
        )
        if family - decided <= undecided:
            return undecided
    # None is decided even by Bonferroni's level, which therefore is the one to show.
    return max(0, family - 1)


def _case_verdict(plan: Plan, known: CasePairs, estimates: Sequence[Estimate | None], undecided: int) -> CaseVerdict:
    if known.not_comparable:
        return CaseVerdict(known.case_id, "not comparable", len(known.pairs), (), known.not_comparable)
    findings = tuple(
        _finding(plan, metric, estimate, undecided) for metric, estimate in zip(plan.metrics, estimates, strict=True)
    )
    return CaseVerdict(known.case_id, gravest([each.verdict for each in findings]), len(known.pairs), findings)


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
    """How many more pairs bring the threshold out of the interval, if mean and spread stay and the others do, too."""
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
    judged: dict[str, CasePairs],
    estimates: dict[tuple[str, int], Estimate],
    cases: Sequence[CaseVerdict],
) -> str | None:
    """The undecided case with the fewest pairs: fair to all, and spread over the time that the machine's moods take.

    First those that are undecided even at the level alpha: once they are decided, so is the whole family. Then those
    that need the stricter level of a family in which others have stayed undecided. Last, those that pass and may prove
    to be improvements.
    """
    verdicts = {each.case_id: each for each in cases}
    open_cases = {case_id: each for case_id, each in judged.items() if len(each.pairs) < plan.max_pairs}

    def undecided_alone(case_id: str) -> bool:
        # A case that has regressed in one statistic has its verdict, whatever the others would say.
        return verdicts[case_id].verdict != "regression" and any(
            _verdict(plan, metric, estimates.get((case_id, i)), 0) == "inconclusive"
            for i, metric in enumerate(plan.metrics)
        )

    def perhaps_improved(case_id: str) -> bool:
        return any(
            verdicts[case_id].findings[i].verdict == "pass" and estimates[case_id, i].mean < metric.log_limits[0]
            for i, metric in enumerate(plan.metrics)
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
    return Interval(*(_ratio(each) for each in interval))
