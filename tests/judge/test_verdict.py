"""The guard's decision rule: on constructed pairs, and how often it errs and finds on simulated ones."""

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ntp.judge.sequential import critical_values
from ntp.judge.verdict import CasePairs, Verdict, gravest, judge
from ntp.records.guard import Metric, Plan

ABCD = ("a", "b", "c", "d")
NOISE = [0.004, -0.006, 0.005, -0.003, 0.001, -0.001, 0.002, -0.002, 0.0, 0.0]


def pairs_around(log_ratio, n=10, scale=1.0):
    """n pairs of one metric whose mean is the log-ratio (where n is even), with a spread of 0.3% times the scale."""
    return tuple((log_ratio + scale * noise,) for noise in itertools.islice(itertools.cycle(NOISE), n))


def judged(plan=None, **pairs):
    """Judge cases given by name. A plain list holds one metric."""
    plan = plan or Plan(cases=tuple(pairs))
    return judge(plan, [CasePairs(case_id=case, pairs=log_ratios) for case, log_ratios in pairs.items()])


def only_finding(suite):
    ((finding,),) = (case.findings for case in suite.cases)
    return finding


class TestOneFinding:
    @pytest.mark.parametrize(
        ("log_ratio", "verdict"),
        [(0.03, "regression"), (0.01, "inconclusive"), (0.0, "pass"), (-0.01, "pass"), (-0.03, "improvement")],
    )
    def test_the_side_on_which_the_whole_interval_lies_is_the_verdict(self, log_ratio, verdict):
        suite = judged(a=pairs_around(log_ratio))
        finding = only_finding(suite)
        assert suite.verdict == suite.cases[0].verdict == finding.verdict == verdict
        assert finding.ratio.value == pytest.approx(math.exp(log_ratio))
        assert (
            finding.deciding.low < finding.ratio.low < finding.ratio.value < finding.ratio.high < finding.deciding.high
        )

    def test_the_plain_interval_is_students(self):
        pairs = pairs_around(0.004, n=7)
        values = [value for (value,) in pairs]
        expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert only_finding(judged(a=pairs)).ratio[1:] == pytest.approx(
            (math.exp(expected.low), math.exp(expected.high))
        )

    @pytest.mark.parametrize("n", [0, 1, 2, 4])
    def test_before_the_first_look_nothing_is_decided_however_clear(self, n):
        finding = only_finding(judged(a=[(0.5,)] * n))
        assert (finding.verdict, finding.pairs, finding.more_pairs) == ("inconclusive", n, 5 - n)
        assert finding.deciding is finding.smallest_detectable is None
        assert (finding.ratio is None) == (n < 2)

    @pytest.mark.parametrize(
        ("log_ratio", "verdict"), [(0.011, "regression"), (math.log1p(0.01), "inconclusive"), (0.0, "pass")]
    )
    def test_pairs_that_all_agree_have_a_point_for_an_interval(self, log_ratio, verdict):
        finding = only_finding(judged(a=[(log_ratio,)] * 6))
        assert finding.verdict == verdict
        assert finding.deciding == pytest.approx((math.exp(log_ratio),) * 3)
        assert finding.smallest_detectable == pytest.approx(1.01)

    def test_on_the_threshold_no_number_of_pairs_would_do(self):
        assert only_finding(judged(a=pairs_around(math.log1p(0.01)))).more_pairs is None

    @pytest.mark.parametrize("log_ratio", [0.0, 0.004, 0.007, 0.014, 0.02])
    def test_that_many_more_pairs_of_the_same_kind_decide(self, log_ratio):
        pairs = pairs_around(log_ratio, scale=4)
        finding = only_finding(judged(a=pairs))
        assert finding.verdict == "inconclusive"
        # The plan that is asked allows the pairs asked for, hence is stricter: allow for that.
        more = finding.more_pairs + finding.more_pairs // 2 + 2
        allowed = Plan(cases=("a",), max_pairs=max(20, 10 + more))
        assert only_finding(judged(allowed, a=pairs_around(log_ratio, 10 + more, scale=4))).verdict != "inconclusive"

    def test_a_slowdown_of_the_smallest_detectable_size_is_detected_that_often(self):
        plan, n, sd = Plan(cases=("a",), power=0.8), 12, 0.006
        t = critical_values(plan.alpha, plan.min_pairs, plan.max_pairs)[n - plan.min_pairs]
        sizes, detected = [], 0
        rng = np.random.default_rng(11)
        for _ in range(200):
            noise = rng.normal(0, sd, n)
            sizes.append(math.log(only_finding(judged(plan, a=[(value,) for value in noise])).smallest_detectable))
        for noise in rng.normal(np.mean(sizes), sd, (4000, n)):
            detected += noise.mean() - t * noise.std(ddof=1) / math.sqrt(n) > math.log1p(0.01)
        assert detected / 4000 == pytest.approx(plan.power, abs=0.04)


