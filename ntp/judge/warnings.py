"""Warnings: typed values that say what casts doubt on a measurement, and carry advice.

They are derived from the record, and never stored in it. A message and an advice are clauses without a full stop, for
reports join them in their own ways. What several processes of a case have in common is said once, with their number.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from ntp.case import Frozen, StepConfig
from ntp.judge.statistics import quantile
from ntp.records.endings import PRODUCTS, Ending
from ntp.records.environment import Conditions, Environment, Machine
from ntp.records.run import MeasuredProcess, Measurement

Kind = Literal[
    "high-steal",
    "throttled",
    "other-load",
    "unsteady-warm-up",
    "too-few-processes",
    "slow-process",
    "spinning-threads",
    "mmap-churn",
    "noisy-samples",
    "not-observed",
    "denormals",
    "bf16-without-hardware",
    "loss-not-finite",
    "growing-memory",
    "changed-settings",
    "virtual-machine",
    "changing-frequency",
    "quota",
    "smt",
    "default-allocator",
    "untested-torch",
]

TUNED_YET_CHURNING = (
    "the tuned allocator should prevent this, so check that the C library is glibc and no other allocator is preloaded"
)

MAX_STEAL_SHARE = 0.02
"""Stolen time comes in bursts: 2% on average is a great deal of the few steps that it hits."""

MAX_OTHER_CPU_SHARE = 0.10
"""A desktop at rest uses a few percent. At 10% another program competes for cores, caches and memory bandwidth."""

MIN_TIMED_S = 1.0
"""Shares of less time are too coarse: the kernel counts in ticks of 10 ms, and what a worker does around its steps
looks like another program."""

MIN_PROCESSES = 3
"""The spread of two is hardly known: Student's t makes their interval 13 standard errors wide to either side."""

MAX_SLOWER = 1.5
"""How many times as long as in the median process a step may take. Two threads that share a CPU make it 1.5 to 2."""

MAX_TREND = 0.1
"""By how much the later half of a process's samples may differ from the earlier half, if all processes agree."""

MAX_FAULTS_PER_STEP = 1000
"""4 MiB of 4 KiB pages. A virtual machine takes 1 to 4 µs to fault one in, so a thousand cost milliseconds a step."""

MAX_SPREAD = 0.25
"""How far the 95th percentile may lie above the median of the process. On a quiet machine it is a few percent."""

MAX_DENORMAL_SHARE = 0.001
"""A thousandth of the numbers, each a hundred times as slow, lengthens elementwise work by a tenth."""

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16", "avx10_2"}
"""Instruction sets with products of bf16 numbers."""

MIN_BLOCKS = 5
"""How many blocks after the first must show growth: fewer may grow one after the other by chance."""

MIN_GROWTH_BYTES = 4 << 20
"""By how much a process may grow from its second block to its last. One that has settled grows by some pages."""


class MeasurementWarning(Frozen):
    """A reason to doubt a measurement."""

    kind: Kind
    message: str
    """What was measured, with its value."""
    advice: str
    """What to do about it: one text for all warnings of a kind that have the same cause."""


def warnings_of(measurement: Measurement) -> tuple[MeasurementWarning, ...]:
    """Return everything that casts doubt on a measurement. What is unknown causes no warning."""
    return (
        *_of_all_conditions([process.conditions for process in _long_enough(measurement)]),
        *_of_the_processes(measurement),
        *_of_the_samples(measurement.processes),
        *_of_the_runtime(measurement),
        *_of_the_waiting(measurement),
        *_of_the_observers(measurement),
        *_of_the_numbers(measurement),
        *_of_the_memory(measurement),
        *_of_all_losses(measurement.processes),
        *_of_the_settings(measurement.endings, measurement.case.step),
    )


def warnings_of_endings(endings: Sequence[Ending], config: StepConfig) -> tuple[MeasurementWarning, ...]:
    """Return what the ends of blocks say against a model: its loss, and the settings of the process that it changed."""
    return (*_of_the_loss(endings), *_of_the_settings(endings, config))


def warnings_about(environment: Environment) -> tuple[MeasurementWarning, ...]:
    """Return what will disturb measurements on this machine, before there is any."""
    return (
        *_of_the_conditions(environment.conditions or Conditions()),
        *_of_the_machine(environment.machine),
        *_of_the_process(environment),
    )


