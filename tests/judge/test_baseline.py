"""A run against a stored baseline: counts, normalised times, and every reason why those cannot be compared."""

import math
import re
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.case import Case
from ntp.judge.baseline import Noise, judge_run, nearest, noise_of
from ntp.judge.differences import differences
from ntp.judge.sequential import t_quantile
from ntp.records.calibration import CalibratedCase, CalibratedRun, Calibration, fingerprints
from ntp.records.environment import CoreKind, Machine, Software, TorchBuild
from ntp.records.observations import TensorBytes
from ntp.records.run import CalibrationKernel, Failure

CASE_ID = "simple-b8-s64-t1"
STEP_NS = 10_000_000
KERNEL_NS = 2_000_000


def kernel(time_ns=KERNEL_NS, side=512):
    return CalibrationKernel(shape=(side, side, side), bursts_ns=((time_ns,), (time_ns,)))


def calibrated(step_ns, kernel_ns=None, case_id=CASE_ID, samples=20, side=512):
    """Runs whose median step times are these, and whose calibration kernels took these."""
    runs = zip(step_ns, kernel_ns or [KERNEL_NS] * len(step_ns), strict=True)
    return CalibratedCase(
        case=Case.parse(case_id),
        started="2025-01-02T03:04:05+00:00",
        runs=tuple(
            CalibratedRun(step_time_ns=(step,) * samples, calibration_kernel=kernel(time_ns, side))
            for step, time_ns in runs
        ),
    )


QUIET = calibrated([10_000_000, 10_050_000, 9_950_000, 10_020_000, 9_980_000])
NOISY = calibrated([10_000_000, 12_000_000, 9_000_000, 11_000_000, 8_500_000])


@pytest.fixture
def judge(make_measurement, make_run):
    """``judge(slowdown, calibrated_case, base={}, head={}, **options)``: one case, the head this many times as slow."""

    def judged(slowdown=1.0, calibrated_case=QUIET, base=None, head=None, **options):
        runs = []
        for step_ns, changes in ((STEP_NS, base), (round(STEP_NS * slowdown), head)):
            fields = {"calibration_kernel": kernel(), "step_time_ns": [step_ns] * 20} | (changes or {})
            runs.append(make_run(make_measurement(fields.pop("case", CASE_ID), **fields)))
        machine, software = fingerprints(runs[1].measurements[0])
        cases = () if calibrated_case is None else (calibrated_case,)
        calibration = Calibration(machine=machine, software=software, cases=cases) if cases else None
        return judge_run(*runs, calibration, **options)

    return judged


