import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.case import Case, Runtime, named_step
from ntp.core.settings import read_settings
from ntp.judge.warnings import (
    MAX_DENORMAL_SHARE,
    MAX_FAULTS_PER_STEP,
    MIN_PROCESSES,
    MIN_TIMED_S,
    Kind,
    untested_torch,
    warnings_about,
    warnings_of,
)
from ntp.records.endings import PRODUCTS, Ending, SettingChange
from ntp.records.environment import Conditions, Environment, Machine, Process, Software
from ntp.records.observations import Denormals, Observations
from ntp.records.run import Harness, Measurement, WarmUp

Make = Callable[..., Measurement]

ALIKE = (1.0, 1.01, 1.02, 1.03, 1.04)
"""The levels of five processes that differ as little as processes do."""
QUIET_STEPS = tuple(range(1000, 1020))
UNSTEADY = WarmUp(step_time_ns=(9,) * 1234, wall_time_ns=10_200_000_000, steady=False)
UNSEEN = Observations(failures=("flops: simple-b8-s64-t1: RuntimeError: no formula",))
BF16 = {"parameter_dtypes": ("torch.bfloat16", "torch.float32")}
SPINNING = Case(runtime=Runtime(threads=2, wait_policy="active"))

ONEDNN, BF16_MATMUL = (Case(step=named_step(name)) for name in ("onednn", "bf16-matmul"))
DTYPE = SettingChange(name="default dtype", before="torch.float32", after="torch.float64")
ANOMALY = SettingChange(name="anomaly detection", before="off", after="on")
IN_BF16 = SettingChange(name=PRODUCTS, before="fp32", after="bf16")


def sizes(*rss_mib):
    """Blocks at whose ends the process has these sizes."""
    return tuple(Ending(anonymous_bytes=round(mib * 2**20)) for mib in rss_mib)


BEFOREHAND = [
    ("virtual-machine", {"machine": Machine(hypervisor=True)}),
    ("changing-frequency", {"machine": Machine(governor="powersave")}),
    ("smt", {"machine": Machine(smt=True, logical_cpus=8, physical_cores=4)}),
    ("quota", {"process": Process(affinity=(0, 1, 2, 3), quota_cpus=1.5)}),
    ("default-allocator", {"process": Process(allocator="glibc")}),
    ("high-steal", {"conditions": Conditions(steal_share=0.5)}),
    ("other-load", {"conditions": Conditions(other_cpu_share=0.5)}),
]

