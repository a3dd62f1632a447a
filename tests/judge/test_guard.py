"""From a guard's record to its verdict, on records made by hand and on whatever else a record may hold."""

import json
import math
from fnmatch import fnmatchcase
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.counts import Change
from ntp.judge.guard import METRICS, TAIL, TYPICAL, changed_but_not_loaded, log_ratios, plan_of, summary, verdict_on
from ntp.judge.verdict import Verdict
from ntp.records.environment import Software
from ntp.records.guard import Block, Counts, GuardedCase, GuardRecord, Metric, Pair, Plan, Side

ONE, OTHER, THIRD = "simple-b8-s64-t1", "simple-b32-s128-t1", "simple-b32-s128-t2"
TIMES_NS = [7, 1, 10, 4, 9, 2, 6, 11, 3, 8, 5]


def pair_of(base_ns, head_ns, steps=None):
    """A pair whose sides took turns of so many steps; by default one turn each."""
    blocks = []
    for first in range(0, len(base_ns), steps or len(base_ns)):
        for side, times_ns in (("base", base_ns), ("head", head_ns)):
            blocks.append(Block(side=side, step_time_ns=tuple(times_ns[first : first + (steps or len(times_ns))])))
    return Pair(case_id=ONE, seed=0, blocks=tuple(blocks))


class TestStatistics:
    @pytest.mark.parametrize(
        ("name", "value"),
        [("min", 1), ("q10", 2), ("q25", 3.5), ("median", 6), ("trimmed mean", 5), ("mean", 6), ("p95", 10.5)],
    )
    def test_of_all_steps_of_each_side(self, name, value):
        pair = pair_of([100] * 11, TIMES_NS)
        assert METRICS[name](pair) == pytest.approx(math.log(value / 100))

    def test_of_turns_it_is_the_median_of_their_log_ratios(self):
        # Turns that took 2, 3 and 1.5 times as long, by their medians.
        pair = pair_of([10, 10, 90, 20, 20, 5, 30, 30, 30], [20, 20, 1, 60, 60, 900, 45, 1, 45], steps=3)
        assert METRICS["rounds"](pair) == pytest.approx(math.log(2))

    def test_turns_are_compared_with_those_beside_them(self):
        # The machine is three times as slow for the second half: both sides are.
        base = [100] * 10 + [300] * 10
        head = [102] * 10 + [306] * 10
        assert METRICS["rounds"](pair_of(base, head, steps=2)) == pytest.approx(math.log(1.02))

    SIDES = st.integers(1, 12).flatmap(
        lambda steps: st.tuples(*[st.lists(st.integers(100, 10**8), min_size=steps, max_size=steps)] * 2)
    )

    @given(SIDES)
    def test_they_agree_with_numpy(self, sides):
        base, head = map(np.array, sides)
        expected = {
            "min": head.min() / base.min(),
            "q10": np.quantile(head, 0.1) / np.quantile(base, 0.1),
            "q25": np.quantile(head, 0.25) / np.quantile(base, 0.25),
            "median": np.median(head) / np.median(base),
            "mean": head.mean() / base.mean(),
            "p95": np.quantile(head, 0.95) / np.quantile(base, 0.95),
        }
        pair = pair_of(*sides)
        assert {name: METRICS[name](pair) for name in expected} == pytest.approx(
            {name: math.log(ratio) for name, ratio in expected.items()}, abs=1e-9
        )
        of_turns = [math.log(h / b) for b, h in zip(*sides, strict=True)]
        assert METRICS["rounds"](pair_of(*sides, steps=1)) == pytest.approx(np.median(of_turns), abs=1e-9)

    @pytest.mark.parametrize("name", METRICS)
    @given(SIDES, st.integers(2, 50))
    def test_all_are_ratios(self, name, sides, factor):
        base, head = sides
        statistic = METRICS[name]
        assert statistic(pair_of(base, base)) == 0
        assert statistic(pair_of(head, base)) == pytest.approx(-statistic(pair_of(base, head)), abs=1e-9)
        slower = pair_of(base, [time_ns * factor for time_ns in base], steps=1)
        assert statistic(slower) == pytest.approx(math.log(factor))

    def test_one_disturbed_step_is_nothing_to_the_typical_and_all_to_the_mean(self):
        pair = pair_of([100] * 20, [100] * 19 + [2100], steps=4)
        assert log_ratios(pair, [Metric(name=TYPICAL), Metric(name=TAIL)]) == (
            0.0,
            pytest.approx(math.log(2)),
        )

    def test_a_pair_gives_one_log_ratio_for_each_guarded_statistic_in_order(self):
        pair = pair_of([100] * 11, TIMES_NS)
        names = ["p95", "min", "median"]
        assert log_ratios(pair, [Metric(name=name) for name in names]) == tuple(METRICS[name](pair) for name in names)


