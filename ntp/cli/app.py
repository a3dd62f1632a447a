"""The command line: all commands together, and how they end."""

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Annotated

import typer
from pydantic import ValidationError

import ntp
from ntp.cli.baseline import baseline
from ntp.cli.compare import compare
from ntp.cli.console import drain_streams, hold_streams, tell, tell_more
from ntp.cli.doctor import doctor
from ntp.cli.exit_status import BROKEN_PIPE, INTERRUPTED, TOOL_FAILED, USAGE
from ntp.cli.guard import guard
from ntp.cli.predict import predict
from ntp.cli.profile import profile
from ntp.cli.race import race
from ntp.cli.report import report
from ntp.cli.train import train
from ntp.cli.tune import tune
from ntp.errors import MachineError, NtpError, OptionError, WorkerFailed
from ntp.interrupts import Interrupts, in_words, status_of
from ntp.lines import MESSAGE_CHARACTERS, one_line, shorten

# typer has its usage errors from click up to 0.25, and from a copy of its own since: this names either.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="ntp",
    help=ntp.__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _telling(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command so that an interruption ends it with a line that says so, and with the status of the signal."""

    @functools.wraps(command)
    def told(**options: object) -> None:
        try:
            command(**options)
        except KeyboardInterrupt as stop:  # here, for typer would make an exit status of it, and lose the rest
            tell(in_words(stop))
            raise typer.Exit(status_of(stop)) from stop

    return told


for command in (train, predict, profile, race, guard, tune, report, compare, baseline, doctor):
    app.command()(_telling(command))


@app.callback(invoke_without_command=True)
def _ntp(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"ntp {ntp.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
    else:
        _check_here()


def _check_here() -> None:
    """Refuse a deleted folder here: Python, git and torch's libraries would each fail in it in a way of their own."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise MachineError("the working directory has been deleted: change to one that exists") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: what the user can fix is one line on stderr."""
    hold_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A file or a pipe gets what our files have, in every locale; a terminal, what it can show.
            stream.reconfigure(encoding=stream.encoding if stream.isatty() else "utf-8", errors="backslashreplace")
    try:
        with Interrupts():
            status = app(arguments, prog_name="ntp", standalone_mode=False)
    except NtpError as exc:
        return _fail(exc)
    except _UsageError as exc:
        return _refuse(exc)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except SystemExit as exc:  # typer's own answer to a broken pipe
        return BROKEN_PIPE if isinstance(exc.__context__, BrokenPipeError) else _exit_status(exc)
    except OSError as exc:
        if exc.errno == errno.ENAMETOOLONG:
            return _fail(OptionError(f"the path {exc.filename!r} is too long: choose a shorter one"))
        return _fail(MachineError.of(exc))
    except BaseException:  # noqa: BLE001  (a fault of ntp's own: keep the traceback, but not Python's exit status 1)
        with suppress(OSError):
            traceback.print_exc()
        return TOOL_FAILED
    finally:
        drain_streams()
    return status if isinstance(status, int) else 0


def _fail(exc: NtpError) -> int:
    tell(f"error: {exc.explained()}")
    if isinstance(exc, WorkerFailed) and exc.stderr_tail:
        tell_more(exc.stderr_tail.rstrip())
    return TOOL_FAILED if exc.cause is WorkerFailed or exc.is_machines else USAGE


def _refuse(exc: Exception) -> int:
    cause = exc.__cause__
    given = f" (got {cause.errors()[0]['input']!r})" if isinstance(cause, ValidationError) else ""
    message = exc.format_message().replace("Value error, ", "").rstrip(".")  # type: ignore[attr-defined]
    tell(f"error: {shorten(one_line(message + given), MESSAGE_CHARACTERS)}; see ntp --help")
    return USAGE


def _exit_status(exc: SystemExit) -> int:
    return exc.code if isinstance(exc.code, int) else 0 if exc.code is None else TOOL_FAILED
