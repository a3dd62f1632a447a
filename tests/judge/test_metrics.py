"""What is guarded of a pair, and the plan of a guard."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.guard import CPU, MEAN, METRICS, WALL, log_ratios, plan_of
from ntp.records.guard import Metric
from ntp.records.pairs import Block, Pair

ONE, TWO, PART = "simple-b8-s64-t1", "simple-b32-s128-t2", "simple-b8-s64-t2-forward"
TIMES_NS = [7, 1, 10, 4, 9, 2, 6, 11, 3, 8, 5]


def pair_of(base_ns, head_ns, steps=None, together=False, cpu_share=1.0):
    """A pair in blocks of that many steps; by default one block a side. Main threads run for a share of a step."""
    blocks = []
    for first in range(0, len(base_ns), steps or len(base_ns)):
        for side, times_ns in (("base", base_ns), ("head", head_ns)):
            of_block = tuple(times_ns[first : first + (steps or len(times_ns))])
            cpu_ns = tuple(round(cpu_share * time_ns) for time_ns in of_block)
            blocks.append(Block(side=side, step_time_ns=of_block, step_cpu_ns=cpu_ns))
    return Pair(case_id=ONE, seed=0, blocks=tuple(blocks), together=together)


def sharing(in_turn, shared):
    """The rounds of a pair in which the sides took turns, and those of another, on shared CPUs."""
    blocks = (block.model_copy(update={"shared": True}) for block in shared.blocks)
    return in_turn.model_copy(update={"blocks": (*in_turn.blocks, *blocks)})


class TestMetrics:
    @pytest.mark.parametrize(
        ("name", "value"),
        [("min", 1), ("q10", 2), ("q25", 3.5), ("median", 6), ("trimmed mean", 5), ("mean", 6), ("p95", 10.5)],
    )
    def test_of_all_steps_of_each_side(self, name, value):
        pair = pair_of([100] * 11, TIMES_NS)
        assert METRICS[name](pair) == pytest.approx(math.log(value / 100))

    def test_of_rounds_it_is_the_median_of_their_log_ratios(self):
        # Rounds in which the head took 2, 3 and 1.5 times as long, by the blocks' medians.
        pair = pair_of([10, 10, 90, 20, 20, 5, 30, 30, 30], [20, 20, 1, 60, 60, 900, 45, 1, 45], steps=3)
        assert METRICS["rounds"](pair) == pytest.approx(math.log(2))

    def test_blocks_are_compared_with_those_beside_them(self):
        # The machine is three times as slow for the second half: both sides are.
        base = [100] * 10 + [300] * 10
        head = [102] * 10 + [306] * 10
        assert METRICS["rounds"](pair_of(base, head, steps=2)) == pytest.approx(math.log(1.02))

    SIDES = st.integers(1, 12).flatmap(
        lambda steps: st.tuples(*[st.lists(st.integers(100, 10**8), min_size=steps, max_size=steps)] * 2)
    )

    @pytest.mark.parametrize("name", METRICS)
    @given(SIDES, st.integers(2, 50))
    def test_all_are_ratios(self, name, sides, factor):
        base, head = sides
        metric = METRICS[name]
        assert metric(pair_of(base, base)) == 0
        assert metric(pair_of(head, base)) == pytest.approx(-metric(pair_of(base, head)), abs=1e-9)
        slower = pair_of(base, [time_ns * factor for time_ns in base], steps=1)
        assert metric(slower) == pytest.approx(math.log(factor))

    def test_one_disturbed_step_is_nothing_to_the_typical_and_all_to_the_mean(self):
        pair = pair_of([100] * 20, [100] * 19 + [2100], steps=1)
        assert log_ratios(pair, [Metric(name=CPU), Metric(name=WALL), Metric(name=MEAN)]) == (
            0.0,
            0.0,
            pytest.approx(math.log(2)),
        )

    def test_a_fifth_of_the_rounds_is_left_out_at_either_end(self):
        head = [100, 110, 121, 50, 900]
        middle = (math.log(1.0) + math.log(1.1) + math.log(1.21)) / 3
        assert METRICS[WALL](pair_of([100] * 5, head, steps=1)) == pytest.approx(middle)

    def test_a_side_that_only_waits_has_the_same_cpu_time(self):
        base, head = [10**6] * 10, [12 * 10**5] * 10
        waiting = pair_of(base, head, steps=1)
        blocks = tuple(block.model_copy(update={"step_cpu_ns": (9 * 10**5,)}) for block in waiting.blocks)
        waiting = waiting.model_copy(update={"blocks": blocks})
        assert METRICS[WALL](waiting) == pytest.approx(math.log(1.2))
        assert METRICS[CPU](waiting) == 0

    def test_on_shared_cpus_only_the_cpu_time_counts_and_there_it_counts_alone(self):
        alone, shared = pair_of([100] * 4, [110] * 4, steps=1), pair_of([300] * 8, [500] * 8, steps=1)
        pair = sharing(alone, shared)
        assert METRICS[CPU](pair) == pytest.approx(math.log(5 / 3))
        # Nobody waited in the rounds in turn, whatever these took.
        assert METRICS[WALL](pair) == METRICS[MEAN](pair) == pytest.approx(math.log(5 / 3))

    def test_waiting_in_turn_is_added_to_the_cpu_time_on_shared_cpus(self):
        alone = pair_of([100] * 4, [130] * 4, steps=1)
        waiting = [
            block.model_copy(update={"step_cpu_ns": (100,)}) if block.side == "head" else block
            for block in alone.blocks
        ]
        pair = sharing(alone.model_copy(update={"blocks": tuple(waiting)}), pair_of([300] * 8, [306] * 8, steps=1))
        assert METRICS[CPU](pair) == pytest.approx(math.log(1.02))
        assert METRICS[WALL](pair) == METRICS[MEAN](pair) == pytest.approx(math.log(1.02 * 1.3))

    def test_what_differs_between_two_cpus_is_in_no_ratio_of_sides_that_swapped_them(self):
        """The base is on the slow CPU in even rounds, the head in odd ones."""
        base, head = [150, 100] * 10, [100, 150] * 10
        assert METRICS[WALL](pair_of(base, head, steps=1, together=True)) == pytest.approx(0, abs=1e-12)
        assert METRICS[WALL](pair_of(base[::2], head[::2], steps=1)) < -0.4


class TestThePlan:
    @pytest.mark.parametrize(
        ("cases", "budget_s", "max_pairs"),
        [(1, 10, 10), (1, 60, 26), (4, 60, 10), (4, 300, 33), (2, 300, 66), (4, 10_000, 100)],
    )
    def test_the_last_look_is_at_nearly_twice_the_pairs_that_the_budget_holds(self, cases, budget_s, max_pairs):
        plan = plan_of([f"simple-b{i + 1}-s8-t2" for i in range(cases)], 0.01, budget_s)
        assert (plan.min_pairs, plan.max_pairs) == (5, max_pairs)

    @pytest.mark.parametrize(
        ("threshold", "wall", "mean"), [(0.01, 0.03, 0.05), (0.1, 0.3, 0.5), (0.3, 0.9, 0.99), (0.9, 0.99, 0.99)]
    )
    def test_cpu_time_has_the_threshold_and_the_others_more(self, threshold, wall, mean):
        plan = plan_of([ONE, TWO, PART], threshold, 60)
        assert plan.cases == (ONE, TWO, PART)
        limits = {
            case_id: [(metric.name, pytest.approx(metric.threshold)) for metric in plan.metrics_of(case_id)]
            for case_id in plan.cases
        }
        assert limits == {
            TWO: [(CPU, threshold), (WALL, wall), (MEAN, mean)],
            ONE: [(CPU, threshold), (WALL, threshold), (MEAN, mean)],
            PART: [(WALL, wall), (MEAN, mean)],
        }

    @pytest.mark.parametrize("wall_threshold", [0.001, 0.03, 0.12, 0.9])
    def test_what_waits_can_have_a_threshold_of_its_own_in_the_same_proportion(self, wall_threshold):
        plan = plan_of([ONE, TWO, PART], 0.01, 60, wall_threshold)
        mean = pytest.approx(min(0.99, wall_threshold * 5 / 3))
        limits = [[metric.threshold for metric in plan.metrics_of(case_id)] for case_id in (TWO, ONE, PART)]
        assert limits == [
            [0.01, pytest.approx(wall_threshold), mean],
            [0.01, pytest.approx(wall_threshold / 3), mean],
            [pytest.approx(wall_threshold), mean],
        ]

    @given(
        st.integers(1, 50),
        st.floats(0, 1, exclude_min=True, exclude_max=True, allow_subnormal=False),
        st.floats(0, 1e9, exclude_min=True),
    )
    def test_there_is_one_for_every_threshold_and_budget(self, cases, threshold, budget_s):
        plan = plan_of([f"simple-b{i + 1}-s8-t2" for i in range(cases)], threshold, budget_s)
        assert plan.min_pairs * 2 <= plan.max_pairs <= 100
