"""The parent's side of a worker: start it, ask it, wait for it, end it. And the one way to measure a case."""

import contextlib
import json
import math
import os
import select
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, Self, TypeVar

import psutil
from pydantic import Field, ValidationError

from ntp.case import Case, Frozen, Runtime
from ntp.errors import MachineError, WorkerFailed
from ntp.lines import last_lines
from ntp.machine.cpus import available_cpus, choose_cpus, read_topology
from ntp.machine.software import read_git
from ntp.machine.system import read_counters, read_machine
from ntp.records.environment import Environment, conditions
from ntp.records.observations import Denormals, FlopCount, MemoryProfile, OperatorProfile, PhaseTimes
from ntp.records.run import CalibrationKernel, Harness, KernelBurst, Measurement, Observations, WarmUp
from ntp.worker.launch import Launch, new_process
from ntp.worker.offspring import descendants, end_of, kill_all, kill_marked
from ntp.worker.protocol import Imported, Loaded, Ran, Worker
from ntp.worker.sources import Source
from ntp.worker.warmup import MIN_WINDOW

_STDERR_BYTES = 1 << 16
"""Of what a worker wrote, its end is read: a model may print for hours."""

_ACTIVITY = {
    "load": "being loaded",
    "warm_up": "warming up",
    "run": "running steps",
    "calibration_kernel": "timing the calibration kernel",
    "imported": "listing its modules",
    "phases": "timing phases",
    "memory": "following its memory",
    "denormals": "counting denormal numbers",
    "flops": "counting operations",
    "operators": "profiling operators",
}

_LONGEST_ANSWER_BYTES = 64 << 20
"""Of an operators' profile, the longest that there is, some hundred would fit in."""

Answer = TypeVar("Answer", bound=Frozen)


def cpus_for(runtime: Runtime) -> tuple[int, ...] | None:
    """The CPUs that a worker of this runtime is pinned to: a core for each thread as far as there are; None: any."""
    if runtime.affinity == "free":
        return None
    return choose_cpus(available_cpus().cpus, runtime.threads, read_topology())


class Refused(WorkerFailed):
    """A worker that answered a request with an error. It is still there, and may be asked something else."""


