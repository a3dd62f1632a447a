"""The parent's side of a worker's process: starts it, asks it, waits for it, says how it died, ends it."""

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import IO, ClassVar, Self, TypeVar

import psutil
from pydantic import ValidationError

from ntp.case import Frozen, Runtime
from ntp.errors import MachineError, WorkerFailed
from ntp.lines import last_lines
from ntp.worker.launch import Launch, new_process
from ntp.worker.offspring import descendants, end_of, kill_all, kill_marked
from ntp.worker.sources import Source

_STDERR_BYTES = 1 << 16
"""Only the end of what a worker wrote is read: a model may print for hours."""

_LONGEST_ANSWER_BYTES = 64 << 20
"""Some hundred of the longest operator profiles would fit in."""

Answer = TypeVar("Answer", bound=Frozen)


class Refused(WorkerFailed):
    """A worker answered a request with an error. It is still there, and may be asked something else."""


class Channel:
    """A process behind a pair of pipes that answers one request at a time.

    Reading blocks in the kernel until there is an answer or the time is up: while steps are timed, this process sleeps.

    Args:
        name: what the process is for. Every message begins with it.
        runtime: the environment variables are set as it says.
        timeout_s: how long one request may take before the worker counts as hung.
        source: where it runs, and where its modules come from; None: in the current folder, the ntp that runs this.
        launch: starts the process.
    """

    if_killed: ClassVar[str]
    """What to do when the kernel has killed the worker because memory ran out."""
    if_silent: ClassVar[str]
    """What to do when the worker gives no answer in time."""

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        *,
        timeout_s: float,
        source: Source | None = None,
        launch: Launch = new_process,
    ) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._unread = bytearray()
        self._asking = threading.Lock()
        self._paused = False
        self._sent_s = 0.0
        """When the last request was sent, on the monotonic clock."""
        # A file, not a pipe: nobody has to read it while the worker runs, and a talkative model can't fill it up.
        try:
            self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed in stop)
            try:
                self._process = launch(runtime, source or Source.here(), self._stderr)
            except BaseException:
                self._stderr.close()
                raise
        except OSError as error:
            raise WorkerFailed(str(MachineError.of(error, f"{name}: no worker can be started"))) from error
        self._end = end_of(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def request(
        self, do: str, answer: type[Answer], activity: str, *, expected_s: float = 0.0, **arguments: object
    ) -> Answer:
        """Ask for something, and wait for the answer.

        Args:
            do: the request.
            answer: the record that answers it.
            activity: what the worker does meanwhile, as in "died while running steps".
            expected_s: how many seconds it should take. Three times as many are added to the time-out.
            arguments: of the request.

        Raises:
            Refused: the worker answered with an error.
            WorkerFailed: the worker died, hung or gave a malformed answer.
        """
        with self._asking:
            self._send(do, activity, arguments)
            return self._receive(answer, activity, expected_s)

    def send(self, do: str, activity: str, **arguments: object) -> None:
        """Ask for something, and do not wait: :meth:`receive` does. Arguments and errors as in :meth:`request`."""
        with self._asking:
            self._send(do, activity, arguments)

    def receive(self, answer: type[Answer], activity: str) -> Answer:
        """Wait for the answer to what was sent. Arguments and errors as in :meth:`request`."""
        with self._asking:
            return self._receive(answer, activity, 0.0)

    def answers_within(self, seconds: float) -> bool:
        """Wait for so long, and say whether :meth:`receive` has nothing to wait for by then.

        There is an answer, or there will be none, because the worker has died or its time is up.
        """
        deadline = self._sent_s + self._timeout_s
        patience_s = max(0.0, min(seconds, deadline - time.monotonic()))
        is_there = b"\n" in self._unread or bool(select.select(self._watched, [], [], patience_s)[0])
        return is_there or time.monotonic() >= deadline

    def _send(self, do: str, activity: str, arguments: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        if self._paused:
            self._signal(signal.SIGCONT)
            self._paused = False
        self._sent_s = time.monotonic()
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        except BrokenPipeError:
            raise self._died(activity) from None

    def _receive(self, answer: type[Answer], activity: str, expected_s: float) -> Answer:
        line = self._read_line(activity, self._timeout_s + 3 * expected_s)
        try:
            message = json.loads(line)
            if "error" in message:
                # The ntp of a guard's base may be older, and name no kind.
                raise Refused(*self._told(str(message["error"])), kind=str(message.get("kind", "")))
            return answer.model_validate(message["ok"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(line[:80])
            raise self.malformed(activity, reason) from error

    def pause(self) -> None:
        """Take the worker off the CPUs, with whatever else is in its process group, until the next request.

        Threads that spin while they wait would otherwise go on spinning between requests.
        """
        with self._asking:
            self._paused = True
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """End the worker and all that it started, at once. It holds nothing that is worth a farewell."""
        below = descendants(self._process.pid)
        self._signal(signal.SIGKILL)  # which a paused process does not wait with
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

    def malformed(self, activity: str, reason: str) -> WorkerFailed:
        """The error of an answer that is not what was asked for."""
        return self._failed(f"gave a malformed answer while {activity}: {reason}")

    @property
    def _watched(self) -> list[int]:
        """What can be read once there is an answer, or the process has ended."""
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        return [stdout] if self._end is None else [stdout, self._end]

    def _read_line(self, activity: str, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        deadline = self._sent_s + timeout_s
        chunk = bytes(self._unread)
        while b"\n" not in chunk:
            ready, _, _ = select.select(self._watched, [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._silent(activity, timeout_s)
            # Its last words are read first. That the pipe ends is not waited for: what it left behind may hold it.
            if stdout not in ready and not select.select([stdout], [], [], 0)[0]:
                raise self._died(activity)
            chunk = os.read(stdout, 1 << 16)
            if not chunk:
                raise self._died(activity)
            self._unread += chunk
            if len(self._unread) > _LONGEST_ANSWER_BYTES:
                raise self.malformed(activity, f"{len(self._unread) >> 20} MiB in one line")
        line, _, self._unread = self._unread.partition(b"\n")
        return bytes(line)

    def _silent(self, activity: str, timeout_s: float) -> WorkerFailed:
        with contextlib.suppress(psutil.Error):
            if psutil.Process(self.pid).status() == psutil.STATUS_STOPPED:
                return self._failed(f"was stopped (SIGSTOP) while {activity}, and was ended after {timeout_s:g} s")
        return self._failed(f"gave no answer for {timeout_s:g} s while {activity}, and was ended: {self.if_silent}")

    def _died(self, activity: str) -> WorkerFailed:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return self._failed(f"closed its pipe while {activity}")
        if status == -signal.SIGKILL:
            return self._failed(
                f"was killed (SIGKILL) while {activity}: by hand, or by the kernel because memory ran out "
                f"(then {self.if_killed})"
            )
        how = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        return self._failed(f"{how} while {activity}")

    def _failed(self, how: str) -> WorkerFailed:
        return WorkerFailed(*self._told(f"the worker {how}"))

    def _told(self, what: str) -> tuple[str, str]:
        """A message, and the last lines that the worker wrote."""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _STDERR_BYTES))
        return f"{self._name}: {what}", last_lines(self._stderr.read().decode(errors="backslashreplace"))
