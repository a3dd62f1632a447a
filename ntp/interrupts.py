"""Ctrl-C, ``kill`` and a terminal that closes: SIGINT, SIGTERM and SIGHUP all ask for an end, and get an orderly one.

The first of them unwinds the stack: what was made for the time being is removed, what was measured is kept. Those that
follow at once, as Ctrl-C often comes, would only break that, and are not heard. A signal that is ignored when the
process starts (by nohup, or in the background of a shell) stays ignored; one that somebody else handles is theirs.
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
"""How long after a signal others are not heard. One that comes later no longer waits for what takes so long."""

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """An end as by Ctrl-C, that SIGTERM or SIGHUP has asked for."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_status = 128 + number


def in_words(stop: KeyboardInterrupt) -> str:
    """What has happened, and how far things were, as whoever was at work has noted on the exception."""
    return "".join([str(stop) or "interrupted", *getattr(stop, "__notes__", ())])


def status_of(stop: KeyboardInterrupt) -> int:
    """The exit status, as a shell has it."""
    return stop.exit_status if isinstance(stop, Terminated) else 128 + signal.SIGINT


class Interrupts:
    """While this is entered, a signal that asks for an end raises KeyboardInterrupt, or :class:`Terminated`, once.

    If one did, the process is about to end: its last moments are not to be disturbed either, so that the signals are
    ignored from then on. Outside of the main thread, which alone gets signals, this does nothing.

    Attributes:
        terminated: what SIGTERM or SIGHUP has raised; ``None`` if neither came.
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
        """Hear the next signal like the first one: what was interrupted has gone on all the same."""
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
    """While this is entered, a signal waits: what is under way comes to its end, and the signal has its effect then.

    Another that comes later than :data:`PATIENCE_S` does not wait, so that nobody has to sit through a long step.
    Outside of the main thread this does nothing.

    Attributes:
        unbreakable: while this is set, later ones wait, too.
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
    """Write nowhere from now on where a terminal was written to that is gone: to that, writing is an error."""
    for descriptor in range(256):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, descriptor, inheritable=descriptor < 3)
                os.close(nowhere)
