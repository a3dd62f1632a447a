"""What runners measure with: workers, a clock, and somebody to tell."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ntp.case import Case
from ntp.machine.system import read_machine
from ntp.worker.driver import PipeWorker
from ntp.worker.pairs import FORKS, StartWorker, WorkerStarter
from ntp.worker.sources import Source

Progress = Callable[[str], None]


def _new_process(case: Case, source: Source) -> PipeWorker:
    return PipeWorker(case, source=source)


def silent(_message: str) -> None:
    pass


class Bench(NamedTuple):
    """How workers are started, the clock, who is told what comes next, and the command that was typed."""

    start: StartWorker = _new_process
    clock_s: Callable[[], float] = time.perf_counter
    progress: Progress = silent
    command: tuple[str, ...] = ()

    def provenance(self) -> dict[str, Any]:
        """Return the fields that say when, by which command and on which machine a record was made."""
        return {"started": now(), "command": self.command, "machine": read_machine()}


@contextmanager
def forking(progress: Progress = silent, command: tuple[str, ...] = (), forks: int | None = FORKS) -> Iterator[Bench]:
    """Provide a bench whose workers are forks, as pairs need them (:class:`ntp.worker.pairs.WorkerStarter`)."""
    with WorkerStarter(forks=forks) as start:
        yield Bench(start, progress=progress, command=command)


def now() -> str:
    """Return the time as records have it: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
