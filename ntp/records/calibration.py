"""The runs that a machine remembers: how far runs of identical code lie from each other is the noise between runs.

Every complete sweep of at least two rounds adds one. :mod:`ntp.machine.cache` keeps them, without raw samples.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field

from ntp.case import Amount, Case, Frozen
from ntp.records.run import Measurement, Run

MIN_ROUNDS = 2
"""A run of fewer does not show how far its processes lie from each other."""

KEPT_RUNS = 20
"""How many runs of a case are kept, the last ones."""


_Time = Annotated[Amount, Field(gt=0)]


class RememberedRun(Frozen):
    """What is kept of a case in one run."""

    started: str
    """The start of the run: ISO 8601, UTC. Cases with the same one belong to the same run."""
    code: str
    """Runs with the same code can be compared: its commit, or the start of the command that ran changed files."""
    medians_ns: tuple[_Time, ...] = Field(min_length=MIN_ROUNDS)
    """The median step time of each process."""
    kernel_ns: tuple[_Time | None, ...]
    """The calibration kernel's median in each process. Null where torch refused it."""

    @classmethod
    def of(cls, measurement: Measurement, started: str, code: str) -> Self:
        kernel_ns = kernel_times_ns(measurement)
        return cls(started=started, code=code, medians_ns=measurement.medians_ns, kernel_ns=kernel_ns)


class RememberedCase(Frozen):
    """The last runs of one case."""

    case: Case
    runs: tuple[RememberedRun, ...] = Field(min_length=1)


class Calibration(Frozen):
    """The remembered cases of one machine with one software."""

    schema_version: Literal[2] = 2
    machine: str
    """:attr:`ntp.records.environment.Machine.fingerprint`."""
    software: str
    """:attr:`ntp.records.environment.Software.fingerprint`."""
    cases: tuple[RememberedCase, ...] = ()

    def with_run(self, run: Run, code: str) -> Self:
        """Add those cases of a run that have processes enough, and forget the oldest runs of each."""
        runs: dict[Case, tuple[RememberedRun, ...]] = {remembered.case: remembered.runs for remembered in self.cases}
        for measurement in run.measurements:
            if len(measurement.processes) >= MIN_ROUNDS and fingerprints(measurement) == (self.machine, self.software):
                earlier = [kept for kept in runs.get(measurement.case, ()) if kept.started != run.started]
                kept = (*earlier, RememberedRun.of(measurement, run.started, code))
                runs[measurement.case] = kept[-KEPT_RUNS:]
        return self._of(runs)

    def only(self, cases: Sequence[Case], since: str = "") -> Self:
        """What is remembered of these cases, of the runs that started at that time or later."""
        runs = {
            remembered.case: tuple(run for run in remembered.runs if run.started >= since)
            for remembered in self.cases
            if remembered.case in cases
        }
        return self._of({case: of_case for case, of_case in runs.items() if of_case})

    def _of(self, runs: Mapping[Case, tuple[RememberedRun, ...]]) -> Self:
        cases = tuple(RememberedCase(case=case, runs=of_case) for case, of_case in runs.items())
        return self.model_copy(update={"cases": cases})


def kernel_times_ns(measurement: Measurement) -> tuple[float | None, ...]:
    """Return the calibration kernel's median in each process of a case."""
    kernels = (process.calibration_kernel for process in measurement.processes)
    return tuple(kernel.time_ns if kernel else None for kernel in kernels)


def fingerprints(measurement: Measurement) -> tuple[str, str]:
    """The fingerprints of machine and software, by which a calibration is kept."""
    environment = measurement.environment
    return environment.machine.fingerprint, environment.software.fingerprint


def code_of(run: Run) -> str:
    """Name the code that a run measured: its commit. Files that were changed since could be any code.

    Outside a repository, too, nothing says that two runs measured the same.
    """
    gits = {measurement.environment.git for measurement in run.measurements}
    git = gits.pop() if len(gits) == 1 else None
    return git.commit if git and git.commit and git.dirty is False else f"started {run.started}"
