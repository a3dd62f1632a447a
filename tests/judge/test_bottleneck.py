"""What bounds a step: from constructed observations to the sentence and the advice."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.case import PHASES, Case, Runtime, Workload
from ntp.judge.bottleneck import (
    MAX_FAULTS_PER_STEP,
    Work,
    bottleneck,
    operator_points,
    step_point,
    work_of,
    work_shares,
)
from ntp.records.observations import BETWEEN_OPERATORS, BETWEEN_PHASES, FlopCount, FlopShare, Observations

MS = 1_000_000
CASE = "simple-b32-s128-t2"
GFLOP = 10**9

kinds_of_work = st.sampled_from(
    [
        "aten::mm",
        "aten::_log_softmax",
        "aten::nll_loss_forward",
        "aten::add_",
        BETWEEN_OPERATORS,
        "Optimizer.step#AdamW",
    ]
)
phases = st.sampled_from([*PHASES, BETWEEN_PHASES])
rows = st.lists(st.tuples(kinds_of_work | st.text(max_size=30), phases, st.floats(1e-6, 1e6)), min_size=1, max_size=20)


def flop_count(gflop):
    return FlopCount(phases=(), operators=(FlopShare(name="aten::mm", flops=round(gflop * GFLOP)),) if gflop else ())


@pytest.fixture
def judged(make_measurement, make_operators):
    """``judged({(name, phase): ms, ...}, peaks, flops=GFLOP, case=..., faults=a step)``: a step of 100 ms, judged."""

    def judge(times_ms, peaks=None, flops=None, case=CASE, faults=0):
        operators = make_operators(*((name, phase, time_ms) for (name, phase), time_ms in times_ms.items()))
        observations = Observations(operators=operators, flops=None if flops is None else flop_count(flops))
        measurement = make_measurement(case, [100 * MS] * 11, observations=observations, minor_page_faults=11 * faults)
        return bottleneck(measurement, peaks)

    return judge


class TestKindsOfWork:
    @pytest.mark.parametrize(
        ("name", "phase", "work"),
        [
            ("aten::mm", "forward", "matrix products"),
            ("aten::addmm", "backward", "matrix products"),
            ("aten::baddbmm", "forward", "matrix products"),
            ("aten::_addmm_activation", "forward", "matrix products"),
            ("aten::linear", "forward", "matrix products"),
            ("aten::mkldnn_linear", "forward", "matrix products"),
            ("aten::matmul", "forward", "matrix products"),
            ("aten::convolution_backward", "backward", "matrix products"),
            ("aten::conv1d", "forward", "matrix products"),
            ("aten::_scaled_dot_product_flash_attention_for_cpu", "forward", "matrix products"),
            ("aten::_log_softmax", "loss", "softmax and loss"),
            ("aten::_log_softmax_backward_data", "backward", "softmax and loss"),
            ("aten::_softmax", "forward", "elementwise and copies"),  # attention's own
            ("aten::_softmax", "loss", "softmax and loss"),
            ("aten::nll_loss_backward", "backward", "softmax and loss"),
            ("aten::cross_entropy_loss", "loss", "softmax and loss"),
            ("aten::_fused_adamw_", "optimizer", "optimizer"),
            ("aten::mm", "optimizer", "optimizer"),  # of an optimizer such as Muon
            ("aten::threshold_backward", "backward", "elementwise and copies"),
            ("aten::embedding", "forward", "elementwise and copies"),
            ("aten::lgamma", "forward", "elementwise and copies"),
            ("aten::hamming_window", "forward", "elementwise and copies"),
            ("aten::upsample_bilinear2d", "forward", "elementwise and copies"),
            (BETWEEN_OPERATORS, "forward", "between operators"),
            (BETWEEN_OPERATORS, "optimizer", "between operators"),
            ("Optimizer.step#AdamW.step", "optimizer", "between operators"),
            ("autograd::engine::evaluate_function: MmBackward0", "backward", "between operators"),
        ],
    )
    def test_an_operator_is_of_the_kind_that_its_name_and_phase_say(self, make_operators, name, phase, work):
        assert work_of(make_operators((name, phase)).operators[0]) == work

    @given(rows)
    def test_every_operator_is_of_one_kind_and_the_shares_add_up(self, make_operators, operators):
        profile = make_operators(*operators)
        shares = work_shares(profile)
        assert sum(share.share for share in shares) == pytest.approx(1)
        assert list(shares) == sorted(shares, key=lambda share: -share.share)
        works = [share.work for share in shares]
        assert len(set(works)) == len(works)
        assert set(works) == {work_of(operator) for operator in profile.operators} <= set(get_args(Work))

    def test_shares_are_of_self_time(self, make_operators):
        profile = make_operators(("aten::mm", "forward", 3), ("aten::addmm", "backward", 3), ("aten::add", "loss", 2))
        assert work_shares(profile) == (("matrix products", 0.75), ("elementwise and copies", 0.25))

    def test_nobody_looked(self):
        assert work_shares(None) == ()


class TestAnswer:
    def test_products_are_held_against_the_route_that_torch_takes(self, judged, make_peaks):
        outcome = judged({("aten::mm", "forward"): 60, ("aten::add", "forward"): 40}, make_peaks(fp32=300), flops=9)
        # 9 GFLOP in 60 of 100 ms; the whole step does 90 of 300 GFLOP/s. Nobody saw what moved, so no word of a bound.
        assert outcome.answer == (
            "Matrix products take 60% of the step and run at 150 GFLOP/s, 50% of what torch's own route reaches on a "
            "large square. As a whole it does 90 GFLOP/s, 30% of the fastest product measured here with as many "
            "threads."
        )

    @pytest.mark.parametrize(
        ("step", "words"), [("onednn", "75% of what oneDNN reaches"), ("bf16", "25% of what bf16 reaches")]
    )
    def test_products_are_held_against_the_route_that_the_step_takes(self, judged, make_peaks, step, words):
        peaks = make_peaks(fp32=100, medium=200, bf16=600)
        outcome = judged({("aten::mm", "forward"): 60, ("aten::add", "forward"): 40}, peaks, 9, case=f"{CASE}-{step}")
        assert f"and run at 150 GFLOP/s, {words} on a large square." in outcome.answer

    def test_the_whole_step_has_its_place_under_the_roof(self, make_measurement, make_observations, make_peaks):
        measurement = make_measurement(CASE, [100 * MS], observations=make_observations())
        outcome = bottleneck(measurement, make_peaks(fp32=300, gb_per_s=20))
        assert outcome.answer.endswith(
            "As a whole it does 192 GFLOP/s, 64% of the fastest product measured here with as many threads; "
            "with 49 operations a byte it is bound by compute."
        )
        assert outcome.point == step_point(measurement, make_peaks(fp32=300, gb_per_s=20).at(2))

    @pytest.mark.parametrize(("precision", "share"), [("", 0.30), ("-bf16", 0.15), ("-bf16-matmul", 0.15)])
    def test_a_step_in_bf16_is_under_the_roof_of_bf16(self, judged, make_peaks, precision, share):
        times_ms = {("aten::mm", "forward"): 60, ("aten::add", "forward"): 40}
        outcome = judged(times_ms, make_peaks(fp32=300, bf16=600), flops=9, case=CASE + precision)
        assert outcome.point.share_of_peak == pytest.approx(share)

    def test_a_step_in_bf16_has_no_place_where_no_bf16_was_measured(self, judged, make_peaks):
        outcome = judged({("aten::mm", "forward"): 60}, make_peaks(fp32=300), flops=9, case=f"{CASE}-bf16")
        assert outcome.point is None

    def test_a_step_far_below_the_roof_is_not_bound_by_it(self, make_measurement, make_observations, make_peaks):
        measurement = make_measurement(CASE, [100 * MS], observations=make_observations())
        assert bottleneck(measurement, make_peaks(fp32=960, gb_per_s=20)).answer.endswith(
            "with 49 operations a byte neither compute nor bandwidth bounds it: its roof is 5.0 times as high."
        )

    def test_without_peaks_the_two_largest_kinds_are_told(self, judged):
        outcome = judged({("aten::mm", "forward"): 60, ("aten::_log_softmax", "loss"): 40}, flops=9)
        assert outcome.answer == "Matrix products take 60% of the step, softmax and loss 40%."
        assert outcome.point is None

    def test_peaks_of_other_thread_counts_say_nothing(self, judged, make_peaks):
        times_ms = {("aten::mm", "forward"): 60, ("aten::add", "forward"): 40}
        peaks = make_peaks(threads=1, fp32=100, medium=200)
        assert judged(times_ms, peaks, flops=9) == judged(times_ms, None, flops=9)

    @pytest.mark.parametrize("flops", [None, 0])
    def test_without_operations_there_is_no_rate(self, judged, make_peaks, flops):
        outcome = judged({("aten::mm", "forward"): 60, ("aten::add", "forward"): 40}, make_peaks(), flops=flops)
        assert outcome.answer == "Matrix products take 60% of the step."
        assert outcome.point is None

    @pytest.mark.parametrize(
        ("operator", "subject"),
        [
            (("aten::_fused_adamw_", "optimizer"), "The optimizer takes"),
            (("aten::_log_softmax", "loss"), "Softmax and loss take"),
            (("aten::add_", "forward"), "Elementwise work and copies take"),
            ((BETWEEN_OPERATORS, BETWEEN_PHASES), "What lies between operators takes"),
        ],
    )
    def test_each_kind_can_be_the_first(self, judged, make_peaks, operator, subject):
        outcome = judged({operator: 70, ("aten::mm", "forward"): 30}, make_peaks())
        assert outcome.answer == f"{subject} 70% of the step, matrix products 30%."

    def test_one_kind_alone(self, judged):
        assert judged({("aten::add_", "forward"): 1}).answer == "Elementwise work and copies take 100% of the step."

    def test_nothing_profiled(self, make_measurement, make_observations, make_peaks):
        measurement = make_measurement(CASE, [100 * MS], observations=make_observations(operators=None))
        outcome = bottleneck(measurement, make_peaks())
        assert outcome.answer == "The operators of this step were not observed: profile it to see what bounds it."
        assert (outcome.advice, outcome.shares) == ((), ())
        assert outcome.point.share_of_peak == pytest.approx(19.176357888 / 0.1 / 300)

    def test_nobody_looked_at_all(self, make_measurement):
        assert bottleneck(make_measurement(), None).point is None

    def test_a_step_too_short_for_the_clock(self, make_measurement, make_observations, make_peaks):
        outcome = bottleneck(make_measurement(CASE, [0, 0], observations=make_observations()), make_peaks())
        assert outcome.point.time_s == 1e-9


TIMES_MS = {
    ("aten::mm", "forward"): 60,
    ("aten::add", "forward"): 4,
    (BETWEEN_OPERATORS, "forward"): 4,
    ("aten::_log_softmax", "loss"): 32,
}


class TestAdvice:
    def test_a_faster_route_saves_at_most_what_its_rate_allows(self, judged, make_peaks):
        products, loss = judged(TIMES_MS, make_peaks(fp32=100, medium=160, bf16=400), flops=3).advice
        # 60 ms of products that run four times as fast take 15 ms.
        assert products.at_most == pytest.approx(0.60 * (1 - 100 / 400))
        assert "('medium') takes them to 80 GFLOP/s (1.6x)" in products.text
        assert "bf16 reaches 200 GFLOP/s (4.0x)" in products.text
        assert (loss.at_most, loss.text[:24]) == (0.32, "make the logits smaller:")

    def test_the_workloads_own_products_count_where_they_were_measured(self, judged, make_peaks):
        peaks = make_peaks(fp32=100, medium=200, workload=Workload())
        own = [product for product in peaks.by_threads[0].products if product.shape in peaks.shapes]
        slower = [
            product.model_copy(update={"time_ns": (product.best_ns * 4,)})
            for product in own
            if product.route == "default"
        ]
        others = [
            product for product in peaks.by_threads[0].products if product.route != "default" or product not in own
        ]
        at_threads = peaks.by_threads[0].model_copy(update={"products": (*slower, *others)})
        advice = judged(TIMES_MS, peaks.model_copy(update={"by_threads": (at_threads,)})).advice
        assert advice[0].at_most == pytest.approx(0.60 * (1 - 25 / 200), rel=1e-6)

    @pytest.mark.parametrize(
        "rates",
        [
            {"fp32": 100},
            {"fp32": 100, "medium": 50, "bf16": 50},
            {"fp32": 100, "onednn": 300},  # nothing that a user could set
            {"fp32": 100, "onednn": 300, "medium": 110},
            {"fp32": 100, "medium": 110, "bf16": 50},
            {"bf16": 100},
        ],
    )
    def test_no_faster_route_no_advice(self, judged, make_peaks, rates):
        (advice,) = judged(TIMES_MS, make_peaks(**rates), flops=3).advice
        assert advice.text.startswith("make the logits")

    @pytest.mark.parametrize(("step", "at_most"), [("onednn", 0.60 * (1 - 160 / 400)), ("bf16", None)])
    def test_the_route_that_a_step_takes_already_is_not_advised(self, judged, make_peaks, step, at_most):
        advice = judged(TIMES_MS, make_peaks(fp32=100, medium=160, bf16=400), flops=3, case=f"{CASE}-{step}").advice
        products = [item for item in advice if item.text.startswith("compute the products")]
        assert [item.at_most for item in products] == ([] if at_most is None else [pytest.approx(at_most)])
        assert not any("medium" in item.text for item in advice)

    def test_products_that_take_no_time_need_no_advice(self, judged, make_peaks):
        times_ms = {("aten::mm", "forward"): 4.9, ("aten::_log_softmax", "loss"): 95.1}
        (only,) = judged(times_ms, make_peaks(fp32=100, bf16=400), flops=3).advice
        assert only.at_most == pytest.approx(0.951)

    def test_an_optimizer_that_is_not_fused(self, judged):
        times_ms = {("aten::_foreach_add_", "optimizer"): 60, ("aten::_log_softmax", "loss"): 40}
        first, _ = judged(times_ms).advice
        assert (first.text[:19], first.at_most) == ("use the fused AdamW", 0.6)
        (rest,) = judged(times_ms, case=f"{CASE}-fused").advice
        assert rest.at_most == 0.4
        assert len(judged(times_ms, case=f"{CASE}-foreach").advice) == 2

    def test_a_step_of_many_short_operators(self, judged):
        (only,) = judged({(BETWEEN_OPERATORS, BETWEEN_PHASES): 96, ("aten::mm", "forward"): 4}).advice
        assert only == ("give each operator more to do: a larger batch, or torch.compile", 0.96)

    def test_elementwise_work(self, judged):
        (only,) = judged({("aten::add_", "forward"): 96, ("aten::mm", "forward"): 4}).advice
        assert only == ("fuse elementwise operations: try torch.compile", 0.96)

    def test_what_takes_less_than_a_twentieth_is_not_worth_a_word(self, judged, make_peaks):
        times_ms = {("aten::mm", "forward"): 80.4, (BETWEEN_OPERATORS, "data"): 4.9, ("aten::add", "forward"): 4.9}
        times_ms |= {("aten::nll_loss_forward", "loss"): 4.9, ("aten::_foreach_add_", "optimizer"): 4.9}
        assert judged(times_ms, make_peaks()).advice == ()

    def test_the_largest_saving_comes_first(self, judged):
        times_ms = {("aten::add", "forward"): 30, ("aten::_foreach_add_", "optimizer"): 20}
        times_ms |= {("aten::_log_softmax", "loss"): 10, (BETWEEN_OPERATORS, "data"): 40}
        pieces = judged(times_ms, faults=MAX_FAULTS_PER_STEP + 1).advice
        assert [advice.at_most for advice in pieces] == [*map(pytest.approx, (0.4, 0.3, 0.2, 0.1)), None]

    def test_page_faults_are_told_with_a_remedy_that_was_not_taken_yet(self, judged, make_measurement):
        faults = MAX_FAULTS_PER_STEP + 1
        times_ms = {("aten::mm", "forward"): 1}
        assert judged(times_ms, faults=faults - 1).advice == ()
        (plain,) = judged(times_ms, faults=faults, case=Case(runtime=Runtime(threads=2, allocator="glibc"))).advice
        assert plain.text == "keep memory mapped, for there are 1,001 page faults a step: use --allocator glibc-tuned"
        (tuned,) = judged(times_ms, faults=faults).advice
        assert "1,001 page faults a step" in tuned.text
        assert "glibc-tuned" not in tuned.text


class TestPoints:
    def test_a_step_without_its_operators_has_no_bytes(self, make_measurement, make_observations, make_peaks):
        measurement = make_measurement(CASE, [50 * MS], observations=make_observations(operators=None))
        point = step_point(measurement, make_peaks(fp32=300).at(2))
        assert (point.flops, point.bytes_moved) == (19_176_357_888, None)
        assert point.time_s == pytest.approx(0.05)
        assert point.peak_flops_per_s == pytest.approx(300e9)

    def test_a_steps_bytes_are_those_of_all_its_operators(self, make_measurement, make_observations, make_peaks):
        measurement = make_measurement(CASE, [50 * MS], observations=make_observations())
        assert step_point(measurement, make_peaks().at(2)).bytes_moved == pytest.approx(390.3e6)

    @pytest.mark.parametrize("missing", [{"peaks": None}, {"flops": None}, {"flops": 0}, {"gb_per_s": None}])
    def test_what_is_missing_leaves_no_point(self, make_measurement, make_observations, make_peaks, missing):
        flops = missing.get("flops", 1)
        observations = make_observations(flops=None if flops is None else flop_count(flops))
        peaks = None if "peaks" in missing else make_peaks(gb_per_s=missing.get("gb_per_s", 20)).at(2)
        assert step_point(make_measurement(CASE, [MS], observations=observations), peaks) is None

    def test_the_costliest_operators_that_do_something(self, make_measurement, make_operators, make_peaks):
        operators = make_operators(
            ("aten::mm", "forward", 40, 1, 0, 100, 8),
            ("aten::view", "forward", 30),
            ("aten::copy_", "forward", 20, 1, 0, 200),
            ("aten::never", "forward", 0, 1, 0, 1, 1),
            ("aten::add", "forward", 10, 1, 0, 50, 0.01),
        )
        measurement = make_measurement(CASE, observations=Observations(operators=operators))
        peaks = make_peaks(fp32=400, gb_per_s=20).at(2)
        points = operator_points(measurement, peaks)
        assert [operator.name for operator, _ in points] == ["aten::mm", "aten::copy_", "aten::add"]
        product, copy, _ = (point for _, point in points)
        assert (product.time_s, product.achieved_flops_per_s) == pytest.approx((0.04, 200e9))
        assert (product.bound, copy.bound) == ("compute", "bandwidth")
        assert copy.share_of_roof == pytest.approx(0.5)
        assert operator_points(measurement, peaks, most=1) == points[:1]

    def test_no_roof_or_no_profile_no_points(self, make_measurement, make_observations, make_peaks):
        observed = make_measurement(CASE, observations=make_observations())
        unseen = make_measurement(CASE, observations=make_observations(operators=None))
        assert operator_points(observed, None) == operator_points(unseen, make_peaks().at(2)) == ()
        assert operator_points(observed, make_peaks(gb_per_s=None).at(2)) == ()
