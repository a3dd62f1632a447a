"""A case in a worker of its own, the one way to measure it, and the one way to observe it."""

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import Field

from ntp.case import Case, Frozen, Runtime
from ntp.errors import WorkerFailed
from ntp.machine.cpus import available_cpus, choose_cpus, read_topology
from ntp.machine.software import read_git
from ntp.machine.system import read_counters, read_machine
from ntp.observe.passes import PASSES
from ntp.records.environment import Environment, Git, conditions
from ntp.records.observations import Observations
from ntp.records.run import (
    NOTHING_USED,
    CalibrationKernel,
    Harness,
    KernelBurst,
    MeasuredProcess,
    Measurement,
    WarmUp,
)
from ntp.worker.channel import Channel, Refused
from ntp.worker.launch import Launch, new_process
from ntp.worker.protocol import Imported, Loaded, Ran, Worker
from ntp.worker.sources import Source

_RUNNING = "running steps"


def cpus_for(runtime: Runtime) -> tuple[int, ...] | None:
    """The CPUs that a worker of this runtime is pinned to, a core for each thread while there are any. None: all."""
    if runtime.affinity == "free":
        return None
    return choose_cpus(available_cpus().cpus, runtime.threads, read_topology())


class PipeWorker(Channel):
    """A case in a process of its own: the real :class:`ntp.worker.protocol.Worker`.

    Args:
        case: what the worker holds. Its runtime decides on the environment variables and the CPUs.
        timeout_s, source, launch: see :class:`~ntp.worker.channel.Channel`.
    """

    if_killed = "make batch size, sequence length or model smaller"
    if_silent = "make the case smaller or the time-out longer"

    def __init__(
        self, case: Case, *, timeout_s: float = 300.0, source: Source | None = None, launch: Launch = new_process
    ) -> None:
        super().__init__(case.id, case.runtime, timeout_s=timeout_s, source=source, launch=launch)
        self.case = case

    def load(self) -> Loaded:
        case = self.case.model_dump(mode="json")
        return self.request("load", Loaded, "loading the model", case=case, cpus=cpus_for(self.case.runtime))

    def warm_up(self, steps: int | None = None, cpu: int | None = None) -> WarmUp:
        return self.request("warm_up", WarmUp, "warming up", steps=steps, cpu=cpu)

    def run(self, steps: int, expected_s: float = 0.0) -> Ran:
        return self._checked(self.request("run", Ran, _RUNNING, expected_s=expected_s, steps=steps), steps)

    def begin_step(self, cpu: int | None = None) -> None:
        self.send("run", _RUNNING, steps=1, cpu=cpu)

    def move(self, cpu: int) -> None:
        with suppress(ProcessLookupError):  # whoever waits for its answer learns that it is gone
            os.sched_setaffinity(self.pid, [cpu])

    def end_step(self) -> Ran:
        return self._checked(self.receive(Ran, _RUNNING), 1)

    def run_marked_step(self) -> Ran:
        return self._checked(self.request("run_marked_step", Ran, _RUNNING), 1)

    def _checked(self, ran: Ran, steps: int) -> Ran:
        if len(ran.step_time_ns) != steps:
            raise self.malformed(_RUNNING, f"{len(ran.step_time_ns)} samples for {steps} steps")
        return ran

    def calibration_kernel(self) -> KernelBurst:
        return self.request("calibration_kernel", KernelBurst, "timing the calibration kernel")

    def imported(self, folders: Sequence[str], packages: Sequence[str]) -> Imported:
        return self.request("imported", Imported, "listing its modules", folders=list(folders), packages=list(packages))

    def ask(self, name: str, **arguments: Any) -> Any:
        asked = PASSES[name]
        return self.request("observe", asked.record, asked.activity, name=name, **arguments)