class TestVerdicts:
    @pytest.mark.parametrize(
        ("slowdown", "runs", "threshold", "verdict"),
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
    def test_where_the_interval_lies_decides(self, judge, slowdown, runs, threshold, verdict):
        judgement = judge(slowdown, runs, threshold=threshold)
        (case,) = judgement.cases
        assert (judgement.verdict, case.verdict, case.times.reasons) == (verdict, verdict, ())
        assert case.times.slowdown.value == pytest.approx(slowdown, rel=1e-6)
        assert case.times.slowdown.low < case.times.slowdown.value < case.times.slowdown.high
        assert (case.base_ns, case.head_ns) == (STEP_NS, round(STEP_NS * slowdown))
        assert judgement.calibrated == ("2025-01-02",)

    def test_a_machine_that_is_slower_as_a_whole_has_not_regressed(self, judge):
        slower = {"step_time_ns": [2 * STEP_NS] * 20, "calibration_kernel": kernel(2 * KERNEL_NS)}
        judgement = judge(head=slower)
        assert judgement.verdict == "pass"
        assert judgement.cases[0].times.slowdown.value == pytest.approx(1)
        assert judgement.cases[0].head_ns == 2 * STEP_NS

    def test_a_slower_step_on_a_machine_that_got_faster_has(self, judge):
        judgement = judge(head={"calibration_kernel": kernel(KERNEL_NS // 2)})
        assert judgement.verdict == "regression"
        assert judgement.cases[0].times.slowdown.value == pytest.approx(2)

    def test_the_gravest_case_is_the_verdict(self, make_measurement, make_run):
        ids = [f"simple-b8-s64-t{threads}" for threads in (1, 2, 3)]

        def run(times_ns):
            return make_run(
                *(
                    make_measurement(case_id, [time_ns] * 20, calibration_kernel=kernel())
                    for case_id, time_ns in zip(ids, times_ns, strict=True)
                )
            )

        base = run([STEP_NS] * 3)
        cases = tuple(QUIET.model_copy(update={"case": Case.parse(case_id)}) for case_id in ids)
        machine, software = fingerprints(base.measurements[0])
        calibration = Calibration(machine=machine, software=software, cases=cases)
        judgement = judge_run(base, run([STEP_NS, 2 * STEP_NS, STEP_NS // 2]), calibration)
        assert [case.verdict for case in judgement.cases] == ["pass", "regression", "improvement"]
        assert judgement.verdict == "regression"
        assert judge_run(base, run([STEP_NS, STEP_NS, STEP_NS // 2]), calibration).verdict == "improvement"


class TestInterval:
    def test_it_is_the_prediction_interval_of_one_run_against_one(self, judge):
        (case,) = judge(1.0).cases
        logs = [math.log(run.step_time_ns[0]) for run in QUIET.runs]
        half_width = 2.776445 * statistics.stdev(logs) * math.sqrt(2)  # t of 4 degrees of freedom at 97.5%
        low, high = map(math.log, case.times.slowdown[1:])
        assert (low, high) == pytest.approx((-half_width, half_width), rel=1e-5)

    def test_it_covers_the_truth_as_often_as_it_says(self, make_measurement, make_run):
        """Normal noise of 3% between runs, five of them calibrated; the truth is a slowdown of 4%."""
        noise = np.random.default_rng(7)
        base, truth, trials = make_measurement(CASE_ID, calibration_kernel=kernel()), 1.04, 1000
        machine, software = fingerprints(base)
        covered = 0
        for _ in range(trials):
            *runs, base_ns, head_ns = (1e9 * np.exp(noise.normal(0, 0.03, 7))).astype(int).tolist()
            calibration = Calibration(machine=machine, software=software, cases=(calibrated(runs, samples=1),))
            sides = (
                make_run(base.model_copy(update={"step_time_ns": (time_ns,)}))
                for time_ns in (base_ns, round(head_ns * truth))
            )
            interval = judge_run(*sides, calibration).cases[0].times.slowdown
            covered += interval.low <= truth <= interval.high
        # Three standard errors of 0.7% around 95%.
        assert 0.929 < covered / trials < 0.971


class TestNoise:
    def test_spreads_are_standard_deviations_of_log_times(self):
        noise = noise_of(calibrated([100_000, 110_000, 90_000], [1000, 1100, 900]))
        assert (noise.runs, noise.step_ns) == (3, 100_000)
        assert noise.raw == pytest.approx(statistics.stdev(map(math.log, (100, 110, 90))))
        assert noise.normalised == pytest.approx(0, abs=1e-12)
        assert noise.smallest_slowdown == pytest.approx(0, abs=1e-9)

    def test_a_single_run_tells_no_noise(self):
        noise = noise_of(calibrated([100_000]))
        assert (noise.raw, noise.normalised, noise.half_width, noise.smallest_slowdown) == (None,) * 4

    def test_two_wild_runs_can_tell_nothing_and_break_nothing(self, judge):
        wild = calibrated([1, 10**12], samples=20)
        assert noise_of(wild).smallest_slowdown > 1e100
        assert judge(1.0, wild, threshold=0.5).verdict == "not comparable", "timed for far less than those"
        assert judge(1.0, calibrated([10**5, 10**9])).verdict == "not comparable"
        assert judge(1.0, calibrated([10**6, 10**7])).verdict == "inconclusive"

    def test_the_least_slowdown_is_what_just_leaves_no_slowdown_out(self, judge):
        smallest = noise_of(QUIET).smallest_slowdown
        assert judge(1 + smallest * 1.01).cases[0].times.slowdown.low > 1
        assert judge(1 + smallest * 0.99).cases[0].times.slowdown.low < 1

    @given(st.lists(st.integers(1, 10**12), min_size=2, max_size=8), st.integers(1, 1000))
    def test_the_unit_of_time_is_nothing_to_it(self, times_ns, factor):
        one = noise_of(calibrated(times_ns))
        other = noise_of(calibrated([time_ns * factor for time_ns in times_ns]))
        assert (one.raw, one.normalised) == pytest.approx((other.raw, other.normalised), abs=1e-9)
        assert isinstance(one, Noise)
        assert one.half_width == pytest.approx(t_quantile(len(times_ns), 0.975) * one.normalised * math.sqrt(2))


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
            ({"calibrated_case": None}, "the noise of this case on this machine is not known: ntp doctor --calibrate"),
            (
                {"calibrated_case": calibrated([1, 2], case_id="simple-b8-s64-t2")},
                "the noise of this case on this machine",
            ),
            (
                {"calibrated_case": calibrated([10**7] * 5, side=1024)},
                "the noise of this case on this machine is not known",
            ),
            ({"calibrated_case": calibrated([10**7])}, "a single calibrated run does not show the noise"),
            (
                {"calibrated_case": calibrated([10**7] * 5, samples=41)},
                r"the base's steps were timed for 0.2 s .* for 0.41 s",
            ),
        ],
    )
    def test_the_reason_is_named(self, judge, options, reason):
        judgement = judge(**options)
        (case,) = judgement.cases
        assert (judgement.verdict, case.verdict, case.times.slowdown) == ("not comparable", "not comparable", None)
        assert re.match(reason, case.times.reasons[0]), case.times.reasons
        assert judgement.calibrated == ()

    def test_a_head_that_was_timed_as_long_with_slower_steps_is_comparable(self, judge):
        judgement = judge(head={"step_time_ns": [4 * STEP_NS] * 5})
        assert judgement.verdict == "regression"

    def test_both_machine_and_software_are_named(self, judge):
        (case,) = judge(head={"machine": OTHER_MACHINE, "software": Software()}).cases
        assert [reason.split(":")[0] for reason in case.times.reasons] == ["another machine", "other software"]

    def test_the_noise_of_another_machine_is_not_believed(self, make_measurement, make_run):
        run = make_run(make_measurement(CASE_ID, [STEP_NS] * 20, calibration_kernel=kernel()))
        machine, software = fingerprints(run.measurements[0])
        assert judge_run(run, run, Calibration(machine=machine, software=software, cases=(QUIET,))).verdict == "pass"
        for names in (("other", software), (machine, "other")):
            calibration = Calibration(machine=names[0], software=names[1], cases=(QUIET,))
            assert judge_run(run, run, calibration).verdict == "not comparable"

    def test_a_case_that_the_head_lacks_is_never_a_pass(self, judge, make_measurement, make_run):
        base = make_run(make_measurement(CASE_ID), make_measurement("simple-b8-s64-t2"))
        failure = Failure(case_id="simple-b8-s64-t2", message="simple-b8-s64-t2: was killed")
        judgement = judge_run(base, make_run(failures=(failure,)), None)
        assert [case.times.reasons for case in judgement.cases] == [
            ("the head has no such case",),
            ("the head has no such case: it failed (was killed)",),
        ]
        assert [case.head_ns for case in judgement.cases] == [None, None]
        assert judgement.verdict == "not comparable"

    def test_a_case_that_the_base_lacks_is_named_and_not_judged(self, make_measurement, make_run):
        judgement = judge_run(make_run(), make_run(make_measurement(CASE_ID)), None)
        assert (judgement.verdict, judgement.cases, judgement.only_head) == ("not comparable", (), (CASE_ID,))

    def test_a_case_measured_twice_counts_by_its_last_time(self, make_measurement, make_run):
        first, last = (make_measurement(CASE_ID, [time_ns] * 20) for time_ns in (1000, 2000))
        (case,) = judge_run(make_run(first, last), make_run(last, first), None).cases
        assert (case.base_ns, case.head_ns) == (2000, 1000)


class TestCounts:
    def test_a_count_that_rose_is_a_regression_whatever_the_times(self, judge):
        for options in ({}, {"calibrated_case": None}, {"head": {"parameters": 8, "machine": OTHER_MACHINE}}):
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
