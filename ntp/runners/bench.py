"""What every runner measures with."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ntp.case import Case
from ntp.machine.system import read_machine
from ntp.worker.driver import PipeWorker
from ntp.worker.pairs import StartWorker, WorkerStarter
from ntp.worker.sources import Source

Progress = Callable[[str], None]


def _new_process(case: Case, source: Source) -> PipeWorker:
    return PipeWorker(case, source=source)


def _silent(_message: str) -> None:
    pass


class Bench(NamedTuple):
    """The workers, the clock, who is told what comes next, and the command that all of it is for."""

    start: StartWorker = _new_process
    clock_s: Callable[[], float] = time.perf_counter
    progress: Progress = _silent
    command: tuple[str, ...] = ()

    def provenance(self) -> dict[str, Any]:
        """When, by what and where a record is made: the fields that records of a guard and of a search share."""
        return {"started": now(), "command": self.command, "machine": read_machine()}


@contextmanager
def forking(progress: Progress = _silent, command: tuple[str, ...] = ()) -> Iterator[Bench]:
    """A bench whose workers are forks, for pairs (:class:`ntp.worker.pairs.WorkerStarter`)."""
    with WorkerStarter() as start:
        yield Bench(start, progress=progress, command=command)


def now() -> str:
    """The time as records have it: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