class Sampling(Frozen):
    """How many steps of a process are timed: as many as fill ``time_s`` seconds at the warm-up's pace, within bounds.

    A process's own level differs from the next one's by more than the median of a second's steps is uncertain: time is
    better spent on another process than on more steps.
    """

    time_s: float = Field(0.5, gt=0)
    min_samples: int = Field(3, ge=1)
    max_samples: int = Field(2000, ge=1)
    blocks: int = Field(8, ge=1)
    """The steps are run in this many blocks, with the calibration kernel before, between and after them: timed at both
    ends alone, it says little about what happened between them."""

    def steps(self, warm_up: WarmUp) -> int:
        """The number of steps to time, from the median of the newest half of the warm-up.

        Where a part is timed, the wall time of the whole step counts.
        """
        newest = warm_up.step_time_ns[len(warm_up.step_time_ns) // 2 :]
        share_timed = sum(warm_up.step_time_ns) / warm_up.wall_time_ns
        wall_time_s = statistics.median(newest) / share_timed / 1e9
        return min(self.max_samples, max(self.min_samples, math.ceil(self.time_s / wall_time_s)))

    def for_case(self, case: Case) -> Self:
        """The sampling of one case. A part of a step is background to the whole step, and has a quarter of the time."""
        return self if case.workload.part == "step" else self.model_copy(update={"time_s": self.time_s / 4})


def measure(
    case: Case,
    worker: Worker,
    sampling: Sampling,
    *,
    round_: int = 1,
    git: Git | None = None,
    clock_s: Callable[[], float] = time.perf_counter,
) -> Measurement:
    """Load, warm up and run a worker that was just started, and make the record of its process. It is left running.

    The steps are run in blocks, and the calibration kernel before, between and after them.

    Args:
        case: what the worker holds.
        worker: just started.
        sampling: how many steps are timed.
        round_: the number of the round, for the record.
        git: the commit that is measured; read unless given, which takes a moment.
        clock_s: a clock of seconds.

    Raises:
        WorkerFailed: the worker died, hung, refused the case or gave a malformed answer.
    """
    started_s = clock_s()
    loaded = worker.load()
    loaded_s = clock_s()
    warm_up = worker.warm_up()
    warm_s = clock_s()
    started = datetime.now(UTC).isoformat(timespec="milliseconds")
    counters, parent_cpu_s = read_counters(), time.process_time()
    blocks, bursts = _run_in_blocks(worker, sampling, sampling.steps(warm_up))
    done_s = clock_s()
    parent_cpu_s = time.process_time() - parent_cpu_s
    worker_cpu_s = sum(block.cpu_time_s for block in blocks) + sum(burst.cpu_time_s for burst in bursts)
    process = MeasuredProcess(
        **dict(sum(blocks, NOTHING_USED)),
        started=started,
        round=round_,
        step_time_ns=tuple(time_ns for block in blocks for time_ns in block.step_time_ns),
        step_cpu_ns=tuple(time_ns for block in blocks for time_ns in block.step_cpu_ns),
        warm_up=warm_up,
        harness=Harness(
            start_s=loaded_s - started_s,
            warm_up_s=warm_s - loaded_s,
            timed_s=done_s - warm_s,
            parent_cpu_s=parent_cpu_s,
        ),
        conditions=conditions(counters, read_counters(), worker_cpu_s + parent_cpu_s),
        calibration_kernel=_calibration_kernel(bursts),
        endings=tuple(block.ending for block in blocks),
    )
    return Measurement(
        case=case,
        processes=(process,),
        parameters=loaded.parameters,
        parameter_dtypes=loaded.parameter_dtypes,
        environment=Environment(
            machine=read_machine(),
            software=loaded.software,
            process=loaded.process,
            git=read_git() if git is None else git,
        ),
    )


def _run_in_blocks(worker: Worker, sampling: Sampling, steps: int) -> tuple[list[Ran], list[KernelBurst]]:
    """Run the steps in blocks of sizes as equal as possible, with a burst of the calibration kernel around each.

    A measurement without bursts is as good, but cannot be held against a baseline later. As they have to cover all of
    the steps, there are none where one was refused.
    """
    count = min(sampling.blocks, steps)
    burst, bursts, blocks = _burst(worker), [], []
    for number in range(count):
        size = steps * (number + 1) // count - steps * number // count
        blocks.append(worker.run(size, expected_s=sampling.time_s * size / steps))
        if burst is not None:
            bursts.append(burst)
            burst = _burst(worker)
    return blocks, [] if burst is None else [*bursts, burst]


def _burst(worker: Worker) -> KernelBurst | None:
    try:
        return worker.calibration_kernel()
    except Refused:
        return None


def _calibration_kernel(bursts: Sequence[KernelBurst]) -> CalibrationKernel | None:
    if not bursts:
        return None
    return CalibrationKernel(shape=bursts[0].shape, bursts_ns=tuple(burst.time_ns for burst in bursts))


class Observing(Frozen):
    """Which observers look at a case after it was measured, and for how many steps."""

    phase_pairs: int = Field(3, ge=1)
    """How many steps have their phases timed. As many bare ones run between them."""
    operator_steps: int = Field(0, ge=0)
    """How many steps run under torch.profiler."""


def observe(worker: Worker, observing: Observing, trace: str | None = None) -> Observations:
    """Run the observers' passes over a worker that was measured, one after the other.

    Nothing raises: an observer that cannot handle the model costs its own record, a worker that is lost costs those of
    the observers after it, too.
    """
    arguments: dict[str, dict[str, Any]] = {
        "phases": {"steps": observing.phase_pairs},
        "operators": {"steps": observing.operator_steps, "trace": trace},
    }
    started_s = time.perf_counter()
    observations: dict[str, Frozen] = {}
    failures = []
    for name in PASSES:
        if name == "operators" and not observing.operator_steps:
            continue
        try:
            observations[name] = worker.ask(name, **arguments.get(name, {}))
        except WorkerFailed as error:
            failures.append(f"{name}: {error}")
            if not isinstance(error, Refused):
                break
    wall_time_s = time.perf_counter() - started_s
    return Observations.model_validate({**observations, "failures": tuple(failures), "wall_time_s": wall_time_s})