def untested_torch(torch: str | None, tested: str) -> Iterator[MeasurementWarning]:
    """Warn if this is not the torch that ntp is tested with. What it was built for does not count."""
    if torch is not None and torch.partition("+")[0] != tested:
        yield MeasurementWarning(
            kind="untested-torch",
            message=f"this is torch {torch}, and ntp is tested with {tested}",
            advice=f"if something fails, try pip install torch=={tested}; if the training is right, ntp train shows "
            "the losses of the README",
        )


def _of_the_machine(machine: Machine) -> Iterator[MeasurementWarning]:
    if machine.hypervisor:
        yield MeasurementWarning(
            kind="virtual-machine",
            message="this is a virtual machine: it shares its CPUs with others, and they may differ from each other",
            advice="trust ratios of runs that alternated on the same CPUs, not two numbers measured hours apart",
        )
    if machine.governor not in {None, "performance"}:
        yield MeasurementWarning(
            kind="changing-frequency",
            message=f"the CPU frequency governor is {machine.governor}",
            advice="set it to performance while you measure: cpupower frequency-set --governor performance",
        )
    if machine.smt:
        yield MeasurementWarning(
            kind="smt",
            message=f"the {machine.logical_cpus} CPUs are hardware threads of {machine.physical_cores} cores",
            advice="use at most one thread per core for matrix products; workers are pinned that way where possible",
        )


def _of_the_process(environment: Environment) -> Iterator[MeasurementWarning]:
    process = environment.process
    if process.quota_cpus is not None and process.affinity and process.quota_cpus < len(process.affinity):
        yield MeasurementWarning(
            kind="quota",
            message=f"the CPU quota allows {process.quota_cpus:g} of the {len(process.affinity)} CPUs",
            advice="use no more threads than that, or raise the container's quota",
        )
    if process.allocator == "glibc" and not process.allocator_tunables:
        yield MeasurementWarning(
            kind="default-allocator",
            message="glibc's malloc maps every large tensor again at each step, and the kernel zeroes its pages",
            advice="ntp's workers avoid this; for your own training, export MALLOC_MMAP_THRESHOLD_="
            "68719476736 MALLOC_TRIM_THRESHOLD_=68719476736 MALLOC_TOP_PAD_=67108864",
        )


def _of_the_conditions(conditions: Conditions) -> Iterator[MeasurementWarning]:
    yield from _of_all_conditions([conditions])


def _of_all_conditions(conditions: Sequence[Conditions]) -> Iterator[MeasurementWarning]:
    """Warn of what disturbed the processes on average: a tick of the kernel is 2% of the half second of one of them."""
    several = len(conditions) > 1
    steal = [process.steal_share for process in conditions if process.steal_share is not None]
    if steal and statistics.mean(steal) > MAX_STEAL_SHARE:
        where = _in(sum(share > MAX_STEAL_SHARE for share in steal), len(conditions))
        yield MeasurementWarning(
            kind="high-steal",
            message=f"{where}the hypervisor gave {'up to ' * several}{max(steal):.1%} of the CPU time to other guests",
            advice="measure again at another time, or on a machine that does not share its CPUs",
        )
    throttled = [process for process in conditions if process.throttled_s or process.throttled_periods]
    if throttled:
        extent = []
        if throttled_s := math.fsum(process.throttled_s or 0 for process in throttled):
            extent.append(f"for {throttled_s:.2g} CPU seconds")
        if periods := sum(process.throttled_periods or 0 for process in throttled):
            extent.append(f"in {periods} periods")
        where = _in(len(throttled), len(conditions))
        yield MeasurementWarning(
            kind="throttled",
            message=f"{where}the cgroup's CPU quota held processes back {' '.join(extent)}",
            advice="raise the container's CPU quota, or use no more threads than it allows",
        )
    other = [process.other_cpu_share for process in conditions if process.other_cpu_share is not None]
    if other and statistics.mean(other) > MAX_OTHER_CPU_SHARE:
        where = _in(sum(share > MAX_OTHER_CPU_SHARE for share in other), len(conditions))
        yield MeasurementWarning(
            kind="other-load",
            message=f"{where}other programs used {'up to ' * several}{max(other):.0%} of the CPU time",
            advice="stop other programs and measure again",
        )


def _long_enough(measurement: Measurement) -> Sequence[MeasuredProcess]:
    """Return the processes, if they were timed for long enough together to say what ran beside them."""
    timed_s = math.fsum(process.harness.timed_s for process in measurement.processes)
    return measurement.processes if timed_s >= MIN_TIMED_S else ()


def _in(concerned: int, processes: int) -> str:
    """Say how many processes a message is about, unless there is only one."""
    if processes == 1:
        return ""
    return f"in all {processes} processes: " if concerned == processes else f"in {concerned} of {processes} processes: "


