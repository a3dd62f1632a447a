"""The verdict on a guard's record: on records made by hand, and on whatever else a record may hold."""

import json
import math
from fnmatch import fnmatchcase
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.counts import Change
from ntp.judge.guard import CPU, MEAN, WALL, changed_but_not_loaded, plan_of, summary, verdict_on
from ntp.judge.verdict import Verdict
from ntp.records.environment import Software
from ntp.records.guard import GuardedCase, GuardRecord, Instructions
from ntp.records.pairs import Block, Counts, Pair, Side

ONE, OTHER, THIRD = "simple-b8-s64-t1", "simple-b32-s128-t1", "simple-b32-s128-t2"


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
        ("log_ratio", "expected"),
        [(0.03, "regression"), (0.01, "inconclusive"), (0.0, "pass"), (-0.01, "pass"), (-0.03, "improvement")],
    )
    def test_the_verdict_is_where_the_slowdown_lies(self, make_guarded, make_guard_record, log_ratio, expected):
        verdict = verdict_on(make_guard_record(make_guarded(ONE, log_ratio)))
        assert (verdict.verdict, verdict.failures) == (expected, ())
        (case,) = verdict.cases
        assert (case.case_id, case.verdict, case.times.pairs) == (ONE, expected, 10)
        assert case.first.metric.name == CPU
        assert case.first.ratio.value == pytest.approx(math.exp(log_ratio), rel=1e-6)
        assert (verdict.next_case is None) == (expected != "inconclusive")

    def test_a_tail_alone_is_found_by_the_mean(self, make_guarded, make_guard_record):
        (case,) = verdict_on(make_guard_record(make_guarded(ONE, tail=0.5))).cases
        assert [finding.verdict for finding in case.times.findings] == ["pass", "pass", "regression"]
        assert (case.verdict, case.times.fired) == ("regression", (MEAN,))

    def test_what_only_waits_is_held_to_the_wall_threshold(self, make_guarded, make_guard_record):
        for waiting, expected in ((0.02, "pass"), (0.05, "regression")):
            (case,) = verdict_on(make_guard_record(make_guarded(THIRD, waiting=waiting))).cases
            assert case.verdict == expected
            assert case.times.fired == ((WALL,) if expected == "regression" else ())
        (case,) = verdict_on(make_guard_record(make_guarded(ONE, waiting=0.02))).cases
        assert case.times.fired == (WALL,), "one thread waits for no other: all of its time has the smallest threshold"

    def test_the_threshold_is_the_plans(self, make_guarded, make_guard_record):
        case = make_guarded(ONE, 0.03)
        assert [verdict_on(make_guard_record(case, threshold=share)).verdict for share in (0.01, 0.05)] == [
            "regression",
            "pass",
        ]

    def test_one_slow_case_among_several_is_a_regression(self, make_guarded, make_guard_record, clean):
        verdict = verdict_on(make_guard_record(clean, make_guarded(OTHER, 0.03), make_guarded(THIRD, -0.03)))
        assert verdict.verdict == "regression"
        assert [case.verdict for case in verdict.cases] == ["pass", "regression", "improvement"]


