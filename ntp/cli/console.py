"""How commands speak: results on stdout, everything else on stderr, and progress where somebody is watching."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic  # itself: a model may put another in its place

import typer

from ntp.errors import MachineError
from ntp.lines import in_encoding


def show(result: str) -> None:
    """Write text to stdout.

    Raises:
        MachineError: it cannot be written. A reader that leaves is another matter: BrokenPipeError.
    """
    try:
        # typer.echo would write past the progress bar, onto its line.
        sys.stdout.write(in_encoding(result, sys.stdout.encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise MachineError.of(exc, "standard output cannot be written") from exc


def write(result: str) -> None:
    """Write a line to stdout. Raises as :func:`show` does."""
    show(f"{result}\n")


def tell(message: str) -> None:
    """Write a line to stderr. If that fails, nothing is said: no result may be lost for it."""
    with suppress(OSError):
        typer.echo(f"ntp: {message}", err=True)


def tell_more(lines: str) -> None:
    """Write further lines to stderr, below what was told."""
    with suppress(OSError):
        typer.echo(lines, err=True)


def command_line() -> tuple[str, ...]:
    """Return the command as it was typed, for records and pages."""
    return ("ntp", *sys.argv[1:])


def hold_streams() -> None:
    """Keep the numbers of closed standard streams from other files: libraries write there whatever it is.

    What a closed stdout is given fails, as it would have; what a closed stderr is given goes nowhere.
    """
    for name, mode in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, mode)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))


def drain_streams() -> None:
    """Write what is left in the streams. One that refuses it is replaced, or Python would end with its own status."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def tell_if_terminal(message: str) -> None:
    """Write a line to stderr, if that is a terminal."""
    if sys.stderr.isatty():
        tell(message)


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Show a line on stderr, if that is a terminal; yields the function that rewrites it."""
    from rich.console import Console

    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with Console(stderr=True).status("starting") as status:
        yield status.update


@contextmanager
def progress_bar(steps: int, done: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, if that is a terminal; yields the function that moves it to a step."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, get_time=monotonic)
    with Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # otherwise the bar would draw the results that go to a file or pipe
    ) as progress:
        task = progress.add_task("training", total=steps, completed=done)
        yield lambda step: progress.update(task, completed=step)
