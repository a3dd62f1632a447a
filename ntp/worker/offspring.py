"""How a worker's end is noticed, and how the processes that it leaves behind are found, however they hide.

A daemon has left its worker's group, session and parent, and does not notice its end. But each worker has a mark in its
environment, which whatever it starts inherits, and which Linux shows for every process. A process that has neither the
mark nor an ancestor in the worker any more is not found.
"""

import os
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from ntp.worker.fork_server import MARK

_ROUNDS = 100
"""How often to look again. A killed process may take a moment to go, and may have started another before."""

_ROUND_S = 0.01


def end_of(pid: int) -> int | None:
    """A file descriptor that becomes readable once the process has ended, where the kernel has such: on Linux."""
    if sys.platform == "linux":
        with suppress(OSError):
            return os.pidfd_open(pid)
    return None


def descendants(pid: int) -> list[int]:
    """The processes below one that still runs, in whatever sessions."""
    with suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def kill_all(pids: Iterable[int]) -> None:
    """End processes, some of which may be gone."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def new_mark() -> str:
    """A new value for :data:`~ntp.worker.fork_server.MARK`."""
    return uuid.uuid4().hex  # of constant length: where the stack lies depends on the size of the environment


def kill_marked(mark: str) -> None:
    """End every process that has the mark in the environment that it was started in."""
    for _ in range(_ROUNDS):
        marked = list(_marked(f"{MARK}={mark}".encode()))
        if not marked:
            return
        kill_all(marked)
        time.sleep(_ROUND_S)


def _marked(entry: bytes) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or somebody else's
            if entry in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
