"""Options that several commands take, with the same names and the same help everywhere; and how values are read."""

import functools
import inspect
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ntp.case import MAX_NUMBER, Options, Runtime, StepConfig, Workload
from ntp.errors import OptionError

Value = TypeVar("Value")

ALL_CPUS = "all CPUs"
"""Shown as the default number of threads."""

_METAVARS = {"vocab_size": "V", "embed_dim": "E", "hidden_dim": "H", "batch_size": "B", "seq_len": "T", "seed": "N"}
_METAVARS |= {"threads": "N", "interop_threads": "N", "model": "SPEC", "data": "SPEC"}
_PANELS: dict[type[Options], str] = {
    Workload: "What is trained",
    StepConfig: "How a step is computed",
    Runtime: "How the worker is set up",
}
_HIDDEN = ("part",)
MAX_THREADS = 1024
"""More than any machine has."""

DEFAULT_MODEL = Workload().model
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", metavar="SPEC", rich_help_panel=_PANELS[Workload], help=Workload.model_fields["model"].description
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, max=MAX_THREADS, help="Number of torch threads.", show_default="torch's choice"
    ),
]
OrderSeedOption = Annotated[
    int, typer.Option("--order-seed", min=0, max=MAX_NUMBER, metavar="N", help="Random seed of the run order.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def option_of(group: type[Options], field: str) -> inspect.Parameter:
    """Make the option of a field of a case, as a parameter of a command."""
    info = group.model_fields[field]
    kind = info.annotation if info.annotation is int else str
    settings: dict[str, Any] = {"metavar": _METAVARS.get(field, "NAME"), "rich_help_panel": _PANELS[group]}
    default = info.default
    if field == "threads":
        kind, default = int | None, None
        settings |= {"min": 1, "max": MAX_THREADS, "show_default": ALL_CPUS}
    option = typer.Option(f"--{field.replace('_', '-')}", help=info.description, **settings)
    return inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def takes_case(*groups: type[Options]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these parts of a case. It gets their values, by field, as its first argument."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        added = list(_options(groups))
        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [*added, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]

        @functools.wraps(command)
        def with_case(**given: Any) -> None:
            command({option.name: given.pop(option.name) for option in added}, **given)

        # What typer reads.
        with_case.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_case.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_case

    return decorate


def _options(groups: tuple[type[Options], ...]) -> Iterator[inspect.Parameter]:
    for group in groups:
        yield from (option_of(group, field) for field in group.model_fields if field not in _HIDDEN)


def refuse_onto_input(*paths: Path) -> None:
    """Refuse to write standard output onto a file that is read.

    Raises:
        OptionError: naming the file, which a shell's ``>`` has emptied by then; ``>>`` has not.
    """
    with suppress(OSError, ValueError):  # no output, or one that is no file
        output = os.fstat(sys.stdout.fileno())
        for path in paths:
            if stat.S_ISREG(output.st_mode) and path.exists() and os.path.samestat(path.stat(), output):
                raise OptionError(f"{path} is read and written at once: redirect the output to another file")


def reading(read: Callable[[str], Value]) -> Callable[[object], Value]:
    """Make a parser for typer out of one of :mod:`ntp.parsing`.

    Raises:
        typer.BadParameter: the text is refused.
    """

    def parser(text: object) -> Value:
        try:
            return read(str(text))
        except ValueError as error:
            raise typer.BadParameter(f"{error} (got {text!r})") from None

    return parser