def _of_the_processes(measurement: Measurement) -> Iterator[MeasurementWarning]:
    count = len(measurement.processes)
    if count < MIN_PROCESSES:
        yield MeasurementWarning(
            kind="too-few-processes",
            message=f"only {count} process{'es' if count > 1 else ''}",
            advice=f"measure at least {MIN_PROCESSES} rounds (--ntp-rounds): it is hardly known by how much another "
            "process differs",
        )
        return
    middle_ns = statistics.median(measurement.medians_ns)
    slow = [process for process in measurement.processes if process.median_ns > MAX_SLOWER * middle_ns]
    if slow:
        slowest = max(slow, key=lambda process: process.median_ns)
        yield MeasurementWarning(
            kind="slow-process",
            message=f"{_in(len(slow), count)}a step took {slowest.median_ns / middle_ns:.2f} times as long as in the "
            f"median process (round {slowest.round})",
            advice="two threads may have shared a CPU, or something else ran meanwhile: look at the samples, and "
            "measure more rounds (--ntp-rounds), so that one process weighs less",
        )


def _of_the_samples(processes: Sequence[MeasuredProcess]) -> Iterator[MeasurementWarning]:
    changes = [_change(process.step_time_ns) for process in processes]
    agree = all(change > 0 for change in changes) or all(change < 0 for change in changes)
    trending = [change for change in changes if abs(change) > MAX_TREND]
    # A process alone agrees with itself: then its warm-up decides.
    if agree and 2 * len(trending) > len(changes) and (len(processes) > 1 or not processes[0].warm_up.steady):
        direction = "rising" if trending[0] > 0 else "falling"
        yield MeasurementWarning(
            kind="unsteady-warm-up",
            message=f"{_in(len(trending), len(changes))}the step time was still {direction} after the warm-up, by "
            f"{abs(statistics.median(trending)):.0%} from the earlier half of the samples to the later",
            advice="measure longer processes (--ntp-sample-time), and look at the samples for a trend before you trust "
            "their median",
        )
    # Relative to its own process: that processes differ is no matter of single steps.
    excess = (
        quantile([sample / process.median_ns for process in processes for sample in process.step_time_ns], 0.95) - 1
    )
    if excess > MAX_SPREAD:
        yield MeasurementWarning(
            kind="noisy-samples",
            message=f"the 95th percentile lies {excess:.0%} above the median of the process",
            advice="something disturbs single steps: close other programs, pin the threads, and do not rely on the "
            "mean",
        )


def _change(samples_ns: Sequence[int]) -> float:
    """Return how much longer the later half of the samples took than the earlier half, as a fraction."""
    half = len(samples_ns) // 2
    if not half:
        return 0.0
    early_ns, late_ns = (max(1.0, statistics.median(part)) for part in (samples_ns[:half], samples_ns[-half:]))
    return late_ns / early_ns - 1


def _of_the_observers(measurement: Measurement) -> Iterator[MeasurementWarning]:
    for failure in measurement.observations.failures:
        yield MeasurementWarning(
            kind="not-observed",
            message=failure,
            advice="the samples are not affected; only what this observer would have measured is missing",
        )


def _of_the_numbers(measurement: Measurement) -> Iterator[MeasurementWarning]:
    denormals = measurement.observations.denormals
    if denormals is not None and denormals.share > MAX_DENORMAL_SHARE:
        yield MeasurementWarning(
            kind="denormals",
            message=f"{denormals.share:.1%} of parameters, gradients and optimizer state are denormal numbers",
            advice="arithmetic on them is slow; --denormals flushed (--ntp-denormals flushed) treats them as zero",
        )
    flags = measurement.environment.machine.isa_flags
    if "torch.bfloat16" in measurement.parameter_dtypes and flags and not BF16_FLAGS & set(flags):
        yield MeasurementWarning(
            kind="bf16-without-hardware",
            message="the model's parameters are bf16, and this CPU has no instructions for it",
            advice="train in fp32 here: bf16 is emulated, and slower",
        )


def _of_the_memory(measurement: Measurement) -> Iterator[MeasurementWarning]:
    """Warn of memory that grows in every process that has blocks enough to show it."""
    judged = [process for process in measurement.processes if len(_sizes(process)) >= MIN_BLOCKS]
    if judged and all(_keeps_growing(_sizes(process)) for process in judged):
        where = _in(len(judged), len(measurement.processes))
        growth_mib = statistics.median(map(_growth_per_step, judged)) / 2**20
        yield MeasurementWarning(
            kind="growing-memory",
            message=f"{where}the memory of the process grew by {growth_mib:.2g} MiB a step, "
            f"to {max(_sizes(process)[-1] for process in judged) >> 20:,} MiB",
            advice="something keeps what each step makes, and a long training run will run out of memory: look in the "
            "model's code for tensors that are appended to a list or kept without detach()",
        )


