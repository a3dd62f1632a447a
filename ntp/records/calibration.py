"""Runs of identical code, kept: how far they lie from each other is the noise that a stored baseline is judged by.

One file for each machine and software, in the user's cache folder beside the peaks. What is kept is raw.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ntp.case import Case, Count, Frozen
from ntp.records.run import CalibrationKernel, Measurement, write_whole


class CalibratedRun(Frozen):
    """One process of a case: its samples, and the calibration kernel's."""

    step_time_ns: tuple[Count, ...] = Field(min_length=1)
    calibration_kernel: CalibrationKernel


class CalibratedCase(Frozen):
    """Runs of one case, of one code, each in a process of its own."""

    case: Case
    started: str
    """Of the first run. ISO 8601, UTC."""
    runs: tuple[CalibratedRun, ...] = Field(min_length=1)


class Calibration(Frozen):
    """All that was calibrated of one machine with one software."""

    schema_version: Literal[1] = 1
    machine: str
    """:attr:`ntp.records.environment.Machine.fingerprint`."""
    software: str
    """:attr:`ntp.records.environment.Software.fingerprint`."""
    cases: tuple[CalibratedCase, ...] = ()

    def at(self, case: Case) -> CalibratedCase | None:
        """The runs of a case, if there are any."""
        return next((each for each in self.cases if each.case == case), None)

    def updated(self, cases: Sequence[CalibratedCase]) -> "Calibration":
        """With these runs in place of those that are known of the same cases."""
        new = {each.case for each in cases}
        others = (each for each in self.cases if each.case not in new)
        return self.model_copy(update={"cases": (*others, *cases)})


def fingerprints(measurement: Measurement) -> tuple[str, str]:
    """Of machine and software: what a calibration is kept by."""
    environment = measurement.environment
    return environment.machine.fingerprint, environment.software.fingerprint


def load_calibration(folder: Path, machine: str, software: str) -> Calibration:
    """What is kept in a folder for these fingerprints. A file that cannot be used counts as empty."""
    empty = Calibration(machine=machine, software=software)
    try:
        stored = Calibration.model_validate_json(_path(folder, empty).read_bytes())
    except (OSError, ValidationError):
        return empty
    return stored if (stored.machine, stored.software) == (machine, software) else empty


def is_calibrated(folder: Path, machine: str) -> bool:
    """Whether anything is kept of a machine, with whatever software."""
    return any(folder.glob(f"calibration-{machine}-*.json"))


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Replace what is kept.

    Raises:
        RecordError: the file cannot be written.
    """
    write_whole(_path(folder, calibration), calibration.model_dump_json())


def _path(folder: Path, calibration: Calibration) -> Path:
    return folder / f"calibration-{calibration.machine}-{calibration.software}.json"
