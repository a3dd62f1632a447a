"""A busy process beside a measurement, as a neighbour on a shared machine is one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_BUSY = """
import os
parent = os.getppid()
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""


@contextmanager
def neighbour(wanted: bool) -> Iterator[None]:
    """Keep the last CPU busy with another process, if one is wanted."""
    with ExitStack() as stack:
        if wanted:
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", _BUSY]))
            stack.callback(busy.kill)
        yield
