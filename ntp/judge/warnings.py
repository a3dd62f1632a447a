"""Warnings: typed values that say what casts doubt on a measurement, and carry advice.

They are derived from the record, and never stored in it. A message and an advice are clauses without a full stop, for
reports join them in their own ways.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from ntp.case import Frozen, StepConfig
from ntp.records.endings import PRODUCTS, Ending
from ntp.records.environment import Conditions, Environment, Machine
from ntp.records.run import Measurement

Kind = Literal[
    "high-steal",
    "throttled",
    "other-load",
    "unsteady-warm-up",
    "too-few-samples",
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

MIN_SAMPLES = 10
"""With fewer than six samples the median's 95% interval is the whole range; from nine on one outlier cannot set it."""

MAX_FAULTS_PER_STEP = 1000
"""4 MiB of 4 KiB pages. A virtual machine takes 1 to 4 µs to fault one in, so a thousand cost milliseconds a step."""

MAX_SPREAD = 0.25
"""How far the 95th percentile may lie above the median. On a quiet machine it is a few percent."""

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
        *_of_the_conditions(measurement.processes[-1].conditions),
        *_of_the_samples(measurement),
        *_of_the_runtime(measurement),
        *_of_the_waiting(measurement),
        *_of_the_observers(measurement),
        *_of_the_numbers(measurement),
        *_of_the_memory(measurement),
        *warnings_of_endings(measurement.endings, measurement.case.step),
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
    if conditions.steal_share is not None and conditions.steal_share > MAX_STEAL_SHARE:
        yield MeasurementWarning(
            kind="high-steal",
            message=f"the hypervisor gave {conditions.steal_share:.1%} of the CPU time to other guests",
            advice="measure again at another time, or on a machine that does not share its CPUs",
        )
    if conditions.throttled_s or conditions.throttled_periods:
        extent = []
        if conditions.throttled_s:
            extent.append(f"for {conditions.throttled_s:.2g} CPU seconds")
        if conditions.throttled_periods:
            extent.append(f"in {conditions.throttled_periods} periods")
        yield MeasurementWarning(
            kind="throttled",
            message=f"the cgroup's CPU quota held processes back {' '.join(extent)}",
            advice="raise the container's CPU quota, or use no more threads than it allows",
        )
    if conditions.other_cpu_share is not None and conditions.other_cpu_share > MAX_OTHER_CPU_SHARE:
        yield MeasurementWarning(
            kind="other-load",
            message=f"other processes used {conditions.other_cpu_share:.0%} of the CPU time",
            advice="stop other programs and measure again",
        )


def _of_the_samples(measurement: Measurement) -> Iterator[MeasurementWarning]:
    warm_up = measurement.processes[-1].warm_up
    if not warm_up.steady:
        steps, seconds = len(warm_up.step_time_ns), warm_up.wall_time_ns / 1e9
        yield MeasurementWarning(
            kind="unsteady-warm-up",
            message=f"the step time was still changing after a warm-up of {steps:,} steps in {seconds:.1f} s",
            advice="check the samples for a trend before you trust their median, or measure again on a quieter machine",
        )
    if len(measurement.step_time_ns) < MIN_SAMPLES:
        samples = len(measurement.step_time_ns)
        yield MeasurementWarning(
            kind="too-few-samples",
            message=f"only {samples} sample{'s' if samples > 1 else ''}",
            advice=f"take at least {MIN_SAMPLES} (--ntp-min-samples, --ntp-sample-time): the interval is too rough",
        )
    median, p95 = np.quantile(measurement.step_time_ns, [0.5, 0.95])
    if p95 - median > MAX_SPREAD * median:
        yield MeasurementWarning(
            kind="noisy-samples",
            # Less than a nanosecond is what the clock cannot tell, not nothing.
            message=f"the 95th percentile lies {(p95 - median) / max(median, 1):.0%} above the median",
            advice="something disturbs single steps: close other programs, pin the threads, and do not rely on the "
            "mean",
        )


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
    """Warn of memory that grows in every block after the first and does not settle: in the later half it grows at least
    half as much as in the half before.
    """
    sizes = [ending.anonymous_bytes for ending in measurement.endings[1:] if ending.anonymous_bytes is not None]
    if len(sizes) < MIN_BLOCKS:
        return
    middle = len(sizes) // 2
    early, late = sizes[middle] - sizes[0], sizes[-1] - sizes[middle]
    ever_larger = all(one < next_one for one, next_one in pairwise(sizes))
    if ever_larger and early + late >= MIN_GROWTH_BYTES and late >= early / 2:
        steps = len(measurement.step_time_ns) * (len(sizes) - 1) / len(measurement.endings)
        yield MeasurementWarning(
            kind="growing-memory",
            message=f"the memory of the process grew by {(early + late) / steps / 2**20:.2g} MiB a step, "
            f"to {sizes[-1] >> 20:,} MiB",
            advice="something keeps what each step makes, and a long training run will run out of memory: look in the "
            "model's code for tensors that are appended to a list or kept without detach()",
        )


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