log_ratios = st.floats(-0.1, 0.1)
columns_of_pairs = st.lists(st.lists(log_ratios, max_size=12), min_size=1, max_size=6)


def suite_of(columns, **plan):
    cases = tuple(f"case{i}" for i in range(len(columns)))
    measured = [
        CasePairs(case_id=case, pairs=[(x,) for x in column]) for case, column in zip(cases, columns, strict=True)
    ]
    return judge(Plan(cases=cases, **plan), measured)


class TestTheRuleHoldsForAnyPairs:
    @given(columns_of_pairs)
    def test_every_verdict_can_be_read_off_its_interval_and_no_other_can(self, columns):
        for case in suite_of(columns).cases:
            (finding,) = case.findings
            _, low, high = finding.deciding or (1, 0, math.inf)
            # Ratios have been rounded once more than the log-ratios that decide.
            sides = {
                "regression": low > 1.01 - 1e-12,
                "improvement": high < 0.99 + 1e-12,
                "pass": high < 1.01 + 1e-12 and high >= 0.99 - 1e-12,
                "inconclusive": low <= 1.01 + 1e-12 and high >= 1.01 - 1e-12,
            }
            assert sides[finding.verdict]

    @given(columns_of_pairs)
    def test_the_plain_interval_of_a_decided_case_lies_on_the_same_side(self, columns):
        for case in suite_of(columns).cases:
            (finding,) = case.findings
            if finding.verdict == "regression":
                assert finding.ratio.low > 1.01 - 1e-12
            if finding.verdict in ("pass", "improvement"):
                assert finding.ratio.high < 1.01 + 1e-12

    @given(columns_of_pairs, st.floats(0, 0.05))
    def test_slower_never_looks_better(self, columns, slower):
        order = ["improvement", "pass", "inconclusive", "regression"]
        alone = [suite_of([column]).verdict for column in columns]
        slowed = [suite_of([[x + slower for x in column]]).verdict for column in columns]
        assert all(order.index(a) <= order.index(b) for a, b in zip(alone, slowed, strict=True))

    @given(columns_of_pairs)
    def test_a_case_is_decided_alone_if_it_is_in_a_family_and_at_bonferronis_level_only_if_in_the_family(self, columns):
        family = suite_of(columns)
        for column, case in zip(columns, family.cases, strict=True):
            alone = suite_of([column]).verdict
            strict = suite_of([column], alpha=0.05 / len(columns)).verdict
            if case.verdict != "inconclusive":
                assert alone != "inconclusive"
            if strict != "inconclusive":
                assert case.verdict != "inconclusive"

    @given(columns_of_pairs, st.randoms())
    def test_the_order_of_pairs_and_cases_does_not_matter(self, columns, random):
        cases = tuple(f"case{i}" for i in range(len(columns)))
        measured = [
            CasePairs(case_id=case, pairs=[(x,) for x in column]) for case, column in zip(cases, columns, strict=True)
        ]
        shuffled = [
            case.model_copy(update={"pairs": tuple(random.sample(case.pairs, len(case.pairs)))}) for case in measured
        ]
        plan = Plan(cases=cases)
        one, other = judge(plan, measured), judge(plan, random.sample(shuffled, len(shuffled)))
        assert [case.verdict for case in one.cases] == [case.verdict for case in other.cases]
        assert one.next_case == other.next_case