CASES: dict[str, dict[str, Any]] = {
    "high-steal": {"conditions": Conditions(steal_share=0.021)},
    "throttled": {"conditions": Conditions(throttled_s=0.01)},
    "other-load": {"conditions": Conditions(other_cpu_share=0.11)},
    "unsteady-warm-up": {"step_time_ns": (*[1200] * 10, *[1000] * 10)},
    "too-few-processes": {"levels": ALIKE[: MIN_PROCESSES - 1]},
    "slow-process": {"levels": (1.0, 1.01, 1.52, 0.99, 1.0)},
    "spinning-threads": {"case": SPINNING},
    "mmap-churn": {"minor_page_faults": MAX_FAULTS_PER_STEP * len(QUIET_STEPS) + 1},
    "noisy-samples": {"step_time_ns": (*[1000] * 18, 1300, 1300)},
    "not-observed": {"observations": UNSEEN},
    "denormals": {"observations": Observations(denormals=Denormals(share=0.002))},
    "bf16-without-hardware": BF16 | {"machine": Machine(isa_flags=("avx2", "avx512f"))},
    "loss-not-finite": {"endings": (Ending(loss=6.9), Ending(loss=math.nan), Ending(loss=math.inf))},
    "growing-memory": {"endings": sizes(300, 302, 304, 306, 308, 310)},
    "changed-settings": {"endings": (Ending(), Ending(settings=(DTYPE, ANOMALY)), Ending(settings=(DTYPE,)))},
}
AT_THE_LIMIT: list[dict[str, Any]] = [
    {},
    {"conditions": Conditions()},
    {"conditions": Conditions(steal_share=0.02, other_cpu_share=0.10, throttled_s=0.0, throttled_periods=0)},
    {"conditions": Conditions(load_1min=64.0)},
    {
        "conditions": Conditions(steal_share=0.5, other_cpu_share=0.5),
        "harness": Harness(start_s=1, warm_up_s=1, timed_s=(MIN_TIMED_S - 0.01) / len(ALIKE), parent_cpu_s=0),
    },
    {"step_time_ns": (1000,)},
    {"warm_up": UNSTEADY},
    {"step_time_ns": (*[1100] * 10, *[1000] * 10)},
    {"levels": ALIKE[:MIN_PROCESSES]},
    {"levels": (1.0, 1.0, 1.49, 1.0, 1.0)},
    {"levels": (1.0, 1.0, 1.0, 0.1, 0.1)},
    {"case": SPINNING.model_copy(update={"runtime": Runtime(threads=1, wait_policy="active")})},
    {
        "case": SPINNING,
        "process": Process(affinity=(0, 1), quota_cpus=2),
        "conditions": Conditions(other_cpu_share=0.1),
    },
    {"case": SPINNING, "process": Process()},
    {"case": SPINNING.model_copy(update={"runtime": Runtime(threads=2, wait_policy="unset")})},
    {"minor_page_faults": MAX_FAULTS_PER_STEP * len(QUIET_STEPS)},
    {"step_time_ns": (*[1000] * 18, 1250, 1250)},
    {"step_time_ns": (0,) * 20},
    {"observations": Observations(denormals=Denormals(share=MAX_DENORMAL_SHARE))},
    BF16 | {"machine": Machine(isa_flags=("avx512f", "avx512_bf16"))},
    BF16 | {"machine": Machine(isa_flags=("asimd", "bf16"))},
    BF16 | {"machine": Machine(isa_flags=None)},
    {"parameter_dtypes": ("torch.float32",), "machine": Machine(isa_flags=("avx2",))},
    {"endings": (Ending(loss=6.9, anonymous_bytes=1), Ending())},
    {"endings": sizes(300, 302, 304, 306, 308)},  # too few
    {"endings": sizes(300, 300.1, 300.2, 300.3, 300.4, 300.5)},  # too little
    {"endings": sizes(300, 400, 450, 475, 480, 481)},  # settling
    {"endings": sizes(300, 302, 304, 304, 308, 310)},  # now and then
    {"endings": sizes(300, 310, 302, 312, 304, 314, 306, 316)},  # a sawtooth
    {"endings": (*sizes(300, 302, 304, 306, 308), Ending())},
    {"endings": (Ending(settings=(IN_BF16,)),), "case": ONEDNN},
    {"endings": (Ending(settings=(IN_BF16,)),), "case": BF16_MATMUL},
]


def kinds(measurement: Measurement) -> list[str]:
    return [warning.kind for warning in warnings_of(measurement)]


def made(make_measurement: Make, fields: dict[str, Any]) -> Measurement:
    return make_measurement(**({"step_time_ns": QUIET_STEPS, "levels": ALIKE} | fields))


def processes(make_measurement: Make, *fields: dict[str, Any], **common: Any) -> Measurement:
    """A measurement of one process for each of these fields."""
    parts = [make_measurement(**({"step_time_ns": QUIET_STEPS} | common | part)) for part in fields]
    return parts[0].model_copy(update={"processes": tuple(process for part in parts for process in part.processes)})


def test_every_kind_is_tried_here() -> None:
    assert set(CASES) | {kind for kind, _ in BEFOREHAND} | {"untested-torch"} == set(get_args(Kind))


@pytest.mark.parametrize("kind", CASES)
def test_a_kind_is_warned_of_alone(make_measurement: Make, kind: str) -> None:
    assert kinds(made(make_measurement, CASES[kind])) == [kind]


