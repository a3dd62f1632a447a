import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from ntp.interrupts import PATIENCE_S, HeldBack, Interrupts, Terminated, in_words, status_of

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Set the handlers of a new process, and restore them afterwards."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raise_all(numbers: Sequence[int]) -> None:
    for number in numbers:
        signal.raise_signal(number)


class Clock:
    """A clock that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
)
def test_each_signal_unwinds_the_stack_once(number: int, status: int, words: str):
    cleaned = []

    @contextmanager
    def work() -> Iterator[None]:
        try:
            yield
        finally:
            raise_all(NUMBERS)
            cleaned.append("work")

    with pytest.raises(KeyboardInterrupt) as stop, Interrupts() as interrupts, work():
        signal.raise_signal(number)
    assert cleaned == ["work"]
    assert (status_of(stop.value), in_words(stop.value)) == (status, words)
    assert isinstance(stop.value, Terminated) == (number != signal.SIGINT)
    assert interrupts.terminated is (stop.value if number != signal.SIGINT else None)
    stop.value.add_note("; one is kept")
    assert in_words(stop.value) == f"{words}; one is kept"
    assert {signal.getsignal(number) for number in NUMBERS} == {signal.SIG_IGN}, "the process is at its end"


def test_what_takes_long_can_be_broken_off_later():
    clock = Clock()
    with Interrupts(clock) as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        clock.now_s += PATIENCE_S - 0.1
        signal.raise_signal(signal.SIGINT)
        clock.now_s += 0.2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        interrupts.forget()
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
        interrupts.forget()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_what_is_ignored_or_somebody_elses_is_left_alone():
    heard = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, theirs := lambda number, _: heard.append(number))
    with Interrupts():
        for number in NUMBERS:
            signal.raise_signal(number)
    assert heard == [signal.SIGTERM]
    with HeldBack() as signals:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGINT)
        assert not signals.asked
    assert signal.getsignal(signal.SIGHUP) is signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is theirs


def test_a_signal_that_is_held_back_has_its_effect_at_the_end():
    asked = []

    def step(signals: HeldBack) -> None:
        asked.append(signals.asked)
        raise_all((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        asked.append(signals.asked)

    with pytest.raises(Terminated), Interrupts(), HeldBack() as signals:
        step(signals)
    assert asked == [False, True]


@pytest.mark.parametrize("unbreakable", [False, True])
def test_one_that_comes_much_later_does_not_wait_unless_it_must(unbreakable: bool):
    clock, done = Clock(), []

    def step(signals: HeldBack) -> None:
        signal.raise_signal(signal.SIGINT)
        clock.now_s += PATIENCE_S + 0.1
        signals.unbreakable = unbreakable
        signal.raise_signal(signal.SIGINT)
        done.append("the step")

    with pytest.raises(KeyboardInterrupt), HeldBack(clock) as signals:
        step(signals)
    assert bool(done) == unbreakable
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_is_worth_more_than_a_signal_that_was_held_back():
    def step() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), HeldBack():
        step()


def test_a_terminal_that_is_gone_is_not_written_to():
    body = """
    import sys, time
    from ntp.interrupts import Interrupts
    with Interrupts():
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt as stop:
            print(stop, flush=True)
            print(stop, file=sys.stderr, flush=True)
            open(sys.argv[1], "w").write(str(stop))
    """
    ours, theirs = pty.openpty()
    reading, writing = os.pipe()
    command = [sys.executable, "-c", textwrap.dedent(body), f"/dev/fd/{writing}"]
    # A terminal of its own, that has a process to hang up on.
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, pass_fds=[writing],
        preexec_fn=_take_terminal,
    )  # fmt: skip
    os.close(theirs)
    os.close(writing)
    assert os.read(ours, 100).startswith(b"ready")
    os.close(ours)
    assert os.read(reading, 100) == b"ended by SIGHUP"
    os.close(reading)
    assert process.wait(30) == 0


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