class TestThePlan:
    @pytest.mark.parametrize(
        ("cases", "budget_s", "max_pairs"),
        [(1, 10, 10), (1, 60, 21), (4, 60, 10), (4, 300, 26), (2, 300, 52), (4, 10_000, 100)],
    )
    def test_the_last_look_is_at_nearly_twice_the_pairs_that_the_budget_holds(self, cases, budget_s, max_pairs):
        plan = plan_of([str(i) for i in range(cases)], 0.01, budget_s)
        assert (plan.min_pairs, plan.max_pairs) == (5, max_pairs)

    @pytest.mark.parametrize(("threshold", "tail"), [(0.01, 0.05), (0.1, 0.5), (0.3, 0.99), (0.9, 0.99)])
    def test_the_typical_step_has_the_threshold_and_the_mean_five_of_them(self, threshold, tail):
        plan = plan_of([ONE, OTHER], threshold, 60)
        assert plan.cases == (ONE, OTHER)
        assert [(each.name, each.threshold) for each in plan.metrics] == [
            (TYPICAL, threshold),
            (TAIL, pytest.approx(tail)),
        ]

    @given(
        st.integers(1, 50),
        st.floats(0, 1, exclude_min=True, exclude_max=True, allow_subnormal=False),
        st.floats(0, 1e9, exclude_min=True),
    )
    def test_there_is_one_for_every_threshold_and_budget(self, cases, threshold, budget_s):
        plan = plan_of([str(i) for i in range(cases)], threshold, budget_s)
        assert plan.min_pairs * 2 <= plan.max_pairs <= 100

    def test_all_that_it_guards_can_be_computed(self):
        assert {each.name for each in plan_of([ONE], 0.01, 60).metrics} <= set(METRICS)
        assert {each.name for each in Plan(cases=(ONE,)).metrics} <= set(METRICS)


def counting(counts, **more):
    """The counts with other calls of operators, by their name in ``aten``."""
    calls = dict(counts.operators) | {f"aten::{name}": calls for name, calls in more.items()}
    return counts.model_copy(update={"operators": tuple(sorted(calls.items()))})


@pytest.fixture
def clean(make_guarded):
    """A case that has not changed."""
    return make_guarded(ONE)