@pytest.mark.parametrize("fields", AT_THE_LIMIT)
def test_neither_the_limit_nor_the_unknown_warns(make_measurement: Make, fields: dict[str, Any]) -> None:
    assert kinds(made(make_measurement, fields)) == []


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("high-steal", "2.1% of the CPU time"),
        ("throttled", "in all 5 processes: the cgroup's CPU quota held processes back for 0.05 CPU seconds"),
        ("other-load", "11% of the CPU time"),
        ("unsteady-warm-up", "in all 5 processes: the step time was still falling after the warm-up, by 17% "),
        ("too-few-processes", "only 2 processes"),
        ("slow-process", "in 1 of 5 processes: a step took 1.52 times as long as in the median process (round 3)"),
        ("spinning-threads", "2 threads"),
        ("mmap-churn", "1,000 minor page faults a step"),
        ("noisy-samples", "30% above the median"),
        ("not-observed", "flops: simple-b8-s64-t1: RuntimeError: no formula"),
        ("denormals", "0.2% of parameters"),
        ("bf16-without-hardware", "parameters are bf16"),
        ("loss-not-finite", "in all 5 processes: the loss is inf"),
        ("growing-memory", "grew by 0.6 MiB a step, to 310 MiB"),  # 8 MiB in 4 of 6 blocks of 20 steps
        (
            "changed-settings",
            "default dtype from torch.float32 to torch.float64, anomaly detection from off to on",
        ),
    ],
)
def test_the_message_has_the_value(make_measurement: Make, kind: str, value: str) -> None:
    (warning,) = warnings_of(made(make_measurement, CASES[kind]))
    assert value in warning.message


def test_throttling_is_told_by_what_is_known_of_it(make_measurement: Make) -> None:
    both = made(make_measurement, {"conditions": Conditions(throttled_s=0.3, throttled_periods=3)})
    periods = processes(make_measurement, {}, {"conditions": Conditions(throttled_periods=3)}, {})
    assert warnings_of(both)[0].message.endswith("back for 1.5 CPU seconds in 15 periods")
    assert warnings_of(periods)[0].message.startswith("in 1 of 3 processes: the cgroup")
    assert warnings_of(periods)[0].message.endswith("back in 3 periods")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((0.05, 0, 0, 0, 0), ""),  # three ticks of half a second
        ((0.11, 0, 0, 0, 0), "in 1 of 5 processes: the hypervisor gave up to 11.0% of the CPU time to other guests"),
        (
            (0.05, 0.03, 0.03, 0, 0),
            "in 3 of 5 processes: the hypervisor gave up to 5.0% of the CPU time to other guests",
        ),
        ((0.05,) * 5, "in all 5 processes: the hypervisor gave up to 5.0% of the CPU time to other guests"),
        ((None, 0.05, None), "in 1 of 3 processes: the hypervisor gave up to 5.0% of the CPU time to other guests"),
    ],
)
def test_what_disturbed_processes_is_said_once_if_it_matters_on_average(
    make_measurement: Make, shares: tuple[float | None, ...], message: str
) -> None:
    stolen = ({"conditions": Conditions(steal_share=share)} for share in shares)
    assert [warning.message for warning in warnings_of(processes(make_measurement, *stolen))] == [message] * bool(
        message
    )


def test_a_trend_is_one_that_all_processes_have(make_measurement: Make) -> None:
    def trend(*changes: float) -> list[str]:
        samples = ({"step_time_ns": [1000] * 5 + [round(1000 * (1 + change))] * 5} for change in changes)
        return [warning.message for warning in warnings_of(processes(make_measurement, *samples))]

    assert trend(0.2, 0.2, 0.2, -0.01, 0.2) == trend(0.2, 0.2, 0.09, 0.09, 0.09) == trend(0.2, 0.2, 0.0) == []
    assert trend(0.2, 0.21, 0.22, 0.09, 0.09)[0].startswith("in 3 of 5 processes: the step time was still rising")