class TestCounts:
    def test_one_more_call_is_a_regression_however_fast(self, make_guarded, make_guard_record, clean):
        for case in (make_guarded(ONE, -0.03), make_guarded(ONE, pairs=0), clean):
            more = case.model_copy(update={"head": counting(case.base, copy_=3)})
            verdict = verdict_on(make_guard_record(more))
            assert verdict.verdict == verdict.cases[0].verdict == "regression"
            assert verdict.cases[0].regressions == verdict.cases[0].changes == (Change("aten::copy_", 2, 3),)
            assert (verdict.failures, verdict.cases[0].times.fired) == ((), ())
            assert (verdict.next_case == ONE) == (not case.pairs), "its times are measured all the same"

    def test_fewer_are_told_and_change_no_verdict(self, make_guard_record, clean):
        less = clean.model_copy(update={"head": counting(clean.base, copy_=1)})
        verdict = verdict_on(make_guard_record(less))
        assert (verdict.verdict, verdict.cases[0].regressions) == ("pass", ())
        assert verdict.cases[0].changes == (Change("aten::copy_", 2, 1),)

    @pytest.mark.parametrize(
        ("allowed", "expected"),
        [
            ((), "regression"),
            (("aten::*",), "pass"),
            (("aten::copy_",), "regression"),
        ],
    )
    def test_what_is_allowed_by_name_or_pattern_may_rise(self, make_guard_record, clean, allowed, expected):
        more = clean.model_copy(update={"head": counting(clean.base, copy_=3, mul=1)})
        verdict = verdict_on(make_guard_record(more, allowed=allowed))
        assert verdict.verdict == expected
        assert len(verdict.cases[0].changes) == 2, "what is allowed is told all the same"

    def test_what_is_allowed_allows_no_slowdown(self, make_guarded, make_guard_record):
        slower = make_guarded(ONE, 0.03)
        more = slower.model_copy(update={"head": counting(slower.base, copy_=3)})
        verdict = verdict_on(make_guard_record(more, allowed=("*",)))
        assert (verdict.verdict, verdict.cases[0].regressions) == ("regression", ())


class TestInstructions:
    @pytest.mark.parametrize(
        ("head", "allowed", "expected"),
        [
            (1_000_000, (), "pass"),
            (1_000_999, (), "pass"),
            (1_001_001, (), "regression"),
            (1_100_000, ("instructions",), "pass"),
            (1_100_000, ("aten::*",), "regression"),
            (900_000, (), "pass"),
        ],
    )
    def test_a_tenth_of_a_percent_is_a_finding_unless_it_is_allowed(
        self, make_guard_record, clean, head, allowed, expected
    ):
        counted = Instructions(case_id="simple-b2-s16-t1", base=1_000_000, head=head)
        verdict = verdict_on(make_guard_record(clean, instructions=(counted,), allowed=allowed))
        assert verdict.verdict == expected
        (judged,) = verdict.instructions
        assert (judged.verdict, judged.ratio) == (expected, head / 1_000_000)
        assert verdict.cases[0].verdict == "pass"
        assert summary(verdict)["instructions"] == [
            {"case": "simple-b2-s16-t1", "verdict": expected, "ratio": head / 1_000_000}
        ]

    def test_a_count_that_failed_is_a_failure_and_ends_the_measuring(self, make_guarded, make_guard_record):
        record = make_guard_record(make_guarded(ONE, pairs=2), instructions_failure="head: died")
        verdict = verdict_on(record)
        assert (verdict.failures, verdict.next_case) == (("head: died",), None)


@pytest.mark.parametrize(
    ("changed", "base", "head", "told"),
    [
        (("a.py", "b.py"), ("c.py",), (), ("a.py", "b.py")),
        (("a.py", "b.py"), ("b.py",), ("c.py",), ()),
        (("a.py", "b.py"), (), ("a.py", "b.py"), ()),
        (("a.py",), None, (), ()),
        (("a.py",), (), None, ()),
        ((), (), (), ()),
    ],
)
def test_changed_files_are_told_if_neither_side_loaded_any_and_both_can_say_so(
    make_guard_record, changed, base, head, told
):
    record = make_guard_record(GuardedCase(case_id=ONE), changed=changed)
    sides = {"base": record.base, "head": record.head}
    loaded = {
        name: sides[name].model_copy(update={"loaded": files}) for name, files in (("base", base), ("head", head))
    }
    assert changed_but_not_loaded(record.model_copy(update=loaded)) == told


