"""A run against a stored baseline: counts, normalised times, and every reason why those cannot be compared."""

import math
import re

import numpy as np
import pytest

from ntp.case import Case
from ntp.judge.baseline import judge_run, nearest, noises_of
from ntp.judge.between_runs import DEFAULT_NOISE, RunNoise, another_run, ratio_of_runs
from ntp.judge.differences import differences
from ntp.judge.processes import CaseProcesses, Level, levels_of_processes
from ntp.records.calibration import Calibration, fingerprints
from ntp.records.environment import CoreKind, Machine, Software, TorchBuild
from ntp.records.observations import TensorBytes
from ntp.records.run import CalibrationKernel, Failure

CASE_ID = "simple-b8-s64-t1"
STEP_NS = 10_000_000
KERNEL_NS = 2_000_000


def kernel(time_ns=KERNEL_NS, side=512):
    return CalibrationKernel(shape=(side, side, side), bursts_ns=((time_ns,), (time_ns,)))


QUIET = RunNoise(spread=0.005, degrees=20, remembered=11)
NOISY = RunNoise(spread=0.12, degrees=5, remembered=6)


@pytest.fixture
def judge(make_measurement, make_run):
    """``judge(slowdown, noise, base={}, head={}, **options)``: one case, the head this many times as slow."""

    def judged(slowdown=1.0, noise=QUIET, base=None, head=None, **options):
        runs = []
        for step_ns, changes in ((STEP_NS, base), (round(STEP_NS * slowdown), head)):
            fields = {"calibration_kernel": kernel(), "step_time_ns": [step_ns] * 20, "levels": (1, 1)}
            fields |= changes or {}
            runs.append(make_run(make_measurement(fields.pop("case", CASE_ID), **fields)))
        return judge_run(*runs, noise, **options)

    return judged


