import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from ntp.case import Case
from ntp.judge.processes import (
    DEFAULT_NOISE,
    DEFAULT_NOISE_AS_MEASURED,
    CaseProcesses,
    Level,
    RunNoise,
    another_run,
    half_widths,
    levels,
    levels_of_processes,
    ratio,
    ratio_at_equal_speed,
    ratio_of_runs,
    run_noise,
    spreads,
)
from ntp.judge.statistics import t_quantile
from ntp.records.calibration import Calibration, RememberedCase, RememberedRun
from tests.conftest import MakeMeasurement

A, B, OTHER = "simple-b8-s64-t1", "simple-b32-s64-t1", "simple-b8-s64-t2"
CASE_A, CASE_B = Case.parse(A), Case.parse(B)

times_ns = st.lists(st.integers(1, 10**12), min_size=2, max_size=8)


def processes(case: Case, *medians_ns: float) -> CaseProcesses:
    return CaseProcesses(case, tuple(medians_ns), tuple(None for _ in medians_ns))


def level_of(*medians_ns: float) -> Level:
    return levels_of_processes([processes(CASE_A, *medians_ns)])[CASE_A]


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


@given(a=times_ns, b=times_ns)
def test_another_run_never_narrows_an_interval(a: list[int], b: list[int]) -> None:
    within = ratio(level_of(*a)._replace(pool=None), level_of(*b)._replace(pool=None))
    assert ratio_of_runs(level_of(*a), level_of(*b)).std_error >= within.std_error


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


@given(medians=times_ns, spread=st.floats(0, 1))
def test_another_run_differs_by_no_less_than_a_run_may_be_off(medians: list[int], spread: float) -> None:
    level = level_of(*medians)
    other = another_run(level, RunNoise(spread, 10))
    assert other.value == 1
    assert other.std_error == pytest.approx(math.hypot(level.std_error, spread) * math.sqrt(2))


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


def remembering(*logs: tuple[float, ...], code: str = "abc", kernel: float | None = None) -> Calibration:
    """Runs of two cases, each the deviations of its processes, which all cases share."""
    cases = tuple(
        RememberedCase(
            case=case,
            runs=tuple(
                RememberedRun(
                    started=f"{number:03}",
                    code=code if code else str(number),
                    medians_ns=tuple(level_ns * math.exp(value) for value in of_run),
                    kernel_ns=(kernel,) * len(of_run),
                )
                for number, of_run in enumerate(logs)
            ),
        )
        for case, level_ns in ((CASE_A, 1e7), (CASE_B, 3e7))
    )
    return Calibration(machine="m", software="s", cases=cases)


def test_a_machine_that_remembers_nothing_repeated_has_the_default_noise() -> None:
    once, other_code = remembering((0.0, 0.0)), remembering((0.0, 0.0), (0.5, 0.5), code="")
    for calibration in (Calibration(machine="m", software="s"), once, other_code):
        assert run_noise(calibration) == DEFAULT_NOISE_AS_MEASURED
    twice = remembering((0.0, 0.0), (0.1, 0.1))
    assert run_noise(twice, without=["001"]) == DEFAULT_NOISE_AS_MEASURED
    assert run_noise(twice, normalised=True) == DEFAULT_NOISE, "there was no calibration kernel"


def test_remembered_runs_move_the_noise_from_the_default_to_what_they_show() -> None:
    prior, rng = DEFAULT_NOISE_AS_MEASURED, np.random.default_rng(15)
    twice = run_noise(remembering((0.0, 0.0), (0.125, 0.125)))
    assert (twice.degrees, twice.remembered) == (prior.degrees + 1, 2)
    assert twice.spread == pytest.approx(math.sqrt((prior.degrees * prior.spread**2 + 0.125**2 / 2) / twice.degrees))
    assert twice.spread < 1.2 * prior.spread, "two runs never make it jump"
    many = run_noise(remembering(*((value, value) for value in rng.normal(0, 0.15, 300))))
    assert many.spread == pytest.approx(0.15, rel=0.1)
    same = run_noise(remembering(*[(0.0, 0.0)] * 20))
    assert same.spread == pytest.approx(prior.spread * math.sqrt(10 / 29))


def test_what_processes_within_a_run_let_expect_is_taken_away() -> None:
    """Processes spread by 10%, and runs by nothing: the means of runs differ, and no run does."""
    rng = np.random.default_rng(15)
    logs = rng.normal(0, 0.1, (2, 300, 5))
    cases = tuple(
        RememberedCase(
            case=case,
            runs=tuple(
                RememberedRun(started=f"{n:03}", code="", medians_ns=tuple(np.exp(run)), kernel_ns=(None,) * 5)
                for n, run in enumerate(of_case)
            ),
        )
        for case, of_case in zip((CASE_A, CASE_B), logs, strict=True)
    )
    assert run_noise(Calibration(machine="m", software="s", cases=cases)).spread < 0.01


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


def beside(case: Case, kernel: Sequence[float], slope: float, rest: Sequence[float]) -> CaseProcesses:
    """A case whose log times follow the log kernel times with a slope, and have a rest of their own."""
    medians = (math.exp(16 + slope * log + own) for log, own in zip(kernel, rest, strict=True))
    return CaseProcesses(case, tuple(medians), tuple(math.exp(13 + log) for log in kernel))


KERNEL_A, KERNEL_B = (0.0, 0.2, 0.1, -0.1, 0.3), (0.1, -0.2, 0.3, 0.2, 0.0)
REST_A, REST_B = (0.01, -0.01, 0.0, 0.02, -0.02), (-0.01, 0.01, 0.02, -0.02, 0.0)


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


def test_two_runs_are_compared_as_if_the_kernel_had_been_as_fast() -> None:
    slower = tuple(log + 0.5 for log in KERNEL_A)
    one, two = (levels_of_processes([beside(CASE_A, logs, 1.0, REST_A)])[CASE_A] for logs in (KERNEL_A, slower))
    assert ratio_of_runs(two, one).value == pytest.approx(math.exp(0.5))
    compared, turned = ratio_at_equal_speed(two, one), ratio_at_equal_speed(one, two)
    assert compared.interval is not None
    assert compared.interval.low < 1 < compared.interval.high < 1.4
    assert turned == pytest.approx(compared._replace(log_mean=-compared.log_mean))
    assert another_run(one, equal_speed=True).half_width < another_run(one).half_width


def test_a_kernel_that_never_varies_counts_as_slowed_like_the_step() -> None:
    one, two = (levels_of_processes([beside(CASE_A, (log,) * 5, 1.0, REST_A)])[CASE_A] for log in (0.0, 0.5))
    assert ratio_at_equal_speed(two, one).value == pytest.approx(1)
    assert one.std_error == pytest.approx(level_of(*(math.exp(16 + own) for own in REST_A)).std_error)


def test_a_single_process_beside_a_kernel_has_no_interval() -> None:
    single = levels_of_processes([CaseProcesses(CASE_A, (1e7,), (1e6,))])[CASE_A]
    assert single.value_ns == pytest.approx(1e7)
    for compared in (ratio(single, single), ratio_at_equal_speed(single, single)):
        assert compared.interval is None
        assert compared.value == pytest.approx(1)