class TestWhatCannotBeCompared:
    def test_a_case_that_the_base_lacks(self, make_guard_record, clean):
        lacking = GuardedCase(case_id=OTHER, head=clean.head, base_failure="base: no such model")
        verdict = verdict_on(make_guard_record(clean, lacking))
        assert (verdict.verdict, verdict.failures, verdict.next_case) == ("not comparable", (), None)
        assert [case.verdict for case in verdict.cases] == ["pass", "not comparable"]
        assert verdict.cases[1].times.not_comparable == "base: no such model"
        assert (verdict.cases[1].first, verdict.cases[1].changes) == (None, ())

    def test_the_others_are_measured_on(self, make_guarded, make_guard_record):
        lacking = GuardedCase(case_id=OTHER, base_failure="base: no such model")
        assert verdict_on(make_guard_record(lacking, make_guarded(ONE, pairs=2))).next_case == ONE

    def test_a_side_that_ran_what_is_not_its_own_is_no_side_whatever_was_counted_and_timed(
        self, make_guarded, make_guard_record
    ):
        slower = make_guarded(ONE, 0.03, foreign="base: mine was imported from mine.py of the work tree")
        verdict = verdict_on(make_guard_record(slower))
        assert (verdict.verdict, verdict.failures, verdict.next_case) == ("not comparable", (), None)
        assert verdict.cases[0].times.not_comparable.startswith("base: mine was imported")

    @pytest.mark.parametrize(("with_it", "without"), [("base", "head"), ("head", "base")])
    def test_an_ntp_of_its_own_against_the_one_installed(self, make_guard_record, clean, with_it, without):
        record = make_guard_record(clean)
        side = getattr(record, with_it).model_copy(update={"brings_ntp": True})
        verdict = verdict_on(record.model_copy(update={with_it: side}))
        assert verdict.verdict == "not comparable"
        reason = f"the {with_it} has an ntp of its own, the {without} none"
        assert verdict.cases[0].times.not_comparable.startswith(reason)

    def test_sides_on_different_software(self, make_guard_record, clean):
        base, head = (Side(ref=torch, commit=torch, software=Software(torch=torch)) for torch in ("2.8", "2.9"))
        verdict = verdict_on(make_guard_record(clean, base=base, head=head))
        assert (verdict.verdict, verdict.failures, verdict.next_case) == ("not comparable", (), None)
        (case,) = verdict.cases
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
        verdict = verdict_on(make_guard_record(failed, make_guarded(OTHER, pairs=0)))
        assert verdict.failures == ("head: died of SIGSEGV",)
        assert (verdict.verdict, verdict.next_case) == ("not comparable", None)
        assert verdict.cases[0].failure == "head: died of SIGSEGV"

    def test_a_regression_is_one_also_where_another_case_has_failed(self, make_guarded, make_guard_record):
        failed = make_guarded(ONE, failure="head: died of SIGSEGV")
        slower = make_guarded(OTHER, 0.03)
        verdict = verdict_on(make_guard_record(failed, slower))
        assert (verdict.verdict, verdict.failures) == ("regression", ("head: died of SIGSEGV",))


