"""The child process: holds one case, warms it up, runs steps on request and times each of them itself.

Started with ``PARENT_PID`` by :class:`ntp.worker.driver.PipeWorker`, through :mod:`ntp.worker.bootstrap`, with the
environment variables of the case's runtime already set. Requests come on standard input, answers leave on what was
standard output; whatever a model prints goes to standard error, where it disturbs nothing.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import perf_counter_ns, process_time, thread_time_ns  # themselves: a model may put others in their places
from typing import TYPE_CHECKING, Any, TextIO

from ntp.case import Case, Frozen
from ntp.errors import ModelError, NtpError, OptionError
from ntp.lines import MESSAGE_CHARACTERS, first_line, shorten
from ntp.machine.memory import anonymous_bytes, reset_peak_rss, usage_so_far
from ntp.machine.procfs import thread_cpu_ns
from ntp.observe.passes import PASSES
from ntp.observe.phases import PhaseClock
from ntp.observe.py_spy import allow_tracing
from ntp.records.endings import Ending, SettingChange
from ntp.records.run import KernelBurst, WarmUp
from ntp.worker import bootstrap
from ntp.worker.protocol import PROTOCOL, STEP_BEGINS, STEP_ENDS, Imported, Loaded, Ran
from ntp.worker.warmup import warm_up

if TYPE_CHECKING:
    from torch import Tensor

    from ntp.core.step import Training
    from ntp.observe.probe import Answer

PART_PHASES = {"forward": ("forward",), "backward": ("loss", "backward"), "optimizer": ("optimizer",)}
"""The phases of :func:`ntp.core.step.train_step` that make up each part that a case can name."""

COMPILING_STEPS = 3
"""torch.compile works in the first step, and again in the second for sizes that have changed."""


class Stepper:
    """Runs steps, and times the part of each that the case names.

    Attributes:
        run_step: runs one step and returns the time of that part, in nanoseconds.
        times_whole_steps: whether the case names no part.
        loss: the last step's loss, of shape ``()``; None where no step has had one.
    """

    def __init__(self, training: "Training", part: str, clock_ns: Callable[[], int] = perf_counter_ns) -> None:
        self.loss: Tensor | None = None
        self._training = training
        self._clock_ns = clock_ns
        self._clock = PhaseClock(clock_ns)
        self._phases = PART_PHASES.get(part, ())
        self.times_whole_steps = part == "step"
        self.run_step: Callable[[], int] = {"step": self._whole, "data": self._data}.get(part, self._part)

    def _whole(self) -> int:
        start_ns = self._clock_ns()
        self.loss = self._training.step()
        return self._clock_ns() - start_ns

    def _data(self) -> int:
        start_ns = self._clock_ns()
        next(self._training.batches)
        return self._clock_ns() - start_ns

    def _part(self) -> int:
        self._clock.reset()
        self.loss = self._training.step(self._clock)
        return sum(self._clock.time_ns[name] for name in self._phases)


def load_modules() -> None:
    """Import all that is needed from the load on, torch among it: before a model's code, which may put other modules,
    or another clock, in their places.
    """
    import threadpoolctl  # type: ignore[import-untyped]  # noqa: F401  (what reads the software imports it late)
    import torch  # noqa: F401

    from ntp.core import model, settings, step  # noqa: F401
    from ntp.machine import software  # noqa: F401
    from ntp.observe import calibration_kernel  # noqa: F401

    for observer in PASSES.values():
        observer.load()


def take_cpus(cpus: list[int] | None) -> None:
    """Pin every thread of this process to the CPUs, if any are given."""
    if cpus is not None and hasattr(os, "sched_setaffinity"):
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), cpus)


def spread_threads(cpus: list[int], cpu_ns: dict[int, int]) -> None:
    """Give each busy thread of this process a CPU of its own: the main thread the first, the others in order.

    Left to the kernel, two threads of one process sometimes share a CPU for seconds, and the step takes twice as long.

    Args:
        cpus: one for each busy thread.
        cpu_ns: what each thread has run lately, by its id. The busiest are those that compute.
    """
    main = os.getpid()
    others = sorted((thread for thread in cpu_ns if thread != main), key=lambda thread: (-cpu_ns[thread], thread))
    busy = [main, *sorted(others[: len(cpus) - 1])]
    for thread, cpu in zip(busy, cpus, strict=False):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(thread, [cpu])


class CaseHolder:
    """The case of this process, and the answers to the requests about it."""

    def __init__(self) -> None:
        self._training: Training
        self._threads: int
        self._compiles = False
        self._stepper: Stepper
        self._cpus: list[int] = []
        """One for each thread; empty where the case leaves them to the kernel."""
        self._settings: dict[str, str]
        """As they were before the model was loaded."""

    def load(self, case: dict[str, Any], cpus: list[int] | None) -> Loaded:
        """Import torch, take the CPUs, build model, optimizer and data."""
        wanted = Case.model_validate(case)
        load_modules()

        import torch

        from ntp.core.model import parameter_count, see_folder
        from ntp.core.settings import read_settings
        from ntp.core.step import Training
        from ntp.machine.software import read_process, read_software

        # After the import, which two workers that share a CPU would otherwise share it for, too.
        take_cpus(cpus)
        self._cpus = list(cpus or ())
        self._threads, self._compiles = wanted.runtime.threads, wanted.step.compile != "off"
        torch.set_num_threads(self._threads)
        torch.set_num_interop_threads(wanted.runtime.interop_threads)
        if wanted.runtime.denormals == "flushed" and not torch.set_flush_denormal(True):
            raise OptionError("denormals flushed: this CPU cannot flush them; choose kept")
        self._settings = read_settings()
        # Not before: what lies there must not stand in the way of what is imported above.
        see_folder(os.getcwd())
        self._training = Training.start(wanted.workload, wanted.step)
        self._changed_settings()
        self._stepper = Stepper(self._training, wanted.workload.part)
        # What was built so far lives as long as the process: the collector need not look at it during a step.
        gc.collect()
        gc.freeze()
        return Loaded(
            parameters=parameter_count(self._training.model),
            parameter_dtypes=tuple(sorted({str(parameter.dtype) for parameter in self._training.model.parameters()})),
            software=read_software(),
            process=read_process(),
            protocol=PROTOCOL,
        )

    def warm_up(self, steps: int | None = None, cpu: int | None = None) -> WarmUp:
        """Run this many steps, or until their time is steady, after those that compile. The main thread runs on a CPU,
        if one is given.
        """
        if cpu is not None:
            self._move_to(cpu)
        run_step = self._stepper.run_step
        compiling = tuple(run_step() for _ in range(COMPILING_STEPS if self._compiles else 0))
        warm = warm_up(self._steps_with_threads_spread().__next__, perf_counter_ns, steps)
        return warm.model_copy(update={"compiling_step_ns": compiling})

    def _steps_with_threads_spread(self) -> Iterator[int]:
        """Run a step for each time that is asked for. The first shows which threads compute: they get their CPUs."""
        from ntp.core.settings import read_settings

        before = thread_cpu_ns()
        yield self._stepper.run_step()
        if len(self._cpus) > 1:
            ran = {thread: cpu_ns - before.get(thread, 0) for thread, cpu_ns in thread_cpu_ns().items()}
            spread_threads(self._cpus, ran)
            self._settings = read_settings()
        while True:
            yield self._stepper.run_step()

    def run(self, steps: int, cpu: int | None = None) -> Ran:
        """Run and time exactly ``steps`` steps, with the main thread on a CPU, if one is given."""
        run_step = self._stepper.run_step
        if cpu is not None:
            self._move_to(cpu)
        reset_peak_rss()  # import and warm-up are not the step's; where the kernel refuses, they count
        used, cpu_time_s = usage_so_far(), process_time()
        times_ns = []
        for _ in range(steps):
            before_ns = thread_time_ns()
            times_ns.append((run_step(), thread_time_ns() - before_ns))
        cpu_time_s = process_time() - cpu_time_s
        usage = usage_so_far().since(used)
        step_time_ns, step_cpu_ns = zip(*times_ns, strict=True)
        return Ran(
            **dict(usage),
            step_time_ns=step_time_ns,
            step_cpu_ns=step_cpu_ns if self._stepper.times_whole_steps else (),
            cpu_time_s=cpu_time_s,
            ending=self._ending(),
        )

    def run_marked_step(self) -> Ran:
        """Run one step between two calls by which whatever watches this process knows where it begins and ends."""
        getattr(os, STEP_BEGINS)(os.SCHED_OTHER)
        ran = self.run(1)
        getattr(os, STEP_ENDS)(os.SCHED_OTHER)
        return ran

    def _move_to(self, cpu: int) -> None:
        """Move the main thread. Where it is from now on is the parent's matter, and no change of the model's."""
        from ntp.core.settings import CPUS

        os.sched_setaffinity(0, [cpu])
        self._settings = {name: value for name, value in self._settings.items() if name != CPUS}

    def _ending(self) -> Ending:
        loss = self._stepper.loss
        return Ending(
            loss=None if loss is None else loss.item(),
            anonymous_bytes=anonymous_bytes(),
            settings=self._changed_settings(),
        )

    def _changed_settings(self) -> tuple[SettingChange, ...]:
        """The settings that the model's code has changed since before it was loaded.

        Raises:
            ModelError: it has changed the number of threads, so that what runs is not what the case says.
        """
        from ntp.core.settings import THREADS, changed_settings, read_settings

        changed = changed_settings(self._settings, read_settings())
        if THREADS in changed:
            before, after = changed[THREADS]
            raise ModelError(
                f"the model's code has set torch's threads to {after}, and the case says {before}: remove "
                f"torch.set_num_threads from it, or measure it with {after}"
            )
        return tuple(SettingChange(name=name, before=before, after=after) for name, (before, after) in changed.items())

    def calibration_kernel(self) -> KernelBurst:
        """Time the calibration kernel, for some ten milliseconds. No step runs."""
        from ntp.observe.calibration_kernel import kernel_burst

        return kernel_burst(self._threads)

    def imported(self, folders: list[str], packages: list[str]) -> Imported:
        """List the modules whose files lie in one of the folders, and those of the packages, wherever they lie."""
        files = ((name, getattr(module, "__file__", None)) for name, module in sorted(sys.modules.items()))

        def wanted(name: str, file: str) -> bool:
            of_package = any(f"{name}.".startswith(f"{package}.") for package in packages)
            return of_package or any(bootstrap.is_users(file, folder) for folder in folders)

        # Some modules that have no file, torch.classes among them, have a relative name in its place.
        real = [(name, file) for name, file in files if isinstance(file, str) and os.path.isabs(file)]
        return Imported(files=tuple((name, file) for name, file in real if wanted(name, file)))

    def peaks(self, **request: Any) -> "Answer":
        """Measure the peaks of this process. It need not hold a case."""
        from ntp.observe import probe

        return probe.answer(probe.Request(**request))

    def observe(self, name: str, **arguments: Any) -> Frozen:
        """Run one of :data:`ntp.observe.passes.PASSES` over steps of this training."""
        return PASSES[name].load()(self._training, **arguments)


def serve(holder: CaseHolder, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more. An error is an answer too: the parent decides whether to go on."""
    for line in requests:
        request = json.loads(line)
        try:
            answer: Frozen = getattr(holder, request.pop("do"))(**request)
        except BaseException as error:  # noqa: BLE001  (whatever a model raises must reach the parent; nobody else does)
            is_ours = isinstance(error, NtpError)
            # A refusal of ntp's explains itself; whoever wrote the model wants to see where the model failed.
            if not is_ours:
                traceback.print_exc()
            elif error.__cause__:
                traceback.print_exception(error.__cause__)
            said = first_line(error)
            message = shorten(said if is_ours else f"{type(error).__name__}: {said}", MESSAGE_CHARACTERS)
            kind = type(error).__name__ if is_ours else ""
            answers.write(json.dumps({"error": message, "kind": kind}) + "\n")
        else:
            answers.write(f'{{"ok": {answer.model_dump_json()}}}\n')
        answers.flush()


def die_with(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent dies, however it dies. Elsewhere than on Linux the end of
    standard input does it, once the request at hand is answered.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before we asked
            os._exit(1)


def main() -> None:
    """Serve the parent whose process id is the only argument."""
    die_with(int(sys.argv[1]))
    allow_tracing()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(CaseHolder(), sys.stdin, answers)


if __name__ == "__main__":
    main()