class TestTimes:
    @pytest.mark.parametrize(
        ("log_ratio", "verdict"),
        [(0.03, "regression"), (0.01, "inconclusive"), (0.0, "pass"), (-0.01, "pass"), (-0.03, "improvement")],
    )
    def test_the_verdict_is_where_the_slowdown_lies(self, make_guarded, make_guard_record, log_ratio, verdict):
        found = verdict_on(make_guard_record(make_guarded(ONE, log_ratio)))
        assert (found.verdict, found.failures) == (verdict, ())
        (case,) = found.cases
        assert (case.case_id, case.verdict, case.times.pairs) == (ONE, verdict, 10)
        assert case.typical.metric.name == TYPICAL
        assert case.typical.ratio.value == pytest.approx(math.exp(log_ratio), rel=1e-6)
        assert (found.next_case is None) == (verdict != "inconclusive")

    def test_a_tail_alone_is_found_by_the_mean(self, make_guarded, make_guard_record):
        (case,) = verdict_on(make_guard_record(make_guarded(ONE, tail=0.5))).cases
        assert [each.verdict for each in case.times.findings] == ["pass", "regression"]
        assert (case.verdict, case.times.fired) == ("regression", (TAIL,))

    def test_the_threshold_is_the_plans(self, make_guarded, make_guard_record):
        case = make_guarded(ONE, 0.03)
        assert [verdict_on(make_guard_record(case, threshold=each)).verdict for each in (0.01, 0.05)] == [
            "regression",
            "pass",
        ]

    def test_one_slow_case_among_several_is_a_regression(self, make_guarded, make_guard_record, clean):
        found = verdict_on(make_guard_record(clean, make_guarded(OTHER, 0.03), make_guarded(THIRD, -0.03)))
        assert found.verdict == "regression"
        assert [case.verdict for case in found.cases] == ["pass", "regression", "improvement"]

    def test_before_the_first_look_nothing_is_decided(self, make_guarded, make_guard_record):
        for pairs in range(5):
            found = verdict_on(make_guard_record(make_guarded(ONE, -0.5, pairs=pairs)))
            assert (found.verdict, found.next_case) == ("inconclusive", ONE)
        assert verdict_on(make_guard_record(make_guarded(ONE, -0.5, pairs=5))).verdict == "improvement"


class TestCounts:
    def test_one_more_call_is_a_regression_however_fast(self, make_guarded, make_guard_record, clean):
        for case in (make_guarded(ONE, -0.03), make_guarded(ONE, pairs=0), clean):
            more = case.model_copy(update={"head": counting(case.base, copy_=3)})
            found = verdict_on(make_guard_record(more))
            assert found.verdict == found.cases[0].verdict == "regression"
            assert found.cases[0].regressions == found.cases[0].changes == (Change("aten::copy_", 2, 3),)
            assert (found.failures, found.cases[0].times.fired) == ((), ())

    def test_fewer_are_told_and_change_no_verdict(self, make_guard_record, clean):
        less = clean.model_copy(update={"head": counting(clean.base, copy_=1)})
        found = verdict_on(make_guard_record(less))
        assert (found.verdict, found.cases[0].regressions) == ("pass", ())
        assert found.cases[0].changes == (Change("aten::copy_", 2, 1),)

    @pytest.mark.parametrize(
        ("allowed", "verdict"),
        [
            ((), "regression"),
            (("aten::copy_", "aten::mul"), "pass"),
            (("aten::*",), "pass"),
            (("aten::copy_",), "regression"),
            (("copy_", "mul", "aten::"), "regression"),
        ],
    )
    def test_what_is_allowed_by_name_or_pattern_may_rise(self, make_guard_record, clean, allowed, verdict):
        more = clean.model_copy(update={"head": counting(clean.base, copy_=3, mul=1)})
        found = verdict_on(make_guard_record(more, allowed=allowed))
        assert found.verdict == verdict
        assert len(found.cases[0].changes) == 2, "what is allowed is told all the same"

    def test_what_is_allowed_allows_no_slowdown(self, make_guarded, make_guard_record):
        slower = make_guarded(ONE, 0.03)
        more = slower.model_copy(update={"head": counting(slower.base, copy_=3)})
        found = verdict_on(make_guard_record(more, allowed=("*",)))
        assert (found.verdict, found.cases[0].regressions) == ("regression", ())

    def test_a_case_whose_counts_rose_is_timed_all_the_same(self, make_guarded, make_guard_record):
        unknown = make_guarded(ONE, pairs=2)
        more = unknown.model_copy(update={"head": counting(unknown.base, copy_=3)})
        assert verdict_on(make_guard_record(more)).next_case == ONE