class TestTheNextCase:
    def test_the_cases_alternate_until_all_are_decided(self, make_guarded, make_guard_record):
        wanted = []
        pairs = {ONE: 0, OTHER: 0, THIRD: 0}
        ratios = {ONE: 0.0, OTHER: 0.03, THIRD: 0.0}
        while True:
            cases = [make_guarded(case_id, ratios[case_id], pairs=count) for case_id, count in pairs.items()]
            verdict = verdict_on(make_guard_record(*cases))
            if verdict.next_case is None:
                break
            wanted.append(verdict.next_case)
            pairs[verdict.next_case] += 1
        assert wanted[:15] == [ONE, OTHER, THIRD] * 5
        assert verdict.verdict == "regression"
        assert max(pairs.values()) < 20


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
    """Pairs of two rounds, in which all steps of a side take equally long."""
    drawn = draw(
        st.sampled_from(numbers).flatmap(lambda n: st.lists(st.tuples(times_ns, times_ns), min_size=n, max_size=n))
    )
    rounds = [
        [
            Block(side=side, step_time_ns=(time_ns,), step_cpu_ns=(time_ns,))
            for side, time_ns in zip(("base", "head"), times_ns, strict=True)
        ]
        for times_ns in drawn
    ]
    return tuple(Pair(case_id=case_id, seed=0, blocks=(*blocks, *blocks)) for blocks in rounds)


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
    def test_a_pass_has_pairs_of_every_case_no_failure_and_no_rise_that_is_not_allowed(self, record):
        verdict = verdict_on(record)
        if verdict.verdict in ("pass", "improvement"):
            for case in record.cases:
                assert len(case.pairs) >= record.plan.min_pairs
                assert not case.failure
                assert not case.base_failure
                for name, base, head in every_count(case):
                    assert head <= base or any(fnmatchcase(name, pattern) for pattern in record.allowed)
            assert all(finding.deciding for case in verdict.cases for finding in case.times.findings)

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
        verdict = verdict_on(record.model_copy(update={"cases": cases}))
        (case,) = (case for case in verdict.cases if case.case_id == chosen.case_id)
        if any(fnmatchcase(name, pattern) for pattern in record.allowed):
            assert (case.regressions, case.verdict) == ((), case.times.verdict)
        else:
            assert verdict.verdict == case.verdict == "regression"
            assert [change.name for change in case.regressions] == [name]

    @given(records())
    def test_the_gravest_case_decides_and_next_comes_a_case_with_room_for_a_pair(self, record):
        verdict = verdict_on(record)
        assert verdict.verdict in get_args(Verdict)
        assert verdict.verdict in {case.verdict for case in verdict.cases}
        assert (verdict.verdict == "regression") == any(case.verdict == "regression" for case in verdict.cases)
        assert [case.case_id for case in verdict.cases] == list(record.plan.cases)
        if verdict.next_case is not None:
            (case,) = (case for case in record.cases if case.case_id == verdict.next_case)
            assert len(case.pairs) < record.plan.max_pairs
            assert not any(case.failure for case in record.cases)
            assert not case.base_failure

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
    def test_a_file_and_a_summary_say_the_same(self, record):
        verdict = verdict_on(record)
        assert verdict_on(GuardRecord.model_validate_json(record.model_dump_json())) == verdict
        told = json.loads(json.dumps(summary(verdict), allow_nan=False))
        assert told["verdict"] == verdict.verdict
        assert tuple(told["failures"]) == verdict.failures
        for summed_up, case in zip(told["cases"], verdict.cases, strict=True):
            assert (summed_up["case"], summed_up["verdict"], summed_up["pairs"]) == (
                case.case_id,
                case.verdict,
                case.times.pairs,
            )
            assert summed_up["regressions"] == [change.name for change in case.regressions]
            verdicts = [finding.verdict for finding in case.times.findings]
            assert [metric["verdict"] for metric in summed_up["metrics"]] == verdicts


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
    findings = [(finding.metric.name, *finding[1:3], finding.more_pairs) for finding in case.times.findings]
    return case.verdict, case.times.verdict, case.times.not_comparable, findings, case.changes, case.regressions


def test_the_summary_of_a_verdict(make_guarded, make_guard_record):
    slower = make_guarded(ONE, 0.03)
    more = slower.model_copy(update={"head": counting(slower.base, copy_=3, mm=5)})
    told = summary(verdict_on(make_guard_record(more)))
    (case,) = told["cases"]
    assert (told["verdict"], told["failures"], case["not_comparable"]) == ("regression", [], "")
    assert case["changes"] == ["+1 aten::copy_ a step", "-1 aten::mm a step"]
    assert case["regressions"] == ["aten::copy_"]
    typical, _, tail = case["metrics"]
    assert (typical["metric"], typical["threshold"], tail["metric"]) == (CPU, 0.01, MEAN)
    assert typical["interval"][0] < typical["ratio"] < typical["interval"][1]
    assert typical["ratio"] == pytest.approx(math.exp(0.03), rel=1e-6)
    assert typical["more_pairs"] is None