class TestTheFamily:
    # Ten pairs: the same noise around means for which it passes at alpha, at alpha / 2, and not at all.
    CLEAR, NARROW, OPEN = 0.0, 0.00655, 0.0095

    def test_where_all_are_decided_alone_all_stand(self):
        alone = only_finding(judged(a=pairs_around(self.NARROW)))
        assert alone.verdict == "pass"
        together = judged(**dict.fromkeys(ABCD, pairs_around(self.NARROW)))
        assert together.verdict == "pass"
        assert {case.findings[0].confidence for case in together.cases} == {0.9}
        assert together.cases[0].findings[0].deciding == alone.deciding

    def test_each_that_stays_open_makes_the_others_harder_to_decide(self):
        two = judged(a=pairs_around(self.NARROW), b=pairs_around(self.OPEN))
        assert [case.verdict for case in two.cases] == ["inconclusive", "inconclusive"]
        three = judged(a=pairs_around(self.CLEAR), b=pairs_around(self.CLEAR), c=pairs_around(self.OPEN))
        assert [case.verdict for case in three.cases] == ["pass", "pass", "inconclusive"]
        assert {case.findings[0].confidence for case in three.cases} == {0.95}

    def test_hochbergs_rule_done_by_hand(self):
        rng = np.random.default_rng(2)
        for _ in range(300):
            columns = rng.normal(rng.choice([0, 0.003, 0.006], (4, 1)), 0.005, (4, 9))
            t = (math.log1p(0.01) - columns.mean(axis=1)) / (columns.std(axis=1, ddof=1) / 3)
            ranked = sorted(range(4), key=lambda i: abs(t[i]))  # from the largest p on
            decided = set()
            for step, i in enumerate(ranked, 1):
                if abs(t[i]) > critical_values(0.05 / step, 5, 20)[9 - 5]:
                    decided = set(ranked[step - 1 :])
                    break
            suite = suite_of(columns.tolist())
            assert decided == {i for i in range(4) if suite.cases[i].verdict != "inconclusive"}


class TestTwoMetrics:
    PLAN = Plan(cases=("a", "b"), metrics=(Metric(name="q25"), Metric(name="p95", threshold=0.04)))

    def both(self, q25, p95):
        noisy = pairs_around(p95, scale=3)
        return tuple((x, y) for ((x,), (y,)) in zip(pairs_around(q25), noisy, strict=True))

    @pytest.mark.parametrize(
        ("q25", "p95", "fired"), [(0.03, 0.0, ("q25",)), (0.0, 0.1, ("p95",)), (0.03, 0.1, ("q25", "p95")), (0, 0, ())]
    )
    def test_the_case_says_which_of_the_two_fired(self, q25, p95, fired):
        suite = judged(self.PLAN, a=self.both(q25, p95), b=self.both(0, 0))
        assert suite.cases[0].fired == fired
        assert suite.cases[1].fired == ()
        assert suite.verdict == ("regression" if fired else "pass")

    def test_each_has_its_own_threshold(self):
        suite = judged(self.PLAN, a=self.both(0.0, 0.012), b=self.both(0, 0))
        assert suite.verdict == "pass"
        assert [finding.metric.threshold for finding in suite.cases[0].findings] == [0.01, 0.04]

    def test_one_that_is_open_leaves_the_case_open(self):
        suite = judged(self.PLAN, a=self.both(0.0, 0.039), b=self.both(0, 0))
        assert [finding.verdict for finding in suite.cases[0].findings] == ["pass", "inconclusive"]
        assert (suite.cases[0].verdict, suite.cases[1].verdict, suite.verdict) == (
            "inconclusive",
            "pass",
            "inconclusive",
        )
        assert suite.next_case == "a"

    def test_a_case_that_regressed_in_one_needs_no_pairs_for_the_other(self):
        suite = judged(self.PLAN, a=self.both(0.03, 0.039), b=self.both(0, 0))
        assert [finding.verdict for finding in suite.cases[0].findings] == ["regression", "inconclusive"]
        assert (suite.verdict, suite.next_case) == ("regression", None)

    @pytest.mark.parametrize("correlation", [0.5, 0.95])
    def test_metrics_that_go_together_mislead_no_more_often(self, correlation):
        rng, suites, regressed = np.random.default_rng(4), 200, 0
        limits = np.array([guarded.log_limits[1] for guarded in self.PLAN.metrics])
        noise = rng.normal(size=(suites, 2, 20, 2))
        noise[..., 1] = correlation * noise[..., 0] + math.sqrt(1 - correlation**2) * noise[..., 1]
        # A hair's breadth below both thresholds, measured to the last look: the worst of all truths.
        for log_ratios in noise * [0.009, 0.03] + limits - 1e-9:
            taken = dict.fromkeys(self.PLAN.cases, self.PLAN.min_pairs)  # nothing is decided before
            while True:
                pairs = {case: log_ratios[i, : taken[case]].tolist() for i, case in enumerate(self.PLAN.cases)}
                suite = judged(self.PLAN, **pairs)
                if suite.next_case is None or suite.verdict == "regression":
                    break
                taken[suite.next_case] += 1
            regressed += suite.verdict == "regression"
        assert regressed / suites <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / suites)