class TestChangedFilesThatWereNotLoaded:
    def record(self, make_guard_record, changed, base, head):
        record = make_guard_record(GuardedCase(case_id=ONE), changed=changed)
        sides = {"base": base, "head": head}
        update = {name: getattr(record, name).model_copy(update={"loaded": files}) for name, files in sides.items()}
        return record.model_copy(update=update)

    FILES = st.sets(st.sampled_from(["a.py", "b.py", "c.py"]))

    @given(changed=FILES, base=FILES, head=FILES)
    def test_it_is_all_of_them_or_none(self, make_guard_record, changed, base, head):
        record = self.record(make_guard_record, tuple(sorted(changed)), tuple(base), tuple(head))
        assert set(changed_but_not_loaded(record)) == (set() if changed & (base | head) else changed)

    @pytest.mark.parametrize("unknown", ["base", "head"])
    def test_nothing_is_said_where_a_side_cannot_tell(self, make_guard_record, unknown):
        loaded = {"base": (), "head": ()} | {unknown: None}
        assert changed_but_not_loaded(self.record(make_guard_record, ("a.py",), **loaded)) == ()


class TestWhatCannotBeCompared:
    def test_a_case_that_the_base_lacks(self, make_guard_record, clean):
        lacking = GuardedCase(case_id=OTHER, head=clean.head, base_failure="base: no such model")
        found = verdict_on(make_guard_record(clean, lacking))
        assert (found.verdict, found.failures, found.next_case) == ("not comparable", (), None)
        assert [case.verdict for case in found.cases] == ["pass", "not comparable"]
        assert found.cases[1].times.not_comparable == "base: no such model"
        assert (found.cases[1].typical, found.cases[1].changes) == (None, ())

    def test_the_others_are_measured_on(self, make_guarded, make_guard_record):
        lacking = GuardedCase(case_id=OTHER, base_failure="base: no such model")
        assert verdict_on(make_guard_record(lacking, make_guarded(ONE, pairs=2))).next_case == ONE

    def test_a_regression_elsewhere_outweighs_it(self, make_guarded, make_guard_record):
        lacking = GuardedCase(case_id=OTHER, base_failure="base: no such model")
        assert verdict_on(make_guard_record(lacking, make_guarded(ONE, 0.03))).verdict == "regression"

    def test_a_side_that_ran_what_is_not_its_own_is_no_side_whatever_was_counted_and_timed(
        self, make_guarded, make_guard_record
    ):
        slower = make_guarded(ONE, 0.03, foreign="base: mine was imported from mine.py of the work tree")
        found = verdict_on(make_guard_record(slower))
        assert (found.verdict, found.failures, found.next_case) == ("not comparable", (), None)
        assert found.cases[0].times.not_comparable.startswith("base: mine was imported")

    @pytest.mark.parametrize(("with_it", "without"), [("base", "head"), ("head", "base")])
    def test_an_ntp_of_its_own_against_the_one_installed(self, make_guard_record, clean, with_it, without):
        record = make_guard_record(clean)
        side = getattr(record, with_it).model_copy(update={"brings_ntp": True})
        verdict = verdict_on(record.model_copy(update={with_it: side}))
        assert verdict.verdict == "not comparable"
        reason = f"the {with_it} has an ntp of its own, the {without} none"
        assert verdict.cases[0].times.not_comparable.startswith(reason)

    def test_sides_on_different_software(self, make_guard_record, clean):
        base, head = (Side(ref=each, commit=each, software=Software(torch=each)) for each in ("2.8", "2.9"))
        found = verdict_on(make_guard_record(clean, base=base, head=head))
        assert (found.verdict, found.failures, found.next_case) == ("not comparable", (), None)
        (case,) = found.cases
        assert base.software.fingerprint in case.times.not_comparable
        assert head.software.fingerprint in case.times.not_comparable

    @pytest.mark.parametrize(
        "head", [None, Software(torch="2.8", ntp="2"), Software(torch="2.8", ntp="1")], ids=["unknown", "ntp", "same"]
    )
    def test_a_side_may_have_its_own_ntp_or_be_unknown(self, make_guard_record, clean, head):
        base = Side(ref="a", commit="a", software=Software(torch="2.8", ntp="1"))
        record = make_guard_record(clean, base=base, head=Side(ref="b", commit="b", software=head))
        assert verdict_on(record).verdict == "pass"


