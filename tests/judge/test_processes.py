import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from ntp.judge.between_runs import DEFAULT_NOISE, RunNoise, ratio_at_equal_speed, ratio_of_runs
from ntp.judge.processes import CaseProcesses, Level, half_widths, levels, levels_of_processes, ratio, spreads
from ntp.judge.statistics import t_quantile
from tests.conftest import MakeMeasurement
from tests.judge.case_processes import (
    CASE_A,
    CASE_B,
    KERNEL_A,
    KERNEL_B,
    OTHER,
    REST_A,
    REST_B,
    A,
    B,
    beside,
    level_of,
    processes,
    times_ns,
)


@given(degrees=st.floats(1, 1e5), probability=st.floats(0.5, 0.995))
def test_students_quantile_is_scipys(degrees: float, probability: float) -> None:
    assert t_quantile(degrees, probability) == pytest.approx(float(stdtrit(degrees, probability)), rel=1e-6, abs=1e-9)


def test_a_level_is_the_geometric_mean_of_the_medians_in_an_interval_of_students() -> None:
    level = level_of(8, 2)
    assert level.value_ns == pytest.approx(4)
    assert level.std_error == pytest.approx(math.log(2))
    assert level.interval is not None
    assert level.interval.high == pytest.approx(4 * 2 ** float(stdtrit(1, 0.975)))
    assert level.interval.low * level.interval.high == pytest.approx(16)
    assert level.half_width == pytest.approx(level.interval.high / 4 - 1)


def test_cases_of_one_thread_count_share_one_estimate_of_their_spread(make_measurement: MakeMeasurement) -> None:
    noisy, quiet = make_measurement(A, levels=(1.0, 1.1, 1.2)), make_measurement(B, levels=(1.0, 1.0, 1.0))
    apart = make_measurement(OTHER, levels=(1.0, 1.0, 1.0))
    estimated = levels([noisy, quiet, apart])
    assert list(estimated) == [noisy.case, quiet.case, apart.case]
    assert estimated[noisy.case].std_error == estimated[quiet.case].std_error > 0
    assert estimated[noisy.case].degrees == 4
    assert estimated[apart.case].std_error == 0
    assert half_widths([noisy, quiet, apart])[apart.case] == 0


def test_a_single_process_has_a_level_and_no_interval(make_measurement: MakeMeasurement) -> None:
    estimated = levels([make_measurement(A), make_measurement(B, levels=(1.0, 1.1))])
    single, double = estimated.values()
    assert single.value_ns == pytest.approx(10_000_000)
    assert single.interval is None
    assert single.half_width == math.inf
    assert double.interval is not None
    for compared in (ratio(single, double), ratio(double, single), ratio_of_runs(single, double)):
        assert compared.interval is None
        assert compared.value > 0


def test_a_case_measured_twice_counts_by_its_last_measurement(make_measurement: MakeMeasurement) -> None:
    first, last = make_measurement(A, levels=(1.0, 1.1)), make_measurement(A, levels=(2.0, 2.0))
    assert levels([first, last])[CASE_A].value_ns == pytest.approx(20_000_000)


@given(medians=times_ns, factor=st.sampled_from([2.0, 1024.0]))
def test_an_interval_scales_with_its_times(medians: list[int], factor: float) -> None:
    interval, scaled = level_of(*medians).interval, level_of(*[factor * value for value in medians]).interval
    assert interval is not None
    assert scaled == pytest.approx(tuple(factor * limit for limit in interval), rel=1e-6)


@given(medians=times_ns, data=st.data())
def test_the_order_of_processes_does_not_matter(medians: list[int], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(medians))
    assert level_of(*shuffled)[:3] == pytest.approx(level_of(*medians)[:3])


@given(a=times_ns, b=times_ns)
def test_limits_are_in_order_and_a_ratio_turned_round_is_its_inverse(a: list[int], b: list[int]) -> None:
    run = levels_of_processes([processes(CASE_A, *a), processes(CASE_B, *b)])
    for compare in (ratio, ratio_of_runs):
        there, back = compare(run[CASE_A], run[CASE_B]), compare(run[CASE_B], run[CASE_A])
        assert there.interval is not None
        assert 0 < there.interval.low <= there.interval.value <= there.interval.high < math.inf
        assert there.log_mean == pytest.approx(-back.log_mean)
        assert there.std_error == pytest.approx(back.std_error)
        assert there.degrees >= 1


def test_samples_of_one_nanosecond_and_equal_samples_have_an_interval_of_no_width(
    make_measurement: MakeMeasurement,
) -> None:
    estimated = levels([make_measurement(A, (0, 0), levels=(1, 1)), make_measurement(B, (1, 1), levels=(1, 1))])
    a, b = estimated.values()
    assert a.interval == b.interval == (1, 1, 1)
    assert ratio(a, b).interval == (1, 1, 1)
    between = ratio_of_runs(a, b).interval
    assert between is not None
    assert between.low < 1 < between.high


