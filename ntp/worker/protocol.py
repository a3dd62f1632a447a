"""What a worker and its parent say to each other: one JSON object a line, each request answered before the next.

Requests are ``{"do": NAME, ...}``; answers are ``{"ok": {...}}`` or ``{"error": "one line", "kind":
"ModelError"}``, where the kind is empty for an error that is not one of ntp's own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from pydantic import Field

from ntp.case import Amount, Count, Frozen
from ntp.records.endings import Ending
from ntp.records.environment import Process, Software
from ntp.records.run import KernelBurst, Usage, WarmUp

PROTOCOL = 1
"""The version of the requests below. The two sides of a guard may bring each an ntp of its own."""

STEP_BEGINS, STEP_ENDS = "sched_get_priority_max", "sched_get_priority_min"
"""Functions of ``os``, and of the C library, that a worker calls before and after a marked step and nothing else ever
calls: a tool that watches its machine code knows by them where the step is."""


class Loaded(Frozen):
    """Answer to ``load``: the model is built."""

    parameters: Count
    parameter_dtypes: tuple[str, ...] = ()
    software: Software
    process: Process
    protocol: Count = 0
    """:data:`PROTOCOL` of the worker's ntp. Those of the first ones said nothing."""


class Ran(Usage):
    """Answer to ``run``: the samples, what the process used while they were taken, and how they left it."""

    step_time_ns: tuple[Count, ...] = Field(min_length=1)
    step_cpu_ns: tuple[Count, ...] = ()
    """The CPU time of the thread that ran each step. Empty where a part of the step is timed."""
    cpu_time_s: Amount
    ending: Ending = Ending()


class Imported(Frozen):
    """Answer to ``imported``: the modules of the user's repository that the process has loaded."""

    files: tuple[tuple[str, str], ...]
    """Names and files."""


class Worker(Protocol):
    """A case that can be run: a process behind a pipe, or a script of times in tests."""

    def load(self) -> Loaded:
        """Build the model and the data. This is the first request."""

    def warm_up(self, steps: int | None = None, cpu: int | None = None) -> WarmUp:
        """Run this many steps, or by default until their time is steady, with the main thread on a CPU, if one is
        given.
        """

    def run(self, steps: int, expected_s: float = 0.0) -> Ran:
        """Run and time exactly ``steps`` steps, which should take about ``expected_s`` seconds."""

    def begin_step(self, cpu: int | None = None) -> None:
        """Begin a step, with the main thread on a CPU, if one is given. It has ended when :meth:`end_step` returns."""

    def move(self, cpu: int) -> None:
        """Move the main thread to another CPU, in the middle of a step that began on one."""

    def answers_within(self, seconds: float) -> bool:
        """Wait for so long, and say whether the step that was begun has ended by then."""

    def end_step(self) -> Ran:
        """Wait for the step that was begun, and return it."""

    def run_marked_step(self) -> Ran:
        """Run one step between calls of :data:`STEP_BEGINS` and :data:`STEP_ENDS`."""

    def calibration_kernel(self) -> KernelBurst:
        """Time the calibration kernel, for some ten milliseconds. No step runs."""

    def imported(self, folders: Sequence[str], packages: Sequence[str]) -> Imported:
        """List the modules whose files lie in one of the folders, and those of the packages, wherever they lie."""

    def ask(self, name: str, **arguments: Any) -> Any:
        """Run one of :data:`ntp.observe.passes.PASSES`, and return its record."""

    def pause(self) -> None:
        """Use no CPU until the next request."""

    def stop(self) -> None:
        """End the process, whatever it does. May be called at any time, also twice."""


@contextmanager
def stopped_on_error(*workers: Worker) -> Iterator[None]:
    """End the workers at once if the block is left by an exception, above all by Ctrl-C.

    Put it around code that waits for threads that wait for answers: these return when the worker has ended.
    """
    try:
        yield
    except BaseException:
        for worker in workers:
            worker.stop()
        raise