class TestFailures:
    def test_a_head_that_failed_is_no_verdict_and_ends_the_measuring(self, make_guarded, make_guard_record):
        failed = make_guarded(ONE, pairs=7, failure="head: died of SIGSEGV")
        found = verdict_on(make_guard_record(failed, make_guarded(OTHER, pairs=0)))
        assert found.failures == ("head: died of SIGSEGV",)
        assert (found.verdict, found.next_case) == ("not comparable", None)
        assert found.cases[0].failure == "head: died of SIGSEGV"

    def test_a_regression_is_one_also_where_another_case_has_failed(self, make_guarded, make_guard_record):
        failed = make_guarded(ONE, failure="head: died of SIGSEGV")
        slower = make_guarded(OTHER, 0.03)
        found = verdict_on(make_guard_record(failed, slower))
        assert (found.verdict, found.failures) == ("regression", ("head: died of SIGSEGV",))

    def test_the_counts_of_a_case_that_failed_later_still_count(self, make_guarded, make_guard_record):
        failed = make_guarded(ONE, pairs=1, failure="head: died of SIGSEGV")
        more = failed.model_copy(update={"head": counting(failed.base, copy_=3)})
        assert verdict_on(make_guard_record(more)).verdict == "regression"


class TestTheNextCase:
    def test_each_has_its_turn_until_all_are_decided(self, make_guarded, make_guard_record):
        wanted = []
        pairs = {ONE: 0, OTHER: 0, THIRD: 0}
        ratios = {ONE: 0.0, OTHER: 0.03, THIRD: 0.0}
        while True:
            cases = [make_guarded(case_id, ratios[case_id], pairs=count) for case_id, count in pairs.items()]
            found = verdict_on(make_guard_record(*cases))
            if found.next_case is None:
                break
            wanted.append(found.next_case)
            pairs[found.next_case] += 1
        assert wanted[:15] == [ONE, OTHER, THIRD] * 5
        assert found.verdict == "regression"
        assert max(pairs.values()) < 20

    def test_the_last_look_ends_it(self, make_guarded, make_guard_record):
        open_case = make_guarded(ONE, 0.01, pairs=12)
        assert verdict_on(make_guard_record(open_case, max_pairs=13)).next_case == ONE
        found = verdict_on(make_guard_record(open_case, max_pairs=12))
        assert (found.verdict, found.next_case) == ("inconclusive", None)


SIZES = st.integers(0, 2)
NAMES = ("aten::add_", "aten::copy_", "aten::mm")
COUNTS = st.builds(
    Counts,
    parameters=st.just(7),
    flops=SIZES,
    operators=st.lists(st.tuples(st.sampled_from(NAMES), SIZES), unique_by=lambda call: call[0]).map(tuple),
    allocated_bytes=SIZES,
    peak_tensor_bytes=st.just(7),
)
ALLOWED = st.lists(st.sampled_from([*NAMES, "aten::*", "flops", "*_bytes", "*"]), max_size=2).map(tuple)
SOFTWARE = st.sampled_from([None, Software(), Software(), Software(torch="2.9")])


FLAWS = ("pairs", "counts", "base_failure", "failure", "slower", "software")


@st.composite
def pairs_of(draw, case_id, numbers, times_ns):
    """Pairs of two turns, each side's of steps that all take as long."""
    drawn = draw(
        st.sampled_from(numbers).flatmap(lambda n: st.lists(st.tuples(times_ns, times_ns), min_size=n, max_size=n))
    )
    pairs = (pair_of([base_ns] * 4, [head_ns] * 4, steps=2) for base_ns, head_ns in drawn)
    return tuple(pair.model_copy(update={"case_id": case_id}) for pair in pairs)