class PipeWorker:
    """A worker in a process of its own, behind a pair of pipes.

    Reading blocks in the kernel until there is an answer or the time is up: while steps are timed, this process sleeps.

    Args:
        case: what the worker holds. Its runtime decides on the environment variables and the CPUs.
        timeout_s: how long one request may take before the worker counts as hung.
        source: where it runs, and where its modules come from; None: in the current folder, the ntp that runs this.
        launch: starts the process.

    Every request raises :class:`~ntp.errors.WorkerFailed` when the worker dies, hangs, refuses or answers rubbish.
    """

    def __init__(
        self,
        case: Case,
        *,
        timeout_s: float = 300.0,
        source: Source | None = None,
        launch: Launch = new_process,
    ) -> None:
        self.case = case
        self._timeout_s = timeout_s
        self._unread = bytearray()
        self._asking = threading.Lock()
        # A file, not a pipe: nobody has to read it while the worker runs, and a talkative model can't fill it up.
        try:
            self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed in stop)
            try:
                self._process = launch(case.runtime, source or Source.here(), self._stderr)
            except BaseException:
                self._stderr.close()
                raise
        except OSError as error:
            raise WorkerFailed(str(MachineError.of(error, f"{case.id}: no worker can be started"))) from error
        self._end = end_of(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def load(self) -> Loaded:
        """Build the model and the data."""
        request = {"case": self.case.model_dump(mode="json"), "cpus": cpus_for(self.case.runtime)}
        return self._ask("load", request, Loaded, self._timeout_s)

    def warm_up(self, min_window: int = MIN_WINDOW) -> WarmUp:
        """Run steps until their time is steady: the median of at least so many, and of as many before them."""
        return self._ask("warm_up", {"min_window": min_window}, WarmUp, self._timeout_s)

    def run(self, steps: int, expected_s: float = 0.0) -> Ran:
        """Run and time exactly ``steps`` steps, which should take about ``expected_s`` seconds."""
        ran = self._ask("run", {"steps": steps}, Ran, self._timeout_s + 3 * expected_s)
        if len(ran.step_time_ns) != steps:
            raise self._failed(f"answered rubbish: {len(ran.step_time_ns)} samples for {steps} steps")
        return ran

    def calibration_kernel(self) -> KernelBurst:
        """Time the calibration kernel, for some ten milliseconds. No step is run."""
        return self._ask("calibration_kernel", {}, KernelBurst, self._timeout_s)

    def imported(self, folders: Sequence[str], packages: Sequence[str]) -> Imported:
        """List the modules whose files lie in one of the folders, and those of the packages, wherever they lie."""
        return self._ask("imported", {"folders": list(folders), "packages": list(packages)}, Imported, self._timeout_s)

    def phases(self, steps: int) -> PhaseTimes:
        """Time the phases of so many steps, beside as many bare ones."""
        return self._ask("phases", {"steps": steps}, PhaseTimes, self._timeout_s)

    def memory(self) -> MemoryProfile:
        """Follow the tensor memory of a step."""
        return self._ask("memory", {}, MemoryProfile, self._timeout_s)

    def denormals(self) -> Denormals:
        """Count the denormal numbers among what the training holds."""
        return self._ask("denormals", {}, Denormals, self._timeout_s)

    def flops(self) -> FlopCount:
        """Count the floating-point operations of a step."""
        return self._ask("flops", {}, FlopCount, self._timeout_s)

    def operators(self, steps: int, trace: str | None = None) -> OperatorProfile:
        """Profile the operators of so many steps, and write a trace of them to that file."""
        return self._ask("operators", {"steps": steps, "trace": trace}, OperatorProfile, self._timeout_s)

    def stop(self) -> None:
        """End the worker and all that it started, at once. It holds nothing that is worth a farewell."""
        below = descendants(self._process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        kill_all(below)
        with self._asking:  # another thread's request, which fails now
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout, self._stderr):
                if pipe is not None:
                    pipe.close()
            if self._end is not None:
                os.close(self._end)
                self._end = None
        kill_marked(self._process.mark)

    def _ask(self, do: str, arguments: dict[str, Any], answer: type[Answer], timeout_s: float) -> Answer:
        with self._asking:
            return self._answered(do, arguments, answer, timeout_s)

    def _answered(self, do: str, arguments: dict[str, Any], answer: type[Answer], timeout_s: float) -> Answer:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        except BrokenPipeError:
            raise self._died(do) from None
        line = self._read_line(do, timeout_s)
        try:
            message = json.loads(line)
            if "error" in message:
                # The ntp of a guard's base may be older, and name no kind.
                raise Refused(*self._told(str(message["error"])), kind=str(message.get("kind", "")))
            return answer.model_validate(message["ok"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(line[:80])
            raise self._failed(f"answered rubbish while {_ACTIVITY[do]}: {reason}") from error

    def _read_line(self, do: str, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        watched = [stdout] if self._end is None else [stdout, self._end]
        deadline = time.monotonic() + timeout_s
        chunk = bytes(self._unread)
        while b"\n" not in chunk:
            ready, _, _ = select.select(watched, [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._failed(self._silent(do, timeout_s))
            # Its last words are read first. That the pipe ends is not waited for: what it left behind may hold it.
            if stdout not in ready and not select.select([stdout], [], [], 0)[0]:
                raise self._died(do)
            chunk = os.read(stdout, 1 << 16)
            if not chunk:
                raise self._died(do)
            self._unread += chunk
            if len(self._unread) > _LONGEST_ANSWER_BYTES:
                raise self._failed(f"answered rubbish while {_ACTIVITY[do]}: {len(self._unread) >> 20} MiB in one line")
        line, _, self._unread = self._unread.partition(b"\n")
        return bytes(line)

    def _silent(self, do: str, timeout_s: float) -> str:
        with contextlib.suppress(psutil.Error):
            if psutil.Process(self.pid).status() == psutil.STATUS_STOPPED:
                return f"was stopped (SIGSTOP) while {_ACTIVITY[do]}, and was ended after {timeout_s:g} s"
        return (
            f"gave no answer for {timeout_s:g} s while {_ACTIVITY[do]}, and was ended: "
            "make the case smaller or the time-out longer"
        )

    def _died(self, do: str) -> WorkerFailed:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return self._failed(f"closed its pipe while {_ACTIVITY[do]}")
        if status == -signal.SIGKILL:
            return self._failed(
                f"was killed (SIGKILL) while {_ACTIVITY[do]}: by hand, or by the kernel for want of memory "
                "(then make batch size, sequence length or model smaller)"
            )
        how = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        return self._failed(f"{how} while {_ACTIVITY[do]}")

    def _failed(self, what: str) -> WorkerFailed:
        return WorkerFailed(*self._told(what))

    def _told(self, what: str) -> tuple[str, str]:
        """A message about the case, and what the worker wrote at last."""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _STDERR_BYTES))
        return f"{self.case.id}: {what}", last_lines(self._stderr.read())


class Sampling(Frozen):
    """How many steps are timed: as many as fill ``time_s`` seconds by the warm-up's pace, within bounds."""

    time_s: float = Field(4.0, gt=0)
    min_samples: int = Field(10, ge=1)
    max_samples: int = Field(2000, ge=1)
    blocks: int = Field(8, ge=1)
    """The steps are run in this many blocks, with the calibration kernel before, between and after them: timed at both
    ends alone, it adds as much noise as it takes away. The first step of a block is slower by 1%, about."""

    def steps(self, warm_up: WarmUp) -> int:
        """The number of steps to time, from the median of the newest half of the warm-up.

        Where a part is timed, the wall time of the whole step counts.
        """
        newest = warm_up.step_time_ns[len(warm_up.step_time_ns) // 2 :]
        share_timed = sum(warm_up.step_time_ns) / warm_up.wall_time_ns
        wall_time_s = statistics.median(newest) / share_timed / 1e9
        return min(self.max_samples, max(self.min_samples, math.ceil(self.time_s / wall_time_s)))

    def for_case(self, case: Case) -> Self:
        """The sampling of one case. A part of a step is background to the whole: it has a quarter of the time."""
        return self if case.workload.part == "step" else self.model_copy(update={"time_s": self.time_s / 4})


def measure(
    case: Case, worker: Worker, sampling: Sampling, clock_s: Callable[[], float] = time.perf_counter
) -> Measurement:
    """Load, warm up and run a worker that was just started, and record all of it. The worker is left running.

    The steps are run in blocks, and the calibration kernel before, between and after them.

    Raises:
        WorkerFailed: the worker died, hung, refused the case or answered rubbish.
    """
    started_s = clock_s()
    loaded = worker.load()
    loaded_s = clock_s()
    warm_up = worker.warm_up()
    warm_s = clock_s()
    counters, parent_cpu_s = read_counters(), time.process_time()
    parts, bursts = _run_in_blocks(worker, sampling, sampling.steps(warm_up))
    ran = _together(parts)
    done_s = clock_s()
    parent_cpu_s = time.process_time() - parent_cpu_s
    worker_cpu_s = ran.cpu_time_s + sum(each.cpu_time_s for each in bursts)
    return Measurement(
        case=case,
        step_time_ns=ran.step_time_ns,
        warm_up=warm_up,
        harness=Harness(
            start_s=loaded_s - started_s,
            warm_up_s=warm_s - loaded_s,
            timed_s=done_s - warm_s,
            parent_cpu_s=parent_cpu_s,
        ),
        parameters=loaded.parameters,
        parameter_dtypes=loaded.parameter_dtypes,
        peak_rss_bytes=ran.peak_rss_bytes,
        minor_page_faults=ran.minor_page_faults,
        major_page_faults=ran.major_page_faults,
        environment=Environment(
            machine=read_machine(),
            software=loaded.software,
            process=loaded.process,
            git=read_git(),
            conditions=conditions(counters, read_counters(), worker_cpu_s + parent_cpu_s),
        ),
        calibration_kernel=_kernel(bursts),
        endings=tuple(part.ending for part in parts),
    )


def _run_in_blocks(worker: Worker, sampling: Sampling, steps: int) -> tuple[list[Ran], list[KernelBurst]]:
    """Run the steps in blocks as equal as can be, with the calibration kernel around each.

    A case is none the worse where that is refused, but cannot be held against a baseline later.
    """
    blocks = min(sampling.blocks, steps)
    bursts, parts = [_kernel_burst(worker)], []
    for block in range(blocks):
        size = steps * (block + 1) // blocks - steps * block // blocks
        parts.append(worker.run(size, expected_s=sampling.time_s * size / steps))
        bursts.append(_kernel_burst(worker) if bursts[-1] else None)
    return parts, [] if bursts[-1] is None else [each for each in bursts if each]


def _kernel_burst(worker: Worker) -> KernelBurst | None:
    try:
        return worker.calibration_kernel()
    except Refused:
        return None


def _together(parts: Sequence[Ran]) -> Ran:
    return Ran(
        step_time_ns=tuple(time_ns for part in parts for time_ns in part.step_time_ns),
        minor_page_faults=sum(part.minor_page_faults for part in parts),
        major_page_faults=sum(part.major_page_faults for part in parts),
        cpu_time_s=sum(part.cpu_time_s for part in parts),
        peak_rss_bytes=max(part.peak_rss_bytes for part in parts),
    )


def _kernel(bursts: Sequence[KernelBurst]) -> CalibrationKernel | None:
    """All of it, or none: it has to cover all of the steps."""
    if not bursts:
        return None
    return CalibrationKernel(shape=bursts[0].shape, bursts_ns=tuple(each.time_ns for each in bursts))


class Observing(Frozen):
    """Which observers look at a case after its samples are taken, and for how many steps."""

    phase_pairs: int = Field(4, ge=1)
    """Steps whose phases are timed; as many bare ones run beside them."""
    operator_steps: int = Field(0, ge=0)
    """Steps under torch.profiler; none if 0."""


def observe(worker: Worker, observing: Observing, trace: str | None = None) -> Observations:
    """Let the observers look at a worker that was measured, one after the other, each at steps of its own.

    Nothing raises: an observer that does not bear the model costs what it would have seen, a worker that is lost costs
    what the observers after it would have.
    """
    passes: dict[str, Callable[[], Frozen]] = {
        "phases": lambda: worker.phases(observing.phase_pairs),
        "memory": worker.memory,
        "denormals": worker.denormals,
        "flops": worker.flops,
    }
    if observing.operator_steps:
        # The last: its events leave holes in the heap.
        passes["operators"] = lambda: worker.operators(observing.operator_steps, trace)
    started_s = time.perf_counter()
    seen: dict[str, Frozen] = {}
    failures = []
    for name, look in passes.items():
        try:
            seen[name] = look()
        except WorkerFailed as error:
            failures.append(f"{name}: {error}")
            if not isinstance(error, Refused):
                break
    wall_time_s = time.perf_counter() - started_s
    return Observations.model_validate({**seen, "failures": tuple(failures), "wall_time_s": wall_time_s})
