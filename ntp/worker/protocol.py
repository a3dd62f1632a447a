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
from ntp.worker.warmup import MIN_WINDOW


class Loaded(Frozen):
    """Answer to ``load``: the model is built."""

    parameters: Count
    parameter_dtypes: tuple[str, ...] = ()
    software: Software
    process: Process


class Ran(Usage):
    """Answer to ``run``: the samples, what the process used while they were taken, and how they left it."""

    step_time_ns: tuple[Count, ...] = Field(min_length=1)
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

    def warm_up(self, min_window: int = MIN_WINDOW) -> WarmUp:
        """Run steps until their time is steady: the median of at least ``min_window``, and of as many before them."""

    def run(self, steps: int, expected_s: float = 0.0) -> Ran:
        """Run and time exactly ``steps`` steps, which should take about ``expected_s`` seconds."""

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