class TestVerdicts:
    @pytest.mark.parametrize(
        ("slowdown", "noise", "threshold", "verdict"),
        [
            (1.00, QUIET, 0.05, "pass"),
            (1.03, QUIET, 0.05, "pass"),
            (1.05, QUIET, 0.05, "inconclusive"),
            (1.08, QUIET, 0.05, "regression"),
            (0.90, QUIET, 0.05, "improvement"),
            (0.96, QUIET, 0.05, "pass"),
            (1.08, QUIET, 0.20, "pass"),
            (1.03, QUIET, 0.01, "regression"),
            (1.08, NOISY, 0.05, "inconclusive"),
            (1.00, NOISY, 0.05, "inconclusive"),
            (3.00, NOISY, 0.05, "regression"),
        ],
    )
    def test_where_the_interval_lies_decides(self, judge, slowdown, noise, threshold, verdict):
        judgement = judge(slowdown, noise, threshold=threshold)
        (case,) = judgement.cases
        assert (judgement.verdict, case.verdict, case.times.reasons) == (verdict, verdict, ())
        assert case.times.slowdown.value == pytest.approx(slowdown, rel=1e-6)
        assert case.times.slowdown.low < case.times.slowdown.value < case.times.slowdown.high
        assert (case.base_ns, case.head_ns) == pytest.approx((STEP_NS, round(STEP_NS * slowdown)))
        assert judgement.noise == noise

    def test_a_machine_that_is_slower_as_a_whole_has_not_regressed(self, judge):
        slower = {"step_time_ns": [2 * STEP_NS] * 20, "calibration_kernel": kernel(2 * KERNEL_NS)}
        judgement = judge(head=slower)
        assert judgement.verdict == "pass"
        assert judgement.cases[0].times.slowdown.value == pytest.approx(1)
        assert judgement.cases[0].head_ns == pytest.approx(2 * STEP_NS)

    def test_a_slower_step_on_a_machine_that_got_faster_has(self, judge):
        judgement = judge(head={"calibration_kernel": kernel(KERNEL_NS // 2)})
        assert judgement.verdict == "regression"
        assert judgement.cases[0].times.slowdown.value == pytest.approx(2)

    def test_the_gravest_case_is_the_verdict(self, make_measurement, make_run):
        ids = [f"simple-b8-s64-t{threads}" for threads in (1, 2, 3)]

        def run(times_ns):
            return make_run(
                *(
                    make_measurement(case_id, [time_ns] * 20, calibration_kernel=kernel(), levels=(1, 1))
                    for case_id, time_ns in zip(ids, times_ns, strict=True)
                )
            )

        base = run([STEP_NS] * 3)
        judgement = judge_run(base, run([STEP_NS, 2 * STEP_NS, STEP_NS // 2]), QUIET)
        assert [case.verdict for case in judgement.cases] == ["pass", "regression", "improvement"]
        assert judgement.verdict == "regression"
        assert judge_run(base, run([STEP_NS, STEP_NS, STEP_NS // 2]), QUIET).verdict == "improvement"


class TestInterval:
    def test_it_is_that_of_a_ratio_of_runs_of_normalised_times(self, judge):
        (case,) = judge(base={"levels": (1.0, 1.1)}, head={"levels": (1.0, 1.02, 1.04)}).cases
        base, head = (
            levels_of_processes([CaseProcesses(Case.parse(CASE_ID), times, times)])[Case.parse(CASE_ID)]
            for times in ((1.0, 1.1), (1.0, 1.02, 1.04))
        )
        assert case.times.slowdown == pytest.approx(ratio_of_runs(head, base, QUIET).interval, rel=1e-6)

    def test_it_covers_the_truth_as_often_as_it_says(self, make_measurement, make_run):
        """Normal noise of 3% between runs, five of them remembered, and of 2% within; the truth is a slowdown of 4%."""
        rng, truth, trials, spread = np.random.default_rng(7), 1.04, 1000, 0.03
        covered = 0
        for _ in range(trials):
            logs = rng.normal(0, 0.02, (2, 3)) + rng.normal(0, spread, (2, 1)) + [[0], [math.log(truth)]]
            sides = (
                make_run(make_measurement(CASE_ID, [10**9], levels=np.exp(side), calibration_kernel=kernel()))
                for side in logs
            )
            noise = RunNoise(float(np.std(rng.normal(0, spread, 5), ddof=1)), 4, 5)
            interval = judge_run(*sides, noise).cases[0].times.slowdown
            covered += interval.low <= truth <= interval.high
        # Three standard errors of 0.7% around 95%.
        assert 0.929 < covered / trials < 0.971


class TestNoise:
    @pytest.fixture
    def remembering(self, make_measurement, make_run):
        """``remembering(*runs)``: what a machine remembers of runs, each the levels of its processes."""

        def remembered(*runs, kernels=None, **fields):
            machine, software = fingerprints(make_measurement())
            calibration = Calibration(machine=machine, software=software)
            for number, of_run in enumerate(runs):
                ns = kernels[number] if kernels else KERNEL_NS
                measured = make_measurement(
                    CASE_ID, [STEP_NS] * 20, levels=of_run, **{"calibration_kernel": kernel(ns)} | fields
                )
                calibration = calibration.with_run(make_run(measured, started=f"{number:03}"), "abc")
            return calibration

        return remembered

    def test_it_says_how_wide_a_run_is_and_what_a_gate_can_tell(self, remembering):
        noises = noises_of(remembering((1.0, 1.02), (1.01, 1.03), (1.0, 1.01)))
        (case,) = noises.cases
        assert (case.case.id, case.runs) == (CASE_ID, 3)
        assert case.level.std_error == pytest.approx(math.log(1.03 / 1.01) / 2, rel=1e-3), "the second widest of three"
        assert noises.normalised.remembered == noises.between.remembered == 3
        assert case.smallest_slowdown == pytest.approx(another_run(case.level, noises.normalised).half_width, rel=1e-9)

    def test_a_machine_whose_speed_drifts_has_noise_but_no_normalised_noise(self, remembering):
        drift = (1.0, 1.1, 1.2, 1.3)
        kernels = [round(KERNEL_NS * level) for level in drift]
        noises = noises_of(remembering(*((level, level) for level in drift), kernels=kernels))
        assert noises.between.spread > 0.05
        assert noises.normalised.spread < 0.016

    def test_without_the_calibration_kernel_a_gate_tells_nothing(self, remembering):
        noises = noises_of(remembering((1.0, 1.02), (1.01, 1.03), calibration_kernel=None))
        (case,) = noises.cases
        assert case.smallest_slowdown is None
        assert (noises.between.remembered, noises.normalised.remembered) == (2, 0)

    def test_wild_runs_can_tell_nothing_and_break_nothing(self, remembering, judge):
        calibration = remembering((1e-7, 1e5), (1e5, 1e-7), (1, 1))
        assert noises_of(calibration).cases[0].smallest_slowdown > 1e6
        assert judge(1.0, RunNoise(10.0, 10, 2)).verdict == "inconclusive"

    def test_the_least_slowdown_is_what_just_leaves_no_slowdown_out(self, judge):
        smallest = ratio_of_runs(Level(0, 0, 1), Level(0, 0, 1), QUIET).half_width
        assert judge(1 + smallest * 1.01).cases[0].times.slowdown.low > 1
        assert judge(1 + smallest * 0.99).cases[0].times.slowdown.low < 1


OTHER_MACHINE = Machine(cpu_model="Another CPU", logical_cpus=64)


class TestNotComparable:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (
                {"head": {"machine": OTHER_MACHINE}},
                "another machine: cpu_model Example CPU @ 2.50GHz -> ",
            ),
            ({"head": {"software": Software(torch="3.0")}}, r"other software: .*torch 2.9.0\+cpu -> 3.0"),
            ({"base": {"calibration_kernel": None}}, "the base was measured without the calibration kernel"),
            ({"head": {"calibration_kernel": None}}, "the head was measured without the calibration kernel"),
            (
                {"base": {"calibration_kernel": kernel(side=1024)}},
                "the two were measured beside calibration kernels of different sizes",
            ),
            (
                {"head": {"levels": (1,)}},
                "the head has a single process, which has no interval: measure it in at least",
            ),
            ({"base": {"levels": (1,)}}, "the base has a single process"),
            ({"noise": DEFAULT_NOISE}, "the noise between runs on this machine is not known: ntp doctor --calibrate"),
        ],
    )
    def test_the_reason_is_named(self, judge, options, reason):
        judgement = judge(**options)
        (case,) = judgement.cases
        assert (judgement.verdict, case.verdict, case.times.slowdown) == ("not comparable", "not comparable", None)
        assert re.match(reason, case.times.reasons[0]), case.times.reasons

    def test_both_machine_and_software_are_named(self, judge):
        (case,) = judge(head={"machine": OTHER_MACHINE, "software": Software()}).cases
        assert [reason.split(":")[0] for reason in case.times.reasons] == ["another machine", "other software"]

    def test_a_case_that_the_head_lacks_is_never_a_pass(self, judge, make_measurement, make_run):
        base = make_run(make_measurement(CASE_ID), make_measurement("simple-b8-s64-t2"))
        failure = Failure(case_id="simple-b8-s64-t2", message="simple-b8-s64-t2: was killed")
        judgement = judge_run(base, make_run(failures=(failure,)))
        assert [case.times.reasons for case in judgement.cases] == [
            ("the head has no such case",),
            ("the head has no such case: it failed (was killed)",),
        ]
        assert [case.head_ns for case in judgement.cases] == [None, None]
        assert judgement.verdict == "not comparable"

    def test_a_case_that_the_base_lacks_is_named_and_not_judged(self, make_measurement, make_run):
        judgement = judge_run(make_run(), make_run(make_measurement(CASE_ID)))
        assert (judgement.verdict, judgement.cases, judgement.only_head) == ("not comparable", (), (CASE_ID,))

    def test_a_case_measured_twice_counts_by_its_last_time(self, make_measurement, make_run):
        first, last = (make_measurement(CASE_ID, [time_ns] * 20) for time_ns in (1000, 2000))
        (case,) = judge_run(make_run(first, last), make_run(last, first)).cases
        assert (case.base_ns, case.head_ns) == pytest.approx((2000, 1000))


class TestCounts:
    def test_a_count_that_rose_is_a_regression_whatever_the_times(self, judge):
        for options in ({}, {"noise": DEFAULT_NOISE}, {"head": {"parameters": 8, "machine": OTHER_MACHINE}}):
            judgement = judge(base={"parameters": 7}, **{"head": {"parameters": 8}, **options})
            (case,) = judgement.cases
            assert judgement.verdict == "regression"
            assert case.regressions == (("parameters", 7, 8),)

    def test_one_that_is_allowed_or_fell_is_named_and_is_none(self, judge):
        allowed = judge(base={"parameters": 7}, head={"parameters": 8}, allowed=["para*"])
        assert (allowed.verdict, allowed.cases[0].changes) == ("pass", (("parameters", 7, 8),))
        fallen = judge(base={"parameters": 8}, head={"parameters": 7})
        assert (fallen.verdict, fallen.cases[0].changes) == ("pass", (("parameters", 8, 7),))

    def test_what_the_observers_saw_is_counted(self, judge, make_observations, make_operators):
        observed = make_observations()
        memory = observed.memory.model_copy(update={"peak": TensorBytes(parameters=1)})
        operators = make_operators(("aten::mm", "forward", 1, 2, 3), ("aten::mm", "backward", 1, 4), ("mine", "loss"))
        head = observed.model_copy(update={"memory": memory, "operators": operators})
        (case,) = judge(base={"observations": observed}, head={"observations": head}).cases
        by_name = {change.name: change for change in case.changes}
        assert by_name["peak_tensor_bytes"][1:] == (observed.memory.peak_bytes, 1)
        assert by_name["allocated_bytes"].head == 3 * 2**20
        assert by_name["aten::addmm"] == ("aten::addmm", 2, 0)
        assert "aten::mm" not in by_name, "six calls on both sides, in whichever phases"
        assert "mine" not in by_name, "no operator of torch's"
        assert case.not_counted == ()

    @pytest.mark.parametrize("missing", ["base", "head", "both"])
    def test_what_one_side_lacks_is_not_compared_and_that_is_said(self, judge, make_observations, missing):
        observed = make_observations()
        less = make_observations(operators=None, flops=None)
        sides = {"base": less if missing != "head" else observed, "head": less if missing != "base" else observed}
        (case,) = judge(**{name: {"observations": observations} for name, observations in sides.items()}).cases
        assert case.changes == ()
        assert case.not_counted == ("flops", "operators", "allocated_bytes")
        assert case.verdict == "pass"


class TestDifferences:
    def test_equal_fingerprints_differ_in_nothing(self, make_measurement):
        environment = make_measurement().environment
        newer = environment.software.model_copy(update={"ntp": "99"})
        busier = environment.machine.model_copy(update={"governor": "powersave", "kernel": "7"})
        assert differences(environment.machine, busier) == differences(environment.software, newer) == ()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"cpu_model": "B"}, "cpu_model Example CPU @ 2.50GHz -> B"),
            ({"numa_nodes": 2}, "numa_nodes unknown -> 2"),
            ({"isa_flags": ("avx2",)}, "other isa_flags"),
            ({"isa_flags": None}, "isa_flags known -> unknown"),
            ({"core_kinds": (CoreKind(cpus=2),)}, "cpus_by_kind unknown -> known"),
        ],
    )
    def test_a_machine_in_words(self, make_measurement, change, words):
        machine = make_measurement().environment.machine
        assert differences(machine, machine.model_copy(update=change)) == (words,)

    def test_a_build_of_torch_is_told_field_by_field(self, make_measurement):
        software = make_measurement().environment.software
        build = TorchBuild(blas="mkl", mkl="2025.0", onednn="3.7.1")
        words = differences(software, software.model_copy(update={"torch_build": build, "libraries": ()}))
        assert set(words) == {"torch_build.mkl 2024.2 -> 2025.0", "other libraries"}


class TestNearest:
    def test_the_same_machine_and_software_come_first_then_the_same_software(self, make_measurement, make_run):
        here = make_measurement()
        software = here.environment.software.model_copy(update={"torch": "3.0"})
        exact, elsewhere = make_run(here), make_run(make_measurement(machine=OTHER_MACHINE))
        later = make_run(make_measurement(software=software))
        head = make_run(make_measurement("simple-b8-s64-t2"))
        assert nearest([later, elsewhere, exact], head) is exact
        assert nearest([later, elsewhere], head) is elsewhere
        assert nearest([later], head) is later
        assert nearest([], head) is None
        assert nearest([exact, later], make_run()) is exact
