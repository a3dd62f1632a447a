"""What is kept of this machine from one command to the next: one file for each kind, machine and software.

The files lie in the user's own cache folder, and what is in them is raw.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ntp.errors import MachineError
from ntp.records.calibration import Calibration
from ntp.records.peaks import MachinePeaks
from ntp.records.run import write_whole

Kept = TypeVar("Kept", Calibration, MachinePeaks)

_NAMES: dict[type[Calibration] | type[MachinePeaks], str] = {Calibration: "calibration", MachinePeaks: "peaks"}


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The cache folder: ``ntp`` in XDG_CACHE_HOME if that is absolute, else in ``~/.cache``.

    Raises:
        MachineError: the user has no home.
    """
    base = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "ntp"
    home = os.path.expanduser("~")  # itself, where nothing is known
    if not os.path.isdir(home):
        raise MachineError("this user has no home directory: set XDG_CACHE_HOME to a folder for a cache")
    return Path(home) / ".cache/ntp"


def load_kept(kind: type[Kept], machine: str, software: str, folder: Path | None = None) -> Kept:
    """What is kept for these fingerprints; an empty record where there is no file, or none that can be used.

    Args:
        kind: of record.
        machine: :attr:`ntp.records.environment.Machine.fingerprint`.
        software: :attr:`ntp.records.environment.Software.fingerprint`.
        folder: the cache, where it is not :func:`cache_dir`.
    """
    empty = kind(machine=machine, software=software)
    try:
        stored = kind.model_validate_json(_path(folder, kind, machine, software).read_bytes())
    except (OSError, ValidationError, MachineError):
        return empty
    return stored if (stored.machine, stored.software) == (machine, software) else empty


def is_kept(kind: type[Kept], machine: str, folder: Path | None = None) -> bool:
    """Whether there is a file for a machine, with whatever software."""
    try:
        return any((folder or cache_dir()).glob(f"{_NAMES[kind]}-{machine}-*.json"))
    except MachineError:
        return False


def save_kept(record: Calibration | MachinePeaks, folder: Path | None = None) -> None:
    """Replace what is kept for the record's machine and software.

    Raises:
        RecordError: the file cannot be written.
        MachineError: the user has no home.
    """
    write_whole(_path(folder, type(record), record.machine, record.software), record.model_dump_json())


def _path(folder: Path | None, kind: type[Calibration] | type[MachinePeaks], machine: str, software: str) -> Path:
    return (folder or cache_dir()) / f"{_NAMES[kind]}-{machine}-{software}.json"