@st.composite
def cases_with(draw, case_id, flaws):
    """A case that passes but for these flaws."""
    counts = draw(COUNTS)
    slower = "slower" in flaws
    return GuardedCase(
        case_id=case_id,
        base=draw(st.sampled_from([counts, counts, None])) if "counts" in flaws else counts,
        head=draw(st.none() | COUNTS) if "counts" in flaws else counts,
        pairs=draw(
            pairs_of(
                case_id,
                (0, 1, 4) if "pairs" in flaws else (5, 6, 7),
                st.integers(1, 10**8) if slower else st.integers(999_000, 1_001_000),
            )
        ),
        base_failure="no such model" if "base_failure" in flaws else "",
        failure="died" if "failure" in flaws else "",
    )


@st.composite
def records(draw):
    """Records that pass, such as have one flaw, and such as have any."""
    ids = draw(st.sampled_from([(ONE,), (ONE, OTHER), (ONE, OTHER, THIRD)]))
    at_most = draw(st.sampled_from([0, 1, len(FLAWS)]))
    flaws = draw(st.lists(st.sampled_from(FLAWS), max_size=at_most))
    flawed = draw(st.sampled_from(ids))
    cases = [draw(cases_with(case_id, flaws if case_id == flawed else ())) for case_id in ids]
    software = SOFTWARE if "software" in flaws else st.just(Software())
    return GuardRecord(
        started="2025-01-02T03:04:05+00:00",
        wall_time_s=1,
        command=(),
        base=Side(ref="main", commit="0", software=draw(software)),
        head=Side(ref="worktree", commit="1", software=draw(software)),
        plan=plan_of(ids, draw(st.sampled_from([0.01, 0.1, 0.5])), 60),
        budget_s=60,
        seed=0,
        allowed=draw(ALLOWED),
        cases=tuple(cases),
    )