def test_degrees_of_freedom_are_welchs_between_separate_estimates_and_those_of_a_shared_one() -> None:
    a, b = Level(0, 0.01, 4), Level(0, 0.03, 2)
    assert ratio(a, b).degrees == pytest.approx(0.001**2 / (0.0001**2 / 4 + 0.0009**2 / 2))
    shared = ratio(Level(0, 0.01, 8, "pool"), Level(0, 0.01, 8, "pool"))
    assert (shared.std_error, shared.degrees) == (pytest.approx(0.01 * math.sqrt(2)), 8)
    between = ratio_of_runs(Level(0, 0, 4), Level(0, 0, 4), RunNoise(0.01, 7))
    assert (between.std_error, between.degrees) == (pytest.approx(0.01 * math.sqrt(2)), pytest.approx(7))


@pytest.mark.parametrize("between", [0.0, DEFAULT_NOISE.spread])
def test_intervals_hold_the_truth_as_often_as_they_promise(between: float) -> None:
    rng, trials, number = np.random.default_rng(15), 2000, 5
    held = 0
    for _ in range(trials):
        runs = rng.normal(0, between, 2)
        logs = rng.normal(16, 0.01, (2, 2, number)) + runs[:, None, None]
        one, other = (
            levels_of_processes(
                processes(case, *np.exp(values)) for case, values in zip((CASE_A, CASE_B), run, strict=True)
            )
            for run in logs
        )
        if between:
            noise = RunNoise(float(np.std(rng.normal(0, between, 11), ddof=1)), 10)
            interval = ratio_of_runs(one[CASE_A], other[CASE_A], noise).interval
        else:
            interval = ratio(one[CASE_A], one[CASE_B]).interval
        assert interval is not None
        held += interval.low <= 1 <= interval.high
    assert 0.94 < held / trials < 0.965


def test_the_noise_of_a_run_is_split_into_steps_processes_and_rounds(make_measurement: MakeMeasurement) -> None:
    rng = np.random.default_rng(15)
    rounds, cases = rng.normal(0, 0.03, 40), [f"simple-b{2**i}-s64-t1" for i in range(1, 6)]
    measured = [
        make_measurement(
            case,
            [round(1e7 * math.exp(step)) for step in rng.normal(0, 0.05, 200)],
            levels=[math.exp(round_ + rng.normal(0, 0.01)) for round_ in rounds],
        )
        for case in cases
    ]
    split = spreads(measured)
    assert split.steps == pytest.approx(0.05, rel=0.1)
    assert split.processes == pytest.approx(0.01, rel=0.15)
    assert split.rounds == pytest.approx(0.03, rel=0.35)


def test_spreads_that_a_run_cannot_tell_are_missing(make_measurement: MakeMeasurement) -> None:
    assert spreads([make_measurement(A, (5,))]) == (None, None, None)
    assert spreads([make_measurement(A), make_measurement(B)])[1:] == (None, None)
    one_case = spreads([make_measurement(A, levels=(1.0, 1.1))])
    assert one_case.processes == pytest.approx(math.log(1.1) / math.sqrt(2), rel=1e-3)
    assert one_case.rounds is None
    assert spreads([make_measurement(A, levels=(1, 1)), make_measurement(B, levels=(1, 1))])[1:] == (0, 0)


@given(medians=times_ns, kernel=st.integers(1, 10**9))
def test_normalised_times_are_free_of_what_slows_the_machine(medians: list[int], kernel: int) -> None:
    slowed = CaseProcesses(CASE_A, tuple(map(float, medians)), tuple(kernel * median for median in medians))
    normalised = slowed.normalised()
    assert normalised is not None
    assert normalised.medians_ns == pytest.approx([1 / kernel] * len(medians))
    assert slowed._replace(kernel_ns=(None, *slowed.kernel_ns[1:])).normalised() is None


@given(widths=st.lists(st.floats(1, 1e6), min_size=2, max_size=5, unique=True))
def test_students_quantile_falls_with_the_degrees_of_freedom(widths: list[float]) -> None:
    quantiles = [t_quantile(degrees, 0.975) for degrees in sorted(widths)]
    assert all(a >= b - 1e-6 for a, b in pairwise(quantiles))


def without_kernel(cases: Sequence[CaseProcesses]) -> list[CaseProcesses]:
    return [processes._replace(kernel_ns=(None,) * 5) for processes in cases]


@pytest.mark.parametrize(("slope", "gain"), [(1.0, 1.5), (0.0, 0.9)])
def test_levels_hold_at_the_kernels_mean_and_are_as_certain_as_it_lets_them_be(slope: float, gain: float) -> None:
    cases = [beside(CASE_A, KERNEL_A, slope, REST_A), beside(CASE_B, KERNEL_B, slope, REST_B)]
    adjusted, plain = levels_of_processes(cases), levels_of_processes(without_kernel(cases))
    for level in adjusted.values():
        assert level.log_mean == pytest.approx(16 + slope * np.mean(KERNEL_A + KERNEL_B), abs=0.01)
        assert level.half_width * gain < plain[CASE_A].half_width
    same_run = ratio(*adjusted.values())
    assert same_run.value == pytest.approx(1, abs=0.02)
    assert same_run.half_width * 4 * slope < ratio(*plain.values()).half_width, "how fast the machine was is shared"


def test_a_single_process_beside_a_kernel_has_no_interval() -> None:
    single = levels_of_processes([CaseProcesses(CASE_A, (1e7,), (1e6,))])[CASE_A]
    assert single.value_ns == pytest.approx(1e7)
    for compared in (ratio(single, single), ratio_at_equal_speed(single, single)):
        assert compared.interval is None
        assert compared.value == pytest.approx(1)
