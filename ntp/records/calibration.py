"""Runs of identical code: how far they lie from each other is the noise that a stored baseline is judged by.

:mod:`ntp.machine.cache` keeps them, as raw samples.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ntp.case import Case, Count, Frozen
from ntp.records.run import CalibrationKernel, Measurement


class CalibratedRun(Frozen):
    """The samples of one process of a case, and those of the calibration kernel."""

    step_time_ns: tuple[Count, ...] = Field(min_length=1)
    calibration_kernel: CalibrationKernel


class CalibratedCase(Frozen):
    """Runs of one case with the same code, each in a process of its own."""

    case: Case
    started: str
    """The start of the first run: ISO 8601, UTC."""
    runs: tuple[CalibratedRun, ...] = Field(min_length=1)


class Calibration(Frozen):
    """The calibrated cases of one machine with one software."""

    schema_version: Literal[1] = 1
    machine: str
    """:attr:`ntp.records.environment.Machine.fingerprint`."""
    software: str
    """:attr:`ntp.records.environment.Software.fingerprint`."""
    cases: tuple[CalibratedCase, ...] = ()

    def at(self, case: Case) -> CalibratedCase | None:
        return next((calibrated for calibrated in self.cases if calibrated.case == case), None)

    def updated(self, cases: Sequence[CalibratedCase]) -> "Calibration":
        """This calibration with the runs of these cases replaced."""
        new = {calibrated.case for calibrated in cases}
        others = (calibrated for calibrated in self.cases if calibrated.case not in new)
        return self.model_copy(update={"cases": (*others, *cases)})


def fingerprints(measurement: Measurement) -> tuple[str, str]:
    """The fingerprints of machine and software, by which a calibration is kept."""
    environment = measurement.environment
    return environment.machine.fingerprint, environment.software.fingerprint