class TestWhateverTheRecord:
    @given(records())
    def test_a_pass_has_pairs_of_every_cell_no_failure_and_no_rise_that_is_not_allowed(self, record):
        found = verdict_on(record)
        if found.verdict in ("pass", "improvement"):
            for case in record.cases:
                assert len(case.pairs) >= record.plan.min_pairs
                assert not case.failure
                assert not case.base_failure
                for name, base, head in every_count(case):
                    assert head <= base or any(fnmatchcase(name, each) for each in record.allowed)
            assert all(finding.deciding for case in found.cases for finding in case.times.findings)

    @given(records(), st.data())
    def test_without_pairs_of_one_cell_nothing_passes(self, record, data):
        bare = data.draw(st.sampled_from(record.cases))
        cases = tuple(case.model_copy(update={"pairs": ()}) if case is bare else case for case in record.cases)
        assert verdict_on(record.model_copy(update={"cases": cases})).verdict not in ("pass", "improvement")

    @given(records(), COUNTS, st.sampled_from(["flops", "allocated_bytes", "peak_tensor_bytes", *NAMES]), st.data())
    def test_one_more_of_anything_is_a_regression_unless_it_is_allowed(self, record, base, name, data):
        chosen = data.draw(st.sampled_from(record.cases))
        if name in NAMES:
            calls = dict(base.operators)
            head = base.model_copy(update={"operators": tuple((calls | {name: calls.get(name, 0) + 1}).items())})
        else:
            head = base.model_copy(update={name: getattr(base, name) + 1})
        more = chosen.model_copy(update={"base": base, "head": head})
        cases = tuple(more if case is chosen else case for case in record.cases)
        found = verdict_on(record.model_copy(update={"cases": cases}))
        (case,) = (case for case in found.cases if case.case_id == chosen.case_id)
        if any(fnmatchcase(name, each) for each in record.allowed):
            assert (case.regressions, case.verdict) == ((), case.times.verdict)
        else:
            assert found.verdict == case.verdict == "regression"
            assert [change.name for change in case.regressions] == [name]

    @given(records())
    def test_the_whole_is_as_grave_as_its_gravest_cell_and_next_comes_a_case_with_room_for_a_pair(self, record):
        found = verdict_on(record)
        assert found.verdict in get_args(Verdict)
        assert found.verdict in {case.verdict for case in found.cases}
        assert (found.verdict == "regression") == any(case.verdict == "regression" for case in found.cases)
        assert [case.case_id for case in found.cases] == list(record.plan.cases)
        if found.next_case is not None:
            (case,) = (case for case in record.cases if case.case_id == found.next_case)
            assert len(case.pairs) < record.plan.max_pairs
            assert not any(each.failure for each in record.cases)
            assert not case.base_failure

    @given(records())
    def test_a_file_gives_the_same_verdict_again(self, record):
        assert verdict_on(GuardRecord.model_validate_json(record.model_dump_json())) == verdict_on(record)

    @given(records(), st.randoms())
    def test_the_order_of_cases_and_of_pairs_is_nothing_to_it(self, record, random):
        cases = tuple(
            case.model_copy(update={"pairs": tuple(random.sample(case.pairs, len(case.pairs)))})
            for case in random.sample(record.cases, len(record.cases))
        )
        plan = record.plan.model_copy(update={"cases": tuple(case.case_id for case in cases)})
        one, other = verdict_on(record), verdict_on(record.model_copy(update={"plan": plan, "cases": cases}))
        assert one.verdict == other.verdict
        assert {case.case_id: verdicts_of(case) for case in one.cases} == {
            case.case_id: verdicts_of(case) for case in other.cases
        }

    @given(records())
    def test_its_summary_is_json_and_says_the_same(self, record):
        found = verdict_on(record)
        told = json.loads(json.dumps(summary(found), allow_nan=False))
        assert told["verdict"] == found.verdict
        assert tuple(told["failures"]) == found.failures
        for summed_up, case in zip(told["cases"], found.cases, strict=True):
            assert (summed_up["case"], summed_up["verdict"], summed_up["pairs"]) == (
                case.case_id,
                case.verdict,
                case.times.pairs,
            )
            assert summed_up["regressions"] == [change.name for change in case.regressions]
            assert [each["verdict"] for each in summed_up["metrics"]] == [each.verdict for each in case.times.findings]


def every_count(case):
    """Name, base and head of all that was counted on both sides."""
    if case.base is None or case.head is None:
        return
    for name in ("parameters", "flops", "allocated_bytes", "peak_tensor_bytes"):
        yield name, getattr(case.base, name), getattr(case.head, name)
    base, head = dict(case.base.operators), dict(case.head.operators)
    for name in {*base, *head}:
        yield name, base.get(name, 0), head.get(name, 0)


def verdicts_of(case):
    findings = [(each.metric.name, each.verdict, each.pairs, each.more_pairs) for each in case.times.findings]
    return case.verdict, case.times.verdict, case.times.not_comparable, findings, case.changes, case.regressions


def test_the_summary_of_a_verdict(make_guarded, make_guard_record):
    slower = make_guarded(ONE, 0.03)
    more = slower.model_copy(update={"head": counting(slower.base, copy_=3, mm=5)})
    told = summary(verdict_on(make_guard_record(more)))
    (case,) = told["cases"]
    assert (told["verdict"], told["failures"], case["not_comparable"]) == ("regression", [], "")
    assert case["changes"] == ["+1 aten::copy_ a step", "-1 aten::mm a step"]
    assert case["regressions"] == ["aten::copy_"]
    typical, tail = case["metrics"]
    assert (typical["metric"], typical["threshold"], tail["metric"]) == (TYPICAL, 0.01, TAIL)
    assert typical["interval"][0] < typical["ratio"] < typical["interval"][1]
    assert typical["ratio"] == pytest.approx(math.exp(0.03), rel=1e-6)
    assert typical["more_pairs"] is None
