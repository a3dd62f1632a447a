"""How a worker's process is started: as a new interpreter, or as a fork of one that has torch loaded."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, Self

from ntp.case import Runtime
from ntp.errors import WorkerFailed
from ntp.machine.runtime import CONTROLLED, environment_variables
from ntp.worker import bootstrap, fork_server
from ntp.worker.offspring import new_mark
from ntp.worker.sources import Source

PRELOADED = ("torch", "numpy", "pydantic")
"""The packages that every worker imports and neither side of a comparison brings with it."""

_FORK_TIMEOUT_S = 120.0
_POLL_S = 0.01


class WorkerProcess(Protocol):
    """What the parent needs of a worker's process, which is a group of its own: Ctrl-C is for the parent alone."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    mark: str
    """A value in its environment, by which every process that it starts can be recognized."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, or minus the number of the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """


Launch = Callable[[Runtime, Source, IO[bytes]], WorkerProcess]
"""Takes a runtime, where the modules come from and a file for standard error, and starts a process."""


def _environment(runtime: Runtime, mark: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in CONTROLLED}
    return inherited | environment_variables(runtime) | {fork_server.MARK: mark}


class NewProcess(subprocess.Popen[bytes]):
    """A new interpreter, with its mark."""

    mark: str


def new_process(
    runtime: Runtime,
    source: Source,
    stderr: IO[bytes],
    command: Sequence[str] | None = None,
    *,
    under: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> WorkerProcess:
    """Start a new interpreter.

    Args:
        runtime: the environment that it runs in.
        source: where it runs, and where its modules come from.
        stderr: takes its standard error.
        command: what it runs. None: ntp's own worker.
        under: the beginning of a command that runs the rest of it, as a tool for debugging does.
        variables: environment variables beside those of the runtime.
    """
    if command is None:
        where = json.dumps(source.model_dump(mode="json"))  # pydantic's own refuses what is not UTF-8
        command = (str(source.python or sys.executable), "-P", bootstrap.__file__, where, "ntp.worker.worker")
    mark = new_mark()
    process = NewProcess(
        [*under, *command, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,
        cwd=source.folder,
        env=_environment(runtime, mark) | dict(variables or {}),
        # In this session: only then does the kernel continue what is stopped in its group, and hang up on it, when the
        # worker dies. In a session of its own, the processes of a paused worker would stay stopped for ever.
        process_group=0,
    )
    process.mark = mark
    return process


class ForkedProcess:
    """A fork of a :class:`ForkServer`, which is its parent in the kernel's eyes."""

    def __init__(
        self, pid: int, stdin: IO[bytes], stdout: IO[bytes], poll: Callable[[int], int | None], mark: str = ""
    ) -> None:
        self.pid = pid
        self.mark = mark
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._poll = poll
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (_FORK_TIMEOUT_S if timeout is None else timeout)
        while self._status is None:
            self._status = self._poll(self.pid)
            if self._status is None:
                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired("a forked worker", timeout or _FORK_TIMEOUT_S)
                time.sleep(_POLL_S)
        return self._status


class ForkServer:
    """A process with torch loaded, in the environment of one runtime, that forks itself into workers. Linux only.

    Args:
        runtime: that of all workers.
        source: where the modules of all workers come from, if they have that in common. Then ntp is imported before the
            forks.
        python: their interpreter, if that is another one.
    """

    def __init__(self, runtime: Runtime, source: Source | None = None, python: Path | None = None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_FORK_TIMEOUT_S)
        self._requests = ours
        self._source = source
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(
                        str(python or sys.executable),
                        "-P",
                        fork_server.__file__,
                        str(os.getpid()),
                        str(theirs.fileno()),
                    ),
                    json.dumps(source and source.model_dump(mode="json")),
                    *PRELOADED,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(runtime, new_mark()),  # room for those of its forks
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def launch(self, _runtime: Runtime, source: Source, stderr: IO[bytes]) -> WorkerProcess:
        """Fork a worker. The runtime is the server's.

        Raises:
            WorkerFailed: the server is gone.
        """
        assert self._source in (None, source), "what was imported before the fork comes from another source"
        their_stdin, our_stdin = os.pipe()
        our_stdout, their_stdout = os.pipe()
        stdin, stdout = os.fdopen(our_stdin, "wb", buffering=0), os.fdopen(our_stdout, "rb", buffering=0)
        try:
            mark = new_mark()
            request = {"fork": source.model_dump(mode="json"), "mark": mark}
            answer = self._ask(request, [their_stdin, their_stdout, stderr.fileno()])
        except BaseException:
            stdin.close()
            stdout.close()
            raise
        finally:
            os.close(their_stdin)
            os.close(their_stdout)
        return ForkedProcess(answer["pid"], stdin, stdout, self._poll, mark)

    def wait_until_ready(self) -> None:
        """Wait until torch is imported, which would disturb whatever is timed meanwhile.

        Raises:
            WorkerFailed: the server is gone.
        """
        self._ask({"ready": True})

    def _poll(self, pid: int) -> int | None:
        try:
            status: int | None = self._ask({"poll": pid})["status"]
        except WorkerFailed:  # what a server forked is killed with it
            return -signal.SIGKILL
        return status

    def _ask(self, request: Mapping[str, object], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        answer = b""
        with self._lock:
            try:
                socket.send_fds(self._requests, [json.dumps(request).encode()], list(descriptors))
                answer = self._requests.recv(fork_server.MESSAGE_BYTES)
            except TimeoutError:
                raise WorkerFailed(f"the process that forks workers gave no answer for {_FORK_TIMEOUT_S:g} s") from None
            except OSError:
                pass  # it is gone, and its end of the socket with it
            finally:
                if not answer:
                    self.stop()  # interrupted or too late: the next request would read this one's answer
        if not answer:
            status = self._process.returncode
            raise WorkerFailed(f"the process that forks workers is gone (exit status {status}): is torch installed?")
        message: dict[str, Any] = json.loads(answer)
        return message

    def stop(self) -> None:
        """End the server and all that it forked. May be called at any time, also twice."""
        self._requests.close()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
