"""Records about this machine that are kept between commands: one file for each kind, machine and software.

The files are in the user's cache folder.
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
    """Return the cache folder: ``ntp`` in XDG_CACHE_HOME if that is absolute, else in ``~/.cache``.

    Raises:
        MachineError: the user has no home directory.
    """
    base = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "ntp"
    home = os.path.expanduser("~")  # "~" itself if it is unknown
    if not os.path.isdir(home):
        raise MachineError("this user has no home directory: set XDG_CACHE_HOME to a folder for a cache")
    return Path(home) / ".cache/ntp"


def load_kept(kind: type[Kept], machine: str, software: str, folder: Path | None = None) -> Kept:
    """Load the record for these fingerprints; an empty one if there is no usable file.

    Args:
        kind: the type of the record.
        machine: :attr:`ntp.records.environment.Machine.fingerprint`.
        software: :attr:`ntp.records.environment.Software.fingerprint`.
        folder: the cache; by default :func:`cache_dir`.
    """
    empty = kind(machine=machine, software=software)
    try:
        stored = kind.model_validate_json(_path(folder, kind, machine, software).read_bytes())
    except (OSError, ValidationError, MachineError):
        return empty
    return stored if (stored.machine, stored.software) == (machine, software) else empty


def save_kept(record: Calibration | MachinePeaks, folder: Path | None = None) -> None:
    """Save the record for its machine and software, and replace the previous one.

    Raises:
        RecordError: the file cannot be written.
        MachineError: the user has no home directory.
    """
    write_whole(_path(folder, type(record), record.machine, record.software), record.model_dump_json())


def _path(folder: Path | None, kind: type[Calibration] | type[MachinePeaks], machine: str, software: str) -> Path:
    return (folder or cache_dir()) / f"{_NAMES[kind]}-{machine}-{software}.json"
