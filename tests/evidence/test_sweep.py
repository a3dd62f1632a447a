"""Intervals cover what they should on simulated sweeps, and the page is a pure function of the recordings."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind

sys.path += [str(Path(__file__).parents[2] / folder) for folder in ("evidence", "evidence/sweep")]

import components
import intervals
import peers
import recording
import runtime_effects
import runtimes
import sweep_coverage
import sweep_page
from intervals import Level, Part
from recordings import REPORTS, provenance, write
from sweep_coverage import Candidate
from sweeps import Sweep

from ntp.case import Case
from ntp.records.run import CalibrationKernel

CASES, ROUNDS, RUNS = 4, 5, 100

IDS = tuple(f"simple-b{batch_size}-s64-t{threads}" for threads in (1, 2) for batch_size in (1, 2, 4, 8))


def simulated(runs, *, process=0.0, machine=0.0, round_=0.0, run=0.0):
    """Draw sweeps of identical code. The kernel sees what slows the machine down, and nothing else."""
    draw = np.random.RandomState(0)
    shape, sweeps = (2 * CASES, ROUNDS), []
    for _ in range(runs):
        shared = machine * draw.randn(*shape)
        of_rounds = np.repeat(round_ * draw.randn(2, ROUNDS), CASES, axis=0)
        logs = np.log(1e7) + process * draw.randn(*shape) + shared + of_rounds + run * draw.randn()
        steps = tuple(tuple(np.exp(log + 0.001 * draw.randn(12)) for log in of_case) for of_case in logs)
        sweeps.append(Sweep("quiet", IDS, np.repeat([1.0, 2.0], CASES), logs, np.log(1e6) + shared, steps))
    return sweeps


def share_different(method, sweeps, compare=intervals.between_runs, noise=intervals.NONE):
    runs = [intervals.levels(sweep, method) for sweep in sweeps]
    pairs = zip(runs[::2], runs[1::2], strict=True)
    return np.mean([compare(x, y, noise).is_different for a, b in pairs for x, y in zip(a, b, strict=True)])


@pytest.mark.parametrize("method", [intervals.own_spread, intervals.pooled, intervals.normalised])
def test_intervals_of_independent_processes_exclude_1_in_one_case_of_twenty(method):
    compare = intervals.at_equal_speed if method is intervals.normalised else intervals.between_runs
    assert share_different(method, simulated(4 * RUNS, process=0.05), compare) == pytest.approx(0.05, abs=0.02)


def test_a_spread_that_is_partly_pooled_errs_no_more_often():
    assert share_different(intervals.partly_pooled, simulated(4 * RUNS, process=0.05)) < 0.06


def test_the_kernel_makes_intervals_narrower_and_no_less_true():
    sweeps = simulated(4 * RUNS, process=0.02, machine=0.1)
    assert share_different(intervals.normalised, sweeps, intervals.at_equal_speed) == pytest.approx(0.05, abs=0.02)
    assert share_different(intervals.covariate, sweeps) < 0.07
    plain, relative = (intervals.levels(sweeps[0], method) for method in (intervals.pooled, intervals.normalised))
    assert intervals.within(relative[0]).reach < intervals.within(plain[0]).reach / 1.5
    assert math.sqrt(relative[0].own.variance) < math.sqrt(plain[0].own.variance) / 3


@pytest.mark.parametrize("method", [intervals.round_effect, intervals.pooled])
def test_what_a_round_shares_misleads_neither_an_effect_of_the_round_nor_a_pooled_spread(method):
    assert share_different(method, simulated(4 * RUNS, process=0.01, round_=0.05)) == pytest.approx(0.05, abs=0.03)


def test_the_noise_between_runs_is_found_and_makes_intervals_true():
    sweeps = simulated(2 * RUNS, process=0.02, run=0.05)
    assert share_different(intervals.pooled, sweeps) > 0.3
    noise = intervals.noise_between([intervals.levels(sweep, intervals.pooled) for sweep in sweeps])
    assert math.sqrt(noise.variance) == pytest.approx(0.05, rel=0.2)
    assert share_different(intervals.pooled, sweeps, noise=noise) == pytest.approx(0.05, abs=0.03)
    assert intervals.noise_between([]) == intervals.NONE


def test_components_are_those_that_were_simulated():
    parts = components.components(simulated(3 * RUNS, process=0.03, round_=0.02, run=0.01), 1, relative=True)
    assert [math.sqrt(part) for part in parts] == pytest.approx([0.03, 0.02, 0.01], rel=0.2)
    assert parts.of_level(5).process == parts.process / 5


def test_a_speed_up_has_the_errors_of_both_levels():
    few, many = Level(2.0, Part(0.03, 8), Part(0.01, 4)), Level(1.0, Part(0.04, 8))
    speedup = intervals.speedup(few, many)
    assert (speedup.value, speedup.variance) == (1.0, pytest.approx(0.08))
    assert 4 < speedup.degrees < 20
    assert intervals.difference(speedup, speedup).variance == pytest.approx(0.16)


def test_no_method_learns_the_noise_from_the_sweeps_that_it_compares():
    three = simulated(3, process=0.01, run=0.2)
    candidate = Candidate("", intervals.pooled, noise="others")
    assert sweep_coverage.of_candidate(three, candidate) == sweep_coverage.of_candidate(
        three, candidate._replace(noise="")
    )


def test_pyperfs_test_is_students():
    a, b = ([np.array([1.0, 1.1, 1.3, 9.9]) * factor for factor in factors] for factors in ((1, 1.1), (1.05, 1.2)))
    kept = [np.concatenate([steps[:3] for steps in processes]) for processes in (a, b)]
    assert peers.pyperf_test(a, b).is_different == (ttest_ind(*kept).pvalue <= 0.05)
    assert peers.pyperf_test(a, [2 * steps for steps in b]).is_different


@pytest.mark.parametrize("peer", peers.PEERS)
def test_other_tools_tell_a_step_twice_as_slow_and_not_itself(peer):
    processes = [np.array([1.0, 1.01, 1.02, 1.03, 0.99, 0.98, 0.97]) * 10 * factor for factor in (1, 1.01, 0.99)]
    assert peer.read(processes, [2 * steps for steps in processes]).is_different
    same = peer.read(processes, processes)
    assert not same.is_different
    assert 0 < same.level < same.ratio < 0.2


@pytest.fixture
def recordings(tmp_path, make_measurement, make_run):
    """Four quiet sweeps, the last of which lacks a process, and two of each other kind of recording."""

    def measured(case, seed, rounds=ROUNDS):
        levels = np.exp(0.05 * np.random.RandomState(seed).randn(rounds))
        kernel = CalibrationKernel(shape=(64, 64, 64), bursts_ns=((1_000_000,), (1_010_000,)))
        return make_measurement(case, levels=levels.tolist(), calibration_kernel=kernel)

    def sweep(number, condition, rounds=ROUNDS):
        measurements = [measured(name, 10 * number + i, rounds) for i, name in enumerate(IDS)]
        return recording.RecordedSweep(condition=condition, run=make_run(*measurements, rounds=ROUNDS))

    sweeps = [sweep(i, "quiet") for i in range(3)] + [sweep(i, "neighbour") for i in (3, 4)]
    sweeps.append(sweep(5, "quiet", rounds=ROUNDS - 1))
    write(tmp_path / sweep_page.SWEEPS, recording._SWEEPS.dump_json(tuple(sweeps)).decode())
    models = [
        runtimes.RecordedModel(
            **provenance(),
            name="simple-small",
            measurements=tuple(measured(case, i, 3) for i, case in enumerate(runtimes.cases_of("simple-small"))),
        )
        for _ in range(2)
    ]
    write(tmp_path / sweep_page.RUNTIMES, runtimes._MODELS.dump_json(tuple(models)).decode())
    return tmp_path


def test_the_page_is_a_pure_function_of_the_recordings(recordings):
    made = sweep_page.files(recordings)
    assert made == sweep_page.files(recordings)
    page = made["README.md"]
    assert "Sweeps: 3 with nothing else running, which make 3 comparisons of each case; 1 " not in page
    assert "3 with nothing else running, which make 3 comparisons of each case; 2 with a busy process" in page
    assert "1 incomplete ones are left out" in page
    assert all(f"({name})" in page for name in made if name.endswith(".svg"))
    rows = [line for line in page.splitlines() if line.startswith("| **`ntp compare`**")]
    assert [row.count(" of ") for row in rows] == [4]
    assert "`simple-small`, 6 rounds" in page


def test_a_folder_without_recordings_makes_a_page_that_says_so(tmp_path):
    assert sweep_page.files(tmp_path)["README.md"].count("not recorded") == 2


def test_the_effect_of_a_setting_is_that_of_the_same_rounds(make_measurement):
    def level(case):
        return (2.0 if case.runtime.wait_policy == "passive" else 1.0) * (
            1.5 if case.runtime.affinity == "free" else 1.0
        )

    measurements = [
        make_measurement(case, levels=[level(case) * factor for factor in (1.0, 1.3, 0.9)])
        for case in runtimes.cases_of("simple-large")
    ]
    (recorded,) = runtime_effects.recorded(
        [runtimes.RecordedModel(**provenance(), name="simple-large", measurements=tuple(measurements))]
    )
    passive, active, allocator, affinity, plain = (row[1] for row in runtime_effects.setting_rows([recorded]))
    assert passive.startswith("2.00 (2.00 to 2.00); spread 1.00 (")
    assert active.startswith("1.00 (1.00 to 1.00)")
    assert allocator.startswith("1.00 (1.00 to 1.00)")
    assert affinity.startswith("1.50 (1.50 to 1.50)")
    assert plain.startswith("1.50 (1.50 to 1.50)")
    rows = list(runtime_effects.combination_rows([recorded]))
    assert len(rows) == len(runtimes.cases_of("simple-large")) == 12
    assert rows[0][1] == f"1; {np.log([1.0, 1.3, 0.9]).std(ddof=1):.1%}"


def test_the_first_values_of_the_settings_are_the_defaults():
    defaults = Case().runtime
    assert tuple(getattr(defaults, name) for name in runtimes.FACTORS) == runtime_effects.DEFAULT


def test_every_recorded_model_can_be_loaded():
    for workload in runtimes.MODELS.values():
        assert workload.model == "simple" or (REPORTS.parent / workload.model.split(":")[0]).exists()