def _sizes(process: MeasuredProcess) -> list[int]:
    """The memory of the process after each block but the first, which still fills its heap."""
    return [ending.anonymous_bytes for ending in process.endings[1:] if ending.anonymous_bytes is not None]


def _growth_per_step(process: MeasuredProcess) -> float:
    sizes = _sizes(process)
    steps = len(process.step_time_ns) * (len(sizes) - 1) / len(process.endings)
    return (sizes[-1] - sizes[0]) / steps


def _keeps_growing(sizes: Sequence[int]) -> bool:
    """Return whether memory grows in every block and does not settle: in the later half it grows at least half as much
    as in the half before.
    """
    middle = len(sizes) // 2
    early, late = sizes[middle] - sizes[0], sizes[-1] - sizes[middle]
    ever_larger = all(one < next_one for one, next_one in pairwise(sizes))
    return ever_larger and early + late >= MIN_GROWTH_BYTES and late >= early / 2


def _of_all_losses(processes: Sequence[MeasuredProcess]) -> Iterator[MeasurementWarning]:
    warnings = [warning for process in processes for warning in _of_the_loss(process.endings)]
    if warnings:
        message = f"{_in(len(warnings), len(processes))}{warnings[-1].message}"
        yield warnings[-1].model_copy(update={"message": message})


def _of_the_loss(endings: Sequence[Ending]) -> Iterator[MeasurementWarning]:
    losses = [ending.loss for ending in endings if ending.loss is not None and not math.isfinite(ending.loss)]
    if losses:
        yield MeasurementWarning(
            kind="loss-not-finite",
            message=f"the loss is {losses[-1]}",
            advice="the model learns nothing, and its steps may take a different time from those of a working run: "
            "find out where its numbers stop being finite",
        )


def _of_the_settings(endings: Sequence[Ending], config: StepConfig) -> Iterator[MeasurementWarning]:
    changes = {change.name: change for ending in endings for change in ending.settings}
    if config.matmul == "onednn" or config.precision == "bf16-matmul":
        changes.pop(PRODUCTS, None)  # the step sets that one itself
    if changes:
        descriptions = (f"{change.name} from {change.before} to {change.after}" for change in changes.values())
        yield MeasurementWarning(
            kind="changed-settings",
            message=f"the model's code has changed {', '.join(descriptions)}",
            advice="this affects the whole process, and the case's name does not show it: remove it from the model's "
            "code, or use the case's own option if there is one",
        )


def _of_the_runtime(measurement: Measurement) -> Iterator[MeasurementWarning]:
    runtime = measurement.case.runtime
    faults_per_step = measurement.minor_page_faults_per_step
    if faults_per_step > MAX_FAULTS_PER_STEP:
        tuned = runtime.allocator == "glibc-tuned"
        yield MeasurementWarning(
            kind="mmap-churn",
            message=f"{faults_per_step:,.0f} minor page faults a step: memory is mapped again at every step",
            advice=TUNED_YET_CHURNING if tuned else "keep large blocks in the heap (--ntp-allocator glibc-tuned)",
        )


def _of_the_waiting(measurement: Measurement) -> Iterator[MeasurementWarning]:
    """Warn of threads that spin on CPUs that somebody else needs: each other, or other processes."""
    runtime = measurement.case.runtime
    if runtime.wait_policy != "active" or runtime.threads == 1:
        return
    process = measurement.environment.process
    cpus = min(process.quota_cpus or math.inf, len(process.affinity or ()) or math.inf)
    other_cpu_share = measurement.processes[-1].conditions.other_cpu_share or 0.0
    if runtime.threads > cpus:
        reason = f"the process has {cpus:g} CPU{'s' if cpus != 1 else ''}"
    elif other_cpu_share > MAX_OTHER_CPU_SHARE:
        reason = f"other processes used {other_cpu_share:.0%} of the CPU time"
    else:
        return
    yield MeasurementWarning(
        kind="spinning-threads",
        message=f"{runtime.threads} threads spin while they wait (the active wait policy), and {reason}",
        advice="a thread that spins keeps others from working: use fewer threads, or let them sleep "
        "(--ntp-wait-policy passive)",
    )
