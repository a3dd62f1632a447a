"""How commands speak: results on stdout, everything else on stderr, and progress where somebody looks on."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


def write(result: str) -> None:
    """A line on stdout."""
    print(result, flush=True)  # noqa: T201  (typer.echo would write past the progress bar, onto its line)


def tell(message: str) -> None:
    """A line on stderr."""
    typer.echo(f"ntp: {message}", err=True)


def tell_if_terminal(message: str) -> None:
    """A line on stderr, if that is a terminal."""
    if sys.stderr.isatty():
        tell(message)


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """A line on stderr that is written anew, if that is a terminal; gives the function that does so."""
    from rich.console import Console

    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with Console(stderr=True).status("starting") as status:
        yield status.update


@contextmanager
def progress_bar(steps: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal; gives the function that moves it to a step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),  # otherwise the bar would draw the results that go to a file or pipe
    ) as progress:
        task = progress.add_task("training", total=steps, completed=done)
        yield lambda step: progress.update(task, completed=step)
