"""The user's own command that prepares a side's folder: it builds an extension, or generates a file."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ntp.errors import WorkerFailed
from ntp.lines import last_lines
from ntp.records.pairs import Preparation
from ntp.worker.fork_server import MARK
from ntp.worker.offspring import kill_marked, new_mark

_KEPT_CHARACTERS = 20_000


def prepare(folder: Path, command: str, clock_s: Callable[[], float] = time.perf_counter) -> Preparation:
    """Run a shell command in a folder until it ends, without input."""
    started_s = clock_s()
    mark = new_mark()
    # A file, not a pipe, whose end would be that of whatever the command leaves running.
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(  # noqa: S602  (it is the user's own command)
            command,
            shell=True,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, MARK: mark},
            start_new_session=True,
        )
        try:
            status = process.wait()
        except BaseException:
            kill_marked(mark)
            process.wait()
            raise
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - _KEPT_CHARACTERS))
        output = printed.read().decode(errors="backslashreplace")
    wall_time_s = round(clock_s() - started_s, 3)
    return Preparation(command=command, status=status, output=output, wall_time_s=wall_time_s)


def failure_of(preparation: Preparation) -> WorkerFailed:
    """The error of a command that failed, with the last lines that it printed."""
    message = f"--setup ended with exit status {preparation.status}: {preparation.command}"
    return WorkerFailed(message, last_lines(preparation.output))
