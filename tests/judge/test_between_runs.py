import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.between_runs import (
    DEFAULT_NOISE,
    DEFAULT_NOISE_AS_MEASURED,
    RunNoise,
    another_run,
    ratio_at_equal_speed,
    ratio_of_runs,
    run_noise,
)
from ntp.judge.processes import levels_of_processes, ratio
from ntp.records.calibration import Calibration, RememberedCase, RememberedRun
from tests.judge.case_processes import CASE_A, CASE_B, KERNEL_A, REST_A, beside, level_of, times_ns


@given(a=times_ns, b=times_ns)
def test_another_run_never_narrows_an_interval(a: list[int], b: list[int]) -> None:
    within = ratio(level_of(*a)._replace(pool=None), level_of(*b)._replace(pool=None))
    assert ratio_of_runs(level_of(*a), level_of(*b)).std_error >= within.std_error


@given(medians=times_ns, spread=st.floats(0, 1))
def test_another_run_differs_by_no_less_than_a_run_may_be_off(medians: list[int], spread: float) -> None:
    level = level_of(*medians)
    other = another_run(level, RunNoise(spread, 10))
    assert other.value == 1
    assert other.std_error == pytest.approx(math.hypot(level.std_error, spread) * math.sqrt(2))


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
