"""Shut down cleanly on Ctrl-C, ``kill`` and a closed terminal: SIGINT, SIGTERM and SIGHUP.

The first signal unwinds the stack: temporary files are removed, measurements are kept. Signals that follow at once, as
when Ctrl-C is pressed repeatedly, would only break that, and are ignored. A signal that is ignored when the process
starts (by nohup, or in the background of a shell) stays ignored; one that has another handler keeps it.
"""

import errno
import os
import signal
import termios
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Self

PATIENCE_S = 3.0
"""How long further signals are ignored after the first. A later one no longer waits for a long operation."""

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """Like Ctrl-C, but caused by SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_status = 128 + number


def in_words(stop: KeyboardInterrupt) -> str:
    """Say what happened, and how far the work had come, from the notes on the exception."""
    return "".join([str(stop) or "interrupted", *getattr(stop, "__notes__", ())])


def status_of(stop: KeyboardInterrupt) -> int:
    """Return the exit status by the convention of shells."""
    return stop.exit_status if isinstance(stop, Terminated) else 128 + signal.SIGINT


class Interrupts:
    """Context manager in which the first signal raises KeyboardInterrupt or :class:`Terminated`.

    After that the process is about to end, and its last moments must not be disturbed either, so the signals stay
    ignored on exit. Outside the main thread, which alone receives signals, this does nothing.

    Attributes:
        terminated: the exception that SIGTERM or SIGHUP raised; ``None`` if neither came.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._heard_s: float | None = None
        self.terminated: Terminated | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before if self._heard_s is None else signal.SIG_IGN)  # type: ignore[arg-type]

    def forget(self) -> None:
        """Treat the next signal as the first, because the interrupted work continued."""
        self._heard_s = self.terminated = None

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        now_s = self._clock_s()
        if self._heard_s is not None and now_s < self._heard_s + PATIENCE_S:
            return
        self._heard_s = now_s
        if number == signal.SIGHUP:
            _let_go_of_terminal()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        self.terminated = Terminated(number)
        raise self.terminated


class HeldBack:
    """Context manager that delays a signal until the block ends, so that the work in it is finished.

    A second signal, more than :data:`PATIENCE_S` later, is not delayed, so that nobody has to wait for a long step.
    Outside the main thread this does nothing.

    Attributes:
        unbreakable: while this is set, later signals are delayed, too.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.unbreakable = False
        self._clock_s = clock_s
        self._first: tuple[int, float] | None = None
        self._before: dict[int, object] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._first is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hold)
        return self

    def __exit__(self, exc_type: object, *_exc: object) -> None:
        self._restore()
        if self._first is not None and exc_type is None:
            signal.raise_signal(self._first[0])

    def _hold(self, number: int, _frame: FrameType | None) -> None:
        now_s = self._clock_s()
        if number == signal.SIGHUP:
            _let_go_of_terminal()
        if self._first is None:
            self._first = number, now_s
        elif now_s >= self._first[1] + PATIENCE_S and not self.unbreakable:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _let_go_of_terminal() -> None:
    """Redirect descriptors of a terminal that is gone to /dev/null, because writing to it is an error."""
    for descriptor in range(256):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, descriptor, inheritable=descriptor < 3)
                os.close(null)