class TestTheSuite:
    @given(st.lists(st.sampled_from(get_args(Verdict)), max_size=6))
    def test_the_gravest_decides_and_a_pass_needs_that_all_passed(self, verdicts):
        assert (gravest(verdicts) == "pass") == (set(verdicts) == {"pass"})
        assert (gravest(verdicts) == "regression") == ("regression" in verdicts)
        assert (gravest(verdicts) == "improvement") == (
            "improvement" in verdicts and {*verdicts} <= {"improvement", "pass"}
        )

    def test_without_a_pair_nothing_passes(self):
        plan = Plan(cases=("a", "b"))
        for measured in ([], [CasePairs(case_id="a")], [CasePairs(case_id="a", pairs=pairs_around(0.0))]):
            assert judge(plan, measured).verdict == "inconclusive"

    def test_a_case_that_cannot_be_compared_is_said_so_and_outweighs_a_pass(self):
        plan = Plan(cases=("a", "b"))
        measured = [
            CasePairs(case_id="a", pairs=pairs_around(0.0)),
            CasePairs(case_id="b", not_comparable="the base lacks it"),
        ]
        suite = judge(plan, measured)
        assert (suite.verdict, suite.next_case) == ("not comparable", None)
        assert suite.cases[1][1:] == ("not comparable", 0, (), "the base lacks it")
        # It is no part of the family: the other is decided as if alone.
        assert suite.cases[0].findings[0].confidence == 0.9

    def test_a_regression_outweighs_what_cannot_be_compared(self):
        measured = [CasePairs(case_id="a", pairs=pairs_around(0.05)), CasePairs(case_id="b", not_comparable="x")]
        assert judge(Plan(cases=("a", "b")), measured).verdict == "regression"

    def test_nothing_comparable_at_all(self):
        suite = judge(Plan(cases=("a",)), [CasePairs(case_id="a", not_comparable="another machine")])
        assert (suite.verdict, suite.next_case) == ("not comparable", None)


class TestTheNextCase:
    def test_first_all_in_turn_then_those_undecided(self):
        plan = Plan(cases=("a", "b"))
        assert judge(plan, []).next_case == "a"
        assert judged(plan, a=pairs_around(0, 1)).next_case == "b"
        assert judged(plan, a=pairs_around(0), b=pairs_around(0.01)).next_case == "b"
        assert judged(plan, a=pairs_around(0.01), b=pairs_around(0.03)).next_case == "a"
        assert judged(plan, a=pairs_around(0), b=pairs_around(0)).next_case is None

    def test_what_the_last_look_left_open_asks_for_more_of_those_that_it_keeps_open(self):
        plan = Plan(cases=("a", "b"))
        suite = judged(plan, a=pairs_around(TestTheFamily.NARROW), b=pairs_around(math.log1p(0.01), 20))
        assert [case.verdict for case in suite.cases] == ["inconclusive", "inconclusive"]
        assert suite.next_case == "a"

    def test_a_pass_that_may_be_an_improvement_comes_last(self):
        plan = Plan(cases=("a", "b"))
        faster = pairs_around(-0.0125)
        assert judged(plan, a=faster, b=pairs_around(0.01)).next_case == "b"
        suite = judged(plan, a=faster, b=pairs_around(0.0))
        assert (suite.verdict, suite.next_case) == ("pass", "a")
        assert judged(plan, a=pairs_around(-0.0125, 20), b=pairs_around(0.0)).verdict == "improvement"

    def test_the_last_look_ends_it(self):
        assert judged(a=pairs_around(0.01, 20)).next_case is None


class TestRefused:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 21.0])
    def test_log_ratios_that_are_none(self, value):
        with pytest.raises(ValidationError, match=r"pairs\.0\.0"):
            CasePairs(case_id="a", pairs=[(value,)])

    @pytest.mark.parametrize(
        ("measured", "message"),
        [
            ([CasePairs(case_id="z")], "'z' is not in the plan"),
            ([CasePairs(case_id="a"), CasePairs(case_id="a")], "'a' is given twice"),
            ([CasePairs(case_id="a", pairs=[(0.0, 0.0)])], "2 log-ratios"),
            ([CasePairs(case_id="a", pairs=[(0.0,)] * 21)], "21 pairs of 'a'"),
        ],
    )
    def test_pairs_that_do_not_belong(self, measured, message):
        with pytest.raises(ValueError, match=message):
            judge(Plan(cases=("a",)), measured)