def test_of_a_process_alone_a_trend_and_its_warm_up_must_agree(make_measurement: Make) -> None:
    def of_one(samples: Sequence[int], **fields: Any) -> list[str]:
        return kinds(make_measurement(step_time_ns=samples, **fields))[1:]  # too few processes it always has

    falling = (*[1200] * 10, *[1000] * 10)
    assert of_one(falling) == of_one(QUIET_STEPS, warm_up=UNSTEADY) == of_one((1000,), warm_up=UNSTEADY) == []
    assert of_one(falling, warm_up=UNSTEADY) == ["unsteady-warm-up"]


def test_a_heap_that_a_process_still_fills_is_no_churn(make_measurement: Make) -> None:
    faults = ({"minor_page_faults": count} for count in (10**6, 10**6, 10**6, 50, 10**6))
    assert kinds(processes(make_measurement, *faults)) == []
    everywhere = ({"minor_page_faults": count} for count in (10**6, 10**7, 10**6))
    assert kinds(processes(make_measurement, *everywhere)) == ["mmap-churn"]


def test_memory_grows_if_it_does_so_in_every_process_that_can_show_it(make_measurement: Make) -> None:
    growing, settled, short = sizes(300, 302, 304, 306, 308, 310), sizes(300, *[302] * 5), sizes(300, 302, 304)

    def of(*endings: tuple[Ending, ...]) -> list[str]:
        made = processes(make_measurement, *({"endings": of_process} for of_process in endings))
        return [warning.message for warning in warnings_of(made)]

    assert of(growing, growing, settled) == of(short, short, short) == of((), (), ()) == []
    assert of(growing, short, growing) == [
        "in 2 of 3 processes: the memory of the process grew by 0.6 MiB a step, to 310 MiB"
    ]


def test_the_processes_with_a_loss_that_is_not_finite_are_counted(make_measurement: Make) -> None:
    endings = [(Ending(loss=6.9),), (Ending(loss=6.9), Ending(loss=math.nan)), (Ending(loss=6.9),)]
    measurement = processes(make_measurement, *({"endings": of_process} for of_process in endings))
    assert [warning.message for warning in warnings_of(measurement)] == ["in 1 of 3 processes: the loss is nan"]


def test_the_tuned_allocator_is_not_advised_to_who_has_it(make_measurement: Make) -> None:
    churn = {"step_time_ns": QUIET_STEPS, "minor_page_faults": 10**6, "levels": ALIKE}
    (plain,) = warnings_of(make_measurement(Case(runtime=Runtime(allocator="glibc")), **churn))
    (tuned,) = warnings_of(make_measurement(Case(), **churn))
    assert "--ntp-allocator glibc-tuned" in plain.advice
    assert "--ntp-allocator" not in tuned.advice


@pytest.mark.parametrize(
    ("process", "other_cpu_share", "reason"),
    [
        (Process(affinity=(3,)), 0.0, "the process has 1 CPU"),
        (Process(affinity=(0, 1, 2, 3), quota_cpus=1.5), None, "the process has 1.5 CPUs"),
        (Process(affinity=(0, 1)), 0.11, "other processes used 11% of the CPU time"),
    ],
)
def test_threads_that_spin_are_warned_of_where_somebody_needs_their_cpus(
    make_measurement: Make, process: Process, other_cpu_share: float | None, reason: str
) -> None:
    conditions = Conditions(other_cpu_share=other_cpu_share)
    warnings = warnings_of(make_measurement(SPINNING, QUIET_STEPS, process=process, conditions=conditions))
    (warning,) = (warning for warning in warnings if warning.kind == "spinning-threads")
    assert warning.message == f"2 threads spin while they wait (the active wait policy), and {reason}"


