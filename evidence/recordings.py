"""Recordings of all kinds of evidence: how they are written and read, and how they say when and where they were made.

All scripts in ``evidence`` share this module, and with it their options.
"""

import gzip
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ntp.case import Frozen
from ntp.machine.software import read_git
from ntp.machine.system import read_machine
from ntp.records.environment import Machine
from ntp.report.markup import code, prose
from ntp.report.units import UNKNOWN, duration

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"

NOT_RECORDED = "not recorded"

Row = tuple[str, ...]
"""The cells of a table's row, as Markdown."""

SEED = 0
"""The random seed of every order in which something is measured."""

Again = Annotated[bool, typer.Option("--again", help="Replace what the file holds already.")]
Only = Annotated[str, typer.Option(metavar="NAMES", help="Record only these, separated by commas.")]
FOLDER_HELP = "Folder of the recordings and of the page made of them."


class Provenance(Frozen):
    """When and where a recording was made, and of what code."""

    started: str
    """ISO 8601, UTC."""
    wall_time_s: float
    command: tuple[str, ...]
    commit: str
    machine: Machine


def provenance() -> dict[str, Any]:
    """Return the fields of :class:`Provenance` for a recording that begins now."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_time_s": 0.0,
        "command": ("python", f"evidence/{Path(sys.argv[0]).name}", *sys.argv[1:]),
        "commit": current_commit(),
        "machine": read_machine(),
    }


def current_commit() -> str:
    return read_git().commit or ""


def write(path: Path, text: str) -> None:
    """Write a compressed file whole or not at all. The same text gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-part")
    part.write_bytes(gzip.compress(text.encode(), mtime=0))
    os.replace(part, path)


def read(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()


def origin(started: str | None, took_s: float | None, commits: Iterable[str], machine: Mapping[str, Any] | None) -> Row:
    """Return the cells of a table of files that say when a recording was made, how long it took, and on what."""
    return (
        prose((started or UNKNOWN)[:16].replace("T", " ")),
        UNKNOWN if took_s is None else seconds(took_s),
        ", ".join(code(commit[:12]) for commit in commits) or code(UNKNOWN),
        machine_words(machine),
    )


def machine_words(machine: Mapping[str, Any] | None) -> str:
    return prose(f"{machine['cpu_model']}, {machine['logical_cpus']} CPUs") if machine else UNKNOWN


def seconds(value: float) -> str:
    return duration(value * 1e9)


def tell(message: str) -> None:
    typer.echo(message, err=True)


def new_file(path: Path, again: bool) -> Path:
    """Return the path, unless a recording is there that nobody asked to replace."""
    if path.exists() and not again:
        raise typer.BadParameter(f"{path} is there already: give --again to replace it")
    return path


def chosen(only: str, names: Iterable[str]) -> list[str]:
    """Return the names in a list with commas, or all names where the list is empty."""
    possible = list(names)
    wanted = [name.strip() for name in only.split(",") if name.strip()] or possible
    if unknown := sorted(set(wanted) - set(possible)):
        raise typer.BadParameter(f"{', '.join(unknown)} cannot be recorded: take some of {', '.join(possible)}")
    return wanted


def run(app: typer.Typer) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: temporary files are removed
    app()