def test_warnings_add_up(make_measurement: Make) -> None:
    together: dict[str, Any] = {
        "case": SPINNING,
        "step_time_ns": (1000, 1000, 9000, 9000, 90_000),
        "conditions": Conditions(steal_share=0.5, other_cpu_share=0.5, throttled_periods=1),
        "warm_up": UNSTEADY,
        "minor_page_faults": 10**6,
        "observations": Observations(denormals=Denormals(share=1), failures=UNSEEN.failures),
        "endings": tuple(
            size.model_copy(update={"loss": math.nan, "settings": (DTYPE,)}) for size in sizes(1, 2, 4, 6, 8, 10)
        ),
        **CASES["bf16-without-hardware"],
    }
    few = set(kinds(make_measurement(**together)))
    slow = set(kinds(make_measurement(**together, levels=(1, 1, 2))))
    assert (few - slow, slow - few) == ({"too-few-processes"}, {"slow-process"})
    assert few | slow == set(CASES)


def test_products_in_bf16_are_told_of_where_the_case_does_not_say_so(make_measurement: Make) -> None:
    assert kinds(made(make_measurement, {"endings": (Ending(settings=(IN_BF16,)),)})) == ["changed-settings"]
    assert PRODUCTS in read_settings()


def test_each_observer_that_failed_is_a_warning(make_measurement: Make) -> None:
    observations = Observations(failures=("memory: lost", "flops: no formula"))
    warnings = warnings_of(made(make_measurement, {"observations": observations}))
    assert [warning.message for warning in warnings] == ["memory: lost", "flops: no formula"]


@given(
    drawn=st.lists(st.lists(st.integers(0, 10**13), min_size=1, max_size=12), min_size=1, max_size=6), data=st.data()
)
def test_any_samples_can_be_judged_and_the_order_of_processes_does_not_matter(
    make_measurement: Make, drawn: list[list[int]], data: st.DataObject
) -> None:
    measurement = processes(make_measurement, *({"step_time_ns": samples} for samples in drawn))
    shuffled = measurement.model_copy(update={"processes": tuple(data.draw(st.permutations(measurement.processes)))})
    assert warnings_of(measurement) == warnings_of(shuffled)


@given(samples=st.lists(st.integers(0, 10**13), min_size=1, max_size=30), data=st.data())
def test_the_order_of_steps_matters_to_a_trend_alone(
    make_measurement: Make, samples: list[int], data: st.DataObject
) -> None:
    def judged(order: list[int]) -> list[Any]:
        warnings = warnings_of(make_measurement("simple-b8-s64-t1", order, ALIKE))
        return [warning for warning in warnings if warning.kind != "unsteady-warm-up"]

    assert judged(samples) == judged(data.draw(st.permutations(samples)))


def about(machine=None, process=None, conditions=None):
    environment = Environment(
        machine=machine or Machine(), software=Software(), process=process or Process(), conditions=conditions
    )
    return {warning.kind: warning for warning in warnings_about(environment)}


def test_a_machine_of_which_nothing_is_known_is_not_warned_about():
    assert about() == {}


@pytest.mark.parametrize(("kind", "environment"), BEFOREHAND)
def test_what_will_disturb_is_said_before_it_does(kind, environment):
    assert list(about(**environment)) == [kind]
    assert about(**environment)[kind].advice


@pytest.mark.parametrize(
    "environment",
    [
        {"machine": Machine(hypervisor=False, governor="performance", smt=False)},
        {"process": Process(affinity=(0, 1), quota_cpus=2.0)},
        {"process": Process(allocator="glibc", allocator_tunables=(("mmap_threshold", "1"),))},
        {"process": Process(allocator="jemalloc")},
    ],
)
def test_a_quiet_machine_is_not_warned_about(environment):
    assert about(**environment) == {}


def test_a_torch_that_is_not_the_tested_one_is_told():
    assert list(untested_torch("2.13.0", "2.13.0")) == list(untested_torch("2.13.0+cpu", "2.13.0")) == []
    assert list(untested_torch(None, "2.13.0")) == []
    (warning,) = untested_torch("2.15.0+cpu", "2.13.0")
    assert warning.message == "this is torch 2.15.0+cpu, and ntp is tested with 2.13.0"
    assert "pip install torch==2.13.0" in warning.advice
